/** vm.conf(5): vmd's own regression cases, and every statement. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../vmm/root.ts";
import { Accounts } from "../accounts.ts";
import { type Config, format, parseConfig } from "./index.ts";

setDefaultTimeout(120_000);

let folder = "";
let file = "";
const accounts = new Accounts(
  [
    { name: "root", uid: 0, gid: 0 },
    { name: "alice", uid: 1000, gid: 1000 },
  ],
  [
    { name: "wheel", gid: 0, members: [] },
    { name: "staff", gid: 50, members: ["alice"] },
  ],
);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "config-"));
  file = join(folder, "vm.conf");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const exists = (path: string) => !path.startsWith("/missing");

function parse(text: string, macros?: Record<string, string>) {
  writeFileSync(file, text);
  return parseConfig(file, { accounts, exists, macros });
}

function config(text: string, macros?: Record<string, string>): Config {
  const { config: found, errors } = parse(text, macros);
  expect(errors.map(format)).toEqual([]);
  return found as Config;
}

/** Errors without the file's name. */
function errors(text: string): string[] {
  const result = parse(text);
  expect(result.config).toBeUndefined();
  return result.errors.map((error) => format(error).replace(`${file}:`, ""));
}

const vm = (...lines: string[]) => `vm "test" {\n${lines.map((line) => `\t${line}\n`).join("")}}\n`;

describe("vmd's regression cases", () => {
  test.each([
    ["boot", vm('boot "/bsd"'), { boot: "/bsd" }],
    ["cdrom", vm('cdrom "/cd.iso"'), { cdrom: "/cd.iso" }],
    [
      "format",
      vm('disk "/a" format "raw"', "disk /b format qcow2"),
      {
        disks: [
          { path: "/a", format: "raw" },
          { path: "/b", format: "qcow2" },
        ],
      },
    ],
    ["memory is rounded", vm("memory 1048577"), { memory: 1048576 }],
    ["memory is just enough", vm("memory 1048576"), { memory: 1048576 }],
  ])("good: %s", (_, text, wanted) => {
    expect(config(text).vms[0]).toMatchObject(wanted as object);
  });

  test.each([
    ["kernel is no keyword", vm('kernel "/bsd"'), "2: syntax error"],
    ["too little memory", vm("memory 1048575"), "2: size must be at least one megabyte"],
    ["a VM's name too long", `vm "${"x".repeat(64)}" {\n}\n`, "1: vm name too long"],
    ["too many interfaces", vm(...Array<string>(5).fill("interface")), "6: too many interfaces: 5"],
    ["a kernel's name too long", vm(`boot "/${"x".repeat(1024)}"`), "2: kernel name too long"],
    ["a disk's path too long", vm(`disk "/${"x".repeat(1024)}"`), "2: disk path too long"],
    ["too many disks", vm(...Array<string>(5).fill('disk "/d"')), "6: too many disks"],
    [
      "a switch without interface",
      'switch "sw" {\n\tenable\n}\n',
      '1: switch "sw" is missing interface name',
    ],
    [
      "add in a switch",
      'switch "sw" {\n\tinterface bridge0\n\tadd vether0\n}\n',
      "3: syntax error",
    ],
    ["a cdrom's name too long", vm(`cdrom "/${"x".repeat(1024)}"`), "2: cdrom name too long"],
    ["a bad format", vm('disk "/d" format "bogus"'), "2: unrecognized disk format bogus"],
    ["a missing format", vm('disk "/d" format'), "2: syntax error"],
  ])("bad: %s", (_, text, message) => {
    expect(errors(text)).toEqual([message]);
  });
});

