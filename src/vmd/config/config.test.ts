/** vm.conf(5): vmd's own regression cases, and every statement. */
import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../vmm/root.ts";
import { checkGrammar } from "./grammar.ts";
import { format, parseConfig } from "./index.ts";
import { checkTokens } from "./source.ts";
import { keyword } from "./tokens.ts";
import { accounts, cleanUp, config, errors, file, parse, vm } from "./testing.ts";

afterAll(cleanUp);

test("neither words nor grammar have a mistake that chevrotain finds", () => {
  checkTokens();
  checkGrammar();
});

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

  test("memory that is rounded is told", () => {
    const { warnings } = parse(vm("memory 1073741823"));
    expect(warnings.map(({ line, message }) => `${line}: ${message}`)).toEqual([
      "2: memory size rounded to 1023M",
    ]);
    expect(parse(vm("memory 1048576")).warnings).toEqual([]);
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
	disk /d format raw rate 10M burst 1M operations 500
	device balloon, device console, device balloon
	share "/home" { tag work, ro, allow "*.txt", deny "secret*", map user alice }
	cdrom /c
	owner :wheel
	interfaces 4
	local interface tap3 {
		group mine
		locked lladdr FE:E1:BB:D1:12:34
		rdomain 2
		switch "uplink"
		down
		rate 1M, operations 100
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
      devices: ["balloon", "console"],
      shares: [
        {
          path: "/home",
          tag: "work",
          readOnly: true,
          allow: ["*.txt"],
          deny: ["secret*"],
          user: "alice",
        },
      ],
      disks: [
        {
          path: "/d",
          format: "raw",
          limits: { bytes: 10 * 2 ** 20, burst: 2 ** 20, operations: 500 },
        },
      ],
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
      limits: { bytes: 2 ** 20, operations: 100 },
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

  test("owners, as written and as numbers", () => {
    const owner = (text: string) => config(vm(`owner ${text}`)).vms[0].owner;
    expect(owner("alice:staff")).toEqual({ user: "alice", group: "staff", uid: 1000, gid: 50 });
    expect(owner("alice")).toEqual({ user: "alice", uid: 1000 });
    expect(owner(":wheel")).toEqual({ group: "wheel", gid: 0 });
    expect(owner("4000:5000")).toEqual({ user: "4000", group: "5000", uid: 4000, gid: 5000 });
  });

  test("a socket device, once", () => {
    const { vms } = config(vm('vsock "/run/web.sock" cid 42'));
    expect(vms[0].vsock).toEqual({ path: "/run/web.sock", cid: 42 });
    expect(config(vm("memory 1G")).vms[0].vsock).toBeUndefined();
    expect(errors(vm('vsock "/a" cid 2'))[0]).toMatch(/vsock cid/);
    expect(errors(vm('vsock "/a" cid 4294967295'))[0]).toMatch(/vsock cid/);
    expect(errors(vm(`vsock "/${"a".repeat(100)}" cid 3`))[0]).toMatch(/longer than 96 bytes/);
    expect(errors(vm('vsock "/a" cid 3', 'vsock "/b" cid 4'))).toHaveLength(1);
  });

  test("a portable processor, perhaps with a clock rate, once", () => {
    expect(config(vm("portable")).vms[0]).toMatchObject({ portable: {} });
    expect(config(vm("portable tsc 2400000")).vms[0].portable).toEqual({ tscKhz: 2_400_000 });
    expect(config(vm("memory 1G")).vms[0].portable).toBeUndefined();
    for (const rate of ["99999", "8000001", "fast", "-1", "1.5"]) {
      expect(errors(vm(`portable tsc ${rate}`))).toEqual([`2: invalid tsc, in kHz: ${rate}`]);
    }
    expect(errors(vm("portable", "portable tsc 1000000"))).toEqual([
      "3: portable specified more than once",
    ]);
    expect(errors(vm("tsc 1000000"))).toEqual(["2: syntax error"]);
    expect(errors(vm("portable 1000000"))).toEqual(["2: syntax error"]);
    // A name may be a keyword of ours where a string can be.
    expect(config('vm "tsc" { append "portable" }\n').vms[0].append).toBe("portable");
  });

  test("a statement that lacks its value is one error, and no other", () => {
    for (const word of [
      ...["boot", "boot device", "disk", "cdrom", "memory", "owner", "cpus", "interfaces"],
      ...[
        "initrd",
        "append",
        "module",
        "engine",
        "device",
        "allow",
        "allow instance",
        "local",
        "locked",
      ],
      ...["vsock", "vsock /a", "vsock /a cid", "portable tsc"],
      ...["disk /d format", "interface { switch }", "interface { group }"],
      ...["interface { rdomain }", "allow instance { owner }", "allow instance { nothing }"],
    ]) {
      const found = errors(vm("memory 1G", word, "disk /e"));
      expect([word, ...found.slice(0, 1)]).toEqual([word, "3: syntax error"]);
      expect(found.filter((one) => !one.endsWith("syntax error"))).toEqual([]);
    }
    for (const word of [
      "socket owner",
      "local",
      "local prefix",
      "staggered start",
      "agentx path",
    ]) {
      expect(errors(`${word}\n`)).toEqual(["1: syntax error"]);
    }
    expect(errors("switch s {\n group\n interface br0\n}\n")).toEqual(["2: syntax error"]);
  });

  test("statements need a comma or a line between them", () => {
    expect(errors("vm x { memory 1G disable }\n")).toEqual(["1: syntax error"]);
    expect(errors("vm x { memory 1G } vm y { memory 1G }\n")).toEqual(["1: syntax error"]);
    expect(errors("vm x {\n interface { up down }\n}\n")).toEqual(["2: syntax error"]);
    expect(config("vm x { memory 1G, disable, }\nvm y { ,\n, }\n").vms).toHaveLength(2);
  });

  test("more VMs than there may be are one error", () => {
    const many = (count: number) =>
      Array.from({ length: count }, (_, i) => `vm v${i} { disable }\n`).join("");
    expect(config(many(1024)).vms).toHaveLength(1024);
    expect(errors(many(1100))).toEqual(["1025: more than 1024 VMs"]);
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
    ['vm "x', ["1: string without end", "1: syntax error"]],
    [vm("owner root:wheel:staff"), ["2: invalid owner: root:wheel:staff"]],
    [vm("owner alice:"), ["2: unknown group: "]],
    [vm("owner 4294967295"), ["2: unknown user: 4294967295"]],
    [vm("initrd /missing"), ["2: initrd path not found: /missing"]],
    [vm('module "/missing a b"'), ["2: module path not found: /missing"]],
    [vm("engine bochs"), ["2: unknown engine: bochs"]],
    [vm('share "/a" { rw }'), ["2: share /a: its tag has to have 1 to 255 bytes"]],
    [vm('share "a" { tag x }'), ["2: share: a is no absolute path"]],
    [vm('share "/a" { tag x }', 'share "/b" { tag x }'), ["3: another share has the tag x"]],
    [vm('share "/a" { tag x, map user nobodyhere }'), ["2: unknown user: nobodyhere"]],
    [vm("device lamp"), ["2: unknown device: lamp"]],
    [vm("disk /d rate much"), ["2: much is no size such as 10M"]],
    [vm("disk /d operations 0"), ["2: operations: 0 is no number from 1 on"]],
    [vm(...Array<string>(17).fill("module /m")), ["18: too many modules"]],
    [vm(`append "${"x".repeat(5000)}"`), ["2: command line too long"]],
    ["vm 12 {\n}\n", ["1: invalid VM name: 12"]],
    ["vm .x {\n}\n", ["1: invalid VM name: .x"]],
    ["vm a instance a {\n}\n", ['1: vm "a" is an instance of itself']],
    [
      "vm a instance b {\n}\nvm b instance a {\n}\n",
      ['1: vm "b" is an instance of itself', '3: vm "a" is an instance of itself'],
    ],
    [
      "vm a {\n disk /d\n}\nvm a instance b {\n disk /d\n}\n",
      ["4: an instance can't have a disk of its template"],
    ],
    [
      "vm a {\n interface { lladdr 2:0:0:0:0:1 }\n}\nvm a instance b {\n interface { lladdr 02:00:00:00:00:01 }\n}\n",
      ["4: an instance can't have a link address of its template"],
    ],
    [
      "switch s { interface br0 }\nswitch s { interface br0 }\n",
      [expect.stringMatching(/^2: .*twice.*:1\)$/)],
    ],
    [`switch ${"s".repeat(64)} { interface br0 }\n`, ["1: switch name too long"]],
    ["switch s { interface br0, interface br1 }\n", ["1: interface specified more than once"]],
    ["local prefix 10.0.0.0/8/9\n", ["1: invalid local prefix: 10.0.0.0/8/9"]],
    ["local inet6 prefix fd00::\n", ["1: invalid local inet6 prefix: fd00::"]],
    ["local inet6 prefix ::1]?[/64\n", ["1: invalid local inet6 prefix: ::1]?[/64"]],
    [`agentx context ${"c".repeat(33)}\n`, ["1: agentx context too large"]],
    [vm(`boot "/${"x".repeat(300)}"`, "boot device floppy"), ["3: syntax error"]],
  ])("%j is refused", (text, wanted) => {
    const found = errors(text).map((error) => error.replaceAll(file, "FILE"));
    expect(found).toEqual(wanted as string[]);
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

test("the example is right, and has every statement", () => {
  const example = join(root, "examples/vm.conf");
  const { errors: wrong, warnings } = parseConfig(example, { accounts, exists: () => true });
  expect([...wrong, ...warnings].map(format)).toEqual([]);
  const without = new Set<string>(["add", "id", "net", "sev", "seves", "size"]);
  const said = readFileSync(example, "utf8").split(/[\s{},#]+/);
  for (const word of Object.keys(keyword)) {
    if (!without.has(word)) expect(said).toContain(word);
  }
});

describe("disks and interfaces say more than vmd's", () => {
  test("a disk may be read-only", () => {
    const [one] = config(vm('disk "/a" format raw ro rate 1M', 'disk "/b" operations 3 rw')).vms;
    expect(one.disks).toEqual([
      { path: "/a", format: "raw", readOnly: true, limits: { bytes: 2 ** 20 } },
      { path: "/b", format: undefined, limits: { operations: 3 } },
    ]);
  });

  test("an interface has port forwards", () => {
    const [one] = config(
      vm("local interface { forward 2222:22", "forward 0.0.0.0:53:5353/udp }"),
    ).vms;
    expect(one.interfaces[0].forwards).toEqual([
      { protocol: "tcp", address: "127.0.0.1", port: 2222, guestPort: 22 },
      { protocol: "udp", address: "0.0.0.0", port: 53, guestPort: 5353 },
    ]);
  });

  test("wrong forwards have a line", () => {
    expect(errors(vm("interface { forward 22 }"))).toEqual([
      "2: 22 is no port forward such as 2222:22 or 0.0.0.0:5353:53/udp",
    ]);
    expect(errors(vm("interface { forward 1:2", "forward 1:3 }"))).toEqual([
      "3: port forward 127.0.0.1:1:3/tcp: the host's port leads elsewhere",
    ]);
    expect(errors(vm("interface tap3 { forward 1:2 }"))).toEqual([
      "2: forward is for user-mode networks, not for a switch or a tap",
    ]);
  });
});
