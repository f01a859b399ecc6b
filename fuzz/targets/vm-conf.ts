import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../src/vmm/root.ts";
import { Accounts } from "../../src/vmd/accounts.ts";
import { parseConfig } from "../../src/vmd/config/index.ts";
import { must, type Target } from "../own/target.ts";

const folder = mkdtempSync(join(tmpdir(), "fuzz-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const file = join(folder, "vm.conf");
const accounts = new Accounts(
  [
    { name: "root", uid: 0, gid: 0 },
    { name: "alice", uid: 1000, gid: 1000 },
  ],
  [{ name: "staff", gid: 50, members: ["alice"] }],
);
const WORDS =
  'vm switch boot disk memory owner interface local allow instance { } , = \n "web" $m 1G include ' +
  "enable disable up down format device lladdr locked staggered start parallel tap rdomain group " +
  "cdrom share tag append initrd module engine rate burst operations # \\";

export const target: Target = {
  name: "vm-conf",
  about: "configuration files: every error is a sentence about a line that there is",
  maxInput: 4096,
  steps: 3_000_000,
  dictionary: WORDS.split(" ").map((word) => new TextEncoder().encode(word)),
  *seeds() {
    const example = readFileSync(join(root, "examples/vm.conf"));
    yield new Uint8Array(example.subarray(0, 4096));
    const encoder = new TextEncoder();
    yield encoder.encode('m = "1G"\nvm "a" {\n\tmemory $m\n\tdisk "/d" format qcow2\n}\n');
    yield encoder.encode(
      'switch "s" {\n\tinterface bridge0\n\tup\n}\nvm b { owner alice:staff }\n',
    );
    yield encoder.encode(
      'vm c { share "/s" { tag "t" ro allow "a*" } interface { switch "s" } }\n',
    );
    yield encoder.encode("staggered start parallel 3 delay 9\nlocal prefix 10.0.0.0/8\n");
    yield encoder.encode('include "vm.conf"\n');
  },
  run(input) {
    writeFileSync(file, input);
    const { config, errors, warnings } = parseConfig(file, {
      accounts,
      exists: (path) => !path.startsWith("/missing"),
      macros: { m: "interface tap" },
    });
    must((config === undefined) === errors.length > 0, "a configuration with errors, or neither");
    const lines = new TextDecoder().decode(input).split("\n").length;
    for (const { file: named, line, message } of [...errors, ...warnings]) {
      must(
        message.length > 0 && message.length < 1000,
        `a message of ${message.length} characters`,
      );
      // oxlint-disable-next-line no-control-regex
      must(!/[\x00-\x1f]/.test(message), `a message with a control character: ${message}`);
      if (named === file) must(line >= 1 && line <= lines, `line ${line} of ${lines}`);
    }
  },
};