describe("statements", () => {
  test("global ones", () => {
    const text = `
agentx context "vmd" path "/var/agentx/master"
local prefix 10.1.0.0/12
local inet6 prefix fd00:1::/64
socket owner alice:staff
staggered start parallel 3 delay 5
`;
    expect(config(text)).toMatchObject({
      agentx: { context: "vmd", path: "/var/agentx/master" },
      localPrefix: { address: "10.1.0.0", length: 12 },
      localInet6: { prefix: "fd00:1::/64" },
      socketOwner: { uid: 1000, gid: 50 },
      staggered: { parallel: 3, delay: 5 },
    });
    expect(config("")).toEqual({
      vms: [],
      switches: [],
      localPrefix: { address: "100.64.0.0", length: 10 },
    });
    expect(config("local inet6\nlocal prefix 10.0.0.0\n")).toMatchObject({
      localInet6: {},
      localPrefix: { length: 16 },
    });
  });

  test("a VM with everything", () => {
    const text = `
switch "uplink" { interface veb0, locked lladdr, rdomain 3, group "net", down, disable }
vm "all" {
	disable
	memory 1.5G; # no: a semicolon is part of the word
}
`;
    expect(errors(text)).toEqual(["5: invalid size: 1.5G;"]);
    const [one] = config(`
switch "uplink" { interface veb0, locked lladdr, rdomain 3, group "net", down, disable }
vm "all" {
	disable, memory 1.5G
	boot "/b" "sd", boot device net
	initrd /i, append "console=ttyS0 quiet", module "/m a b", engine unicorn
	disk /d
	cdrom /c
	owner :wheel
	interfaces 4
	local interface tap3 {
		group mine
		locked lladdr FE:E1:BB:D1:12:34
		rdomain 2
		switch "uplink"
		down
	}
	interface { lladdr }
	allow instance { boot, cdrom, cpus, disk, instance, interface, memory, owner alice }
}
`).vms;
    expect(one).toMatchObject({
      name: "all",
      enable: false,
      memory: 1.5 * 2 ** 30,
      boot: "/bsd",
      bootDevice: "net",
      initrd: "/i",
      append: "console=ttyS0 quiet",
      modules: ["/m a b"],
      engine: "unicorn",
      owner: { gid: 0 },
      instances: { boot: true, instance: true, memory: true, owner: { uid: 1000 } },
      line: 3,
    });
    expect(one.interfaces).toHaveLength(4);
    expect(one.interfaces[0]).toEqual({
      local: true,
      tap: "tap3",
      group: "mine",
      lladdr: "fe:e1:bb:d1:12:34",
      lockedLladdr: true,
      rdomain: 2,
      switch: "uplink",
      up: false,
    });
  });

  test("instances", () => {
    const { vms } = config('vm "a" {\n allow instance { boot }\n}\nvm "a" instance "b" {\n}\n');
    expect(vms.map(({ name, parent }) => [name, parent])).toEqual([
      ["a", undefined],
      ["b", "a"],
    ]);
    expect(vms[0].instances).toMatchObject({ boot: true, instance: false });
  });

  test.each([
    ["vm {\n}\n", ["1: syntax error"]],
    ['vm "a" {\n}\nvm "a" {\n}\n', ['3: vm "a" defined twice (before at FILE:1)']],
    ['vm "a" instance "b" {\n}\n', ['1: vm "a" not found for instance "b"']],
    [vm("interface { switch nowhere }"), ['1: switch "nowhere" not found']],
    [vm("interface eth0"), ["2: invalid interface: eth0"]],
    [vm("interface { lladdr 1:2:3 }"), ["2: invalid lladdr: 1:2:3"]],
    [vm("interface { group net0 }"), [expect.stringMatching(/must not end in a digit/)]],
    [vm("owner nobodyhere"), ["2: unknown user: nobodyhere"]],
    [vm("owner alice:nogroup"), ["2: unknown group: nogroup"]],
    [vm("boot /missing"), ["2: kernel path not found: /missing"]],
    [vm("boot /a", "boot /b"), ["3: kernel specified more than once"]],
    [vm("memory 1G", "memory 2G"), ["3: memory specified more than once"]],
    [vm("memory 1T"), ["2: memory size too large (limit is 128G)"]],
    [vm("cpus 65"), ["2: invalid number of cpus: 65"]],
    [vm("cpus 2"), ["2: this machine has one CPU"]],
    [vm("interfaces 5"), ["2: invalid number of interfaces: 5"]],
    [vm("sev"), [expect.stringMatching(/SEV guests need hardware/)]],
    ["local prefix 10.0.0.0/24\n", ["1: invalid local prefix: 10.0.0.0/24"]],
    ["local prefix 300.0.0.0/8\n", ["1: invalid local prefix: 300.0.0.0/8"]],
    ["local inet6 prefix fd00::/80\n", ["1: invalid local inet6 prefix: fd00::/80"]],
    ["agentx path relative\n", ["1: path is not absolute"]],
    ["staggered start parallel 0 delay 1\n", ["1: invalid parallelism: 0"]],
    ['include "nowhere"\n', [expect.stringMatching(/^1: .*nowhere: no such file$/)]],
    ['vm "x', [expect.stringMatching(/^1: /)]],
  ])("%j is refused", (text, wanted) => {
    const found = errors(text).map((error) => error.replaceAll(file, "FILE"));
    expect(found.slice(0, wanted.length)).toEqual(wanted as string[]);
  });

  test("all errors of a file come in one run, each at its line", () => {
    const text = `vm "a" {
	kernel x
	memory 1
	disk "/d" format bogus
}
nonsense here
switch "s" {
}
vm "b" {
	owner nobodyhere
	boot /ok
}
`;
    expect(errors(text)).toEqual([
      "2: syntax error",
      "3: size must be at least one megabyte",
      "4: unrecognized disk format bogus",
      "6: syntax error",
      '7: switch "s" is missing interface name',
      "10: unknown user: nobodyhere",
    ]);
  });
});

