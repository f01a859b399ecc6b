/** What the processes of `vctl fuzz` can't do while a guest runs in them, tried by a structure's module. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { probe } from "../../src/vmm/engine.ts";
import { root } from "../../src/vmm/root.ts";
import { inputName, unconfined } from "../campaign/index.ts";
import { buildBare, buildMissing, TLV_SOURCES } from "../harness/build.ts";

setDefaultTimeout(60_000);

const unicorn = probe("unicorn");
const why = (unicorn.available ? buildMissing() : unicorn.why) ?? unconfined();
if (why !== undefined) console.log(`confined guests skipped: ${why}`);
const kvm = probe("kvm").available;

const VCTL = join(root, "src/vctl/index.ts");
const CALLS = ["open", "create", "socket", "fork", "kill", "setuid", "mprotect"];
const REFUSED = {
  ...{ open: "EACCES", create: "EACCES", socket: "EPERM", fork: "EPERM", kill: "EPERM" },
  ...{ setuid: "EPERM", mprotect: "EPERM" },
};

let folder = "";
let tlv = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "fuzz-modes-"));
  if (why !== undefined) return;
  tlv = buildBare(TLV_SOURCES, join(folder, "tlv.elf"));
  const input = Uint8Array.of(1, 2, 3, 4);
  mkdirSync(join(folder, "corpus/queue"), { recursive: true });
  writeFileSync(join(folder, "corpus/queue", inputName(input)), input);
  writeFileSync(
    join(folder, "probe.ts"),
    `import fc from ${JSON.stringify(join(root, "node_modules/fast-check/lib/fast-check.js"))};
     import { writeSync } from "node:fs";
     import { prepareProbe } from ${JSON.stringify(join(root, "src/vmd/sandbox-probe.ts"))};
     const probe = prepareProbe();
     let tried = false;
     export const arbitrary = fc.array(fc.nat(255));
     export const encode = (bytes) => {
       if (!tried) {
         const came = ${JSON.stringify(CALLS)}.map((what) => [what, probe(what)]);
         writeSync(2, "probe " + JSON.stringify(Object.fromEntries(came)) + "\\n");
       }
       tried = true;
       return Uint8Array.from(bytes);
     };`,
  );
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(why !== undefined)(
  "while a guest runs, nothing else can be done by vctl fuzz",
  () => {
    const corpus = ["--corpus", "corpus"];
    test.each([
      ["--run", () => ["--run", join("corpus/queue", inputName(Uint8Array.of(1, 2, 3, 4))), "--"]],
      ["--drcov", () => [...corpus, "--drcov", "drcov"]],
      ["--lcov", () => [...corpus, "--lcov", "lcov"]],
      ["--cmin", () => [...corpus, "--cmin"]],
      ["--compare", () => [...corpus, "--compare", kvm ? "kvm" : "unicorn"]],
    ])("%s", (_, args) => {
      const { exitCode, stderr } = Bun.spawnSync(
        [
          ...[process.execPath, VCTL, "fuzz", "-m", "16M", "-y", tlv],
          ...["--structure", "probe.ts", ...args(), tlv],
        ],
        { cwd: folder, timeout: 50_000 },
      );
      const [, came] = /^probe (.*)$/m.exec(stderr.toString()) ?? [];
      expect(stderr.toString()).toContain("probe ");
      expect(JSON.parse(came)).toEqual(REFUSED);
      expect(exitCode).toBe(0);
    });
  },
);