describe("words", () => {
  test("macros, also over the file's, and what is wrong with them", () => {
    const text = 'big = "2G"\nkernel = /bsd\nvm "x" {\n memory $big\n boot $kernel\n}\n';
    expect(config(text).vms[0]).toMatchObject({ memory: 2 ** 31, boot: "/bsd" });
    expect(config(text, { big: "1G" }).vms[0]).toMatchObject({ memory: 2 ** 30 });
    expect(parse('spare = "1"\n').warnings.map(({ message }) => message)).toEqual([
      "macro 'spare' not used",
    ]);
    expect(errors("boot = 1\n")).toEqual(["1: 'boot' is a keyword, no macro"]);
    expect(errors(vm("memory $size"))[0]).toBe("2: macro 'size' not defined");
  });

  test("a macro may be several words", () => {
    const text =
      'card = "interface { switch sw }"\nswitch sw { interface br0 }\nvm x {\n $card\n}\n';
    expect(config(text).vms[0].interfaces).toMatchObject([{ switch: "sw" }]);
  });

  test("comments, continued lines, quotes", () => {
    const text = '# first\nvm x { # here\n append "a \\"b\\" c" \'d\'\n memory \\\n 1G\n}\n';
    expect(config(text).vms[0]).toMatchObject({ append: 'a "b" cd', memory: 2 ** 30 });
    expect(errors("vm x {\n memory \\\n 5\n}\n")).toEqual([
      "3: size must be at least one megabyte",
    ]);
  });

  test("includes, from the including file's folder, with their own lines", () => {
    mkdirSync(join(folder, "d"), { recursive: true });
    writeFileSync(join(folder, "d/inner.conf"), 'name = "inner"\ninclude "last.conf"\n');
    writeFileSync(join(folder, "d/last.conf"), "vm $name {\n memory 1G\n}\nvm bad {\n cpus 0\n}");
    const { errors: found } = parse('include "d/inner.conf"\n');
    expect(found.map(format)).toEqual([
      `${join(folder, "d/last.conf")}:5: invalid number of cpus: 0`,
    ]);
    writeFileSync(join(folder, "d/last.conf"), 'include "inner.conf"\n');
    expect(parse('include "d/inner.conf"\n').errors[0].message).toBe("inner.conf includes itself");
  });

  test("a file that is too long, none at all, or a folder is one error", () => {
    expect(errors("#".repeat(2 ** 20 + 1))[0]).toMatch(/too long/);
    expect(parseConfig(join(folder, "none")).errors[0].message).toBe("no such file");
    expect(parseConfig(folder).errors[0].message).toBe("is a directory");
  });
});

test("the example is right", () => {
  const result = parseConfig(join(root, "examples/vm.conf"), { accounts, exists: () => true });
  expect(result.errors.map(format)).toEqual([]);
  expect(result.config?.vms.length).toBeGreaterThan(2);
});

const words = [
  ..."vm switch boot disk memory owner interface local allow instance { } , = \n \n".split(" "),
  '"web"',
  "'x'",
  "$m",
  "1G",
  "10.0.0.0/8",
  "include",
  "#",
  "\\\n",
  '"',
  "format",
  "device",
  "lladdr",
  "staggered start parallel",
];

test("10,000 files of words in any order never throw or hang, and errors name a line of the file", () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.constantFrom(...words), fc.string()), { maxLength: 60 }),
      fc.constantFrom(" ", "", "\n"),
      (parts, glue) => {
        const text = parts.join(glue);
        const { errors: found } = parse(text);
        const lines = text.split("\n").length;
        for (const error of found) {
          expect(error.line).toBeGreaterThanOrEqual(0);
          expect(error.line).toBeLessThanOrEqual(lines);
          expect(error.message).not.toContain("\n");
        }
      },
    ),
    { seed: 20261128, numRuns: 7000 },
  );
  const example = readFileSync(join(root, "examples/vm.conf"), "utf8");
  fc.assert(
    fc.property(fc.nat(example.length), fc.nat(40), fc.string({ maxLength: 8 }), (at, cut, by) => {
      const text = example.slice(0, at) + by + example.slice(at + cut);
      for (const error of parse(text).errors) {
        expect(error.line).toBeLessThanOrEqual(text.split("\n").length);
      }
    }),
    { seed: 20261128, numRuns: 3000 },
  );
});

test("what is written from data is read as the data", () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9._-]{0,20}$/);
  const machine = fc.record({
    memory: fc.integer({ min: 1, max: 1000 }),
    disks: fc.array(fc.stringMatching(/^\/[a-z0-9/ ."'\\]{1,30}$/), { maxLength: 4 }),
    enable: fc.boolean(),
    append: fc.string({ maxLength: 50 }).filter((text) => !/[\n\r]/.test(text)),
  });
  const quote = (text: string) => `"${text.replaceAll(/[\\"]/g, "\\$&")}"`;
  fc.assert(
    fc.property(fc.dictionary(name, machine, { maxKeys: 5 }), (machines) => {
      const text = Object.entries(machines)
        .map(([key, { memory, disks, enable, append }]) => {
          const lines = [`memory ${memory}M`, enable ? "enable" : "disable"];
          lines.push(...disks.map((path) => `disk ${quote(path)}`), `append ${quote(append)}`);
          return `vm ${quote(key)} {\n${lines.join("\n")}\n}\n`;
        })
        .join("");
      const { vms } = config(text);
      expect(vms.map((one) => one.name)).toEqual(Object.keys(machines));
      for (const one of vms) {
        const { memory, disks, enable, append } = machines[one.name];
        expect(one.memory).toBe(memory * 2 ** 20);
        expect(one.disks.map(({ path }) => path)).toEqual(disks);
        expect([one.enable, one.append]).toEqual([enable, append]);
      }
    }),
    { seed: 20261128, numRuns: 500 },
  );
});
