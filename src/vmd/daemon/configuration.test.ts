/** vmd and its configuration file: a real daemon, real commands. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { root } from "../../vmm/root.ts";
import { readConfiguration } from "./configuration.ts";
import { Log } from "./log.ts";
import type { VmSettings } from "./settings.ts";
import { TestDaemon, until } from "./testing.ts";

setDefaultTimeout(60_000);

const USER = 12_348;

function check(path: string, ...args: string[]) {
  const command = [process.execPath, join(root, "src/vmd/index.ts"), "-n", "-f", path, ...args];
  const { exitCode, stderr } = Bun.spawnSync(command);
  return { code: exitCode, err: stderr.toString() };
}

let vmd: TestDaemon;

const CONFIG = `
staggered start parallel 2 delay 1
spin = "FOLDER/spin"
vm "one" { boot $spin, memory 1M, engine unicorn }
vm "two" { boot $spin, memory 1M, engine unicorn }
vm "three" { boot $spin, memory 2M, engine unicorn }
vm "off" { boot $spin, memory 1M, engine unicorn, disable }
vm "template" {
	boot $spin
	memory 3M
	engine unicorn
	disable
	allow instance { memory, owner ${USER} }
}
vm "users" { boot $spin, memory 1M, engine unicorn, disable, owner ${USER} }
`;

beforeAll(async () => {
  vmd = await TestDaemon.start({ config: CONFIG, delayed: true });
  chmodSync(vmd.firmware("spin", "eb fe"), 0o644);
  await vmd.run();
});
afterAll(() => vmd[Symbol.asyncDispose]());

const states = async () =>
  Object.fromEntries((await vmd.status()).map((vm) => [vm.name, vm.state]));

/** Root can be another user only where that one can read the project. */
const closed =
  process.geteuid!() !== 0 ||
  Bun.which("setpriv") === null ||
  (() => {
    for (let folder = root; folder !== "/"; folder = dirname(folder)) {
      if ((statSync(folder).mode & 0o005) !== 0o005) return true;
    }
    return false;
  })();
if (closed) console.log("tests of users' instances skipped: no other user can be had here");

describe("vmd -n", () => {
  test("says that a file is right, or all that is wrong with it", () => {
    const path = join(vmd.folder, "checked.conf");
    writeFileSync(path, "vm x {\n memory 1G\n disable\n}\n");
    expect(check(path)).toEqual({ code: 0, err: "configuration OK\n" });
    writeFileSync(path, "m = 1\nvm x {\n memory 1\n frob\n}\n");
    expect(check(path)).toEqual({
      code: 1,
      err: [
        `vmd: warning: ${path}:1: macro 'm' not used\n`,
        `vmd: ${path}:3: size must be at least one megabyte\n`,
        `vmd: ${path}:4: syntax error\n`,
      ].join(""),
    });
    writeFileSync(path, "vm x {\n memory $m\n cdrom /cd\n}\n");
    expect(check(path, "-D", "m=1G").code).toBe(0);
    expect(check(path, "-D", "m=1023.5M")).toEqual({
      code: 0,
      err: `vmd: warning: ${path}:2: memory size rounded to 1023M\nconfiguration OK\n`,
    });
    expect(check("/nonexistent.conf")).toEqual({
      code: 1,
      err: "vmd: /nonexistent.conf: no such file\n",
    });
  });
});

test("what vmd -n refuses, vmd doesn't start with: in the same words", async () => {
  const path = join(vmd.folder, "wrong.conf");
  writeFileSync(path, "vm x {\n}\nvm y {\n disable\n}\nvm y instance z {\n}\n");
  const err = [1, 6]
    .map((line) => `vmd: ${path}:${line}: no kernel or disk/cdrom specified\n`)
    .join("");
  expect(check(path)).toEqual({ code: 1, err });
  const socket = join(vmd.folder, "wrong.sock");
  const command = [process.execPath, join(root, "src/vmd/index.ts"), "-d", "--socket", socket];
  const { exitCode, stderr } = Bun.spawnSync([...command, "-f", path]);
  expect(stderr.toString()).toBe(err);
  expect(exitCode).toBe(1);
  expect(existsSync(socket)).toBe(false);
});

describe("configured instances", () => {
  async function settings(text: string): Promise<Record<string, VmSettings>> {
    const path = join(vmd.folder, "instances.conf");
    writeFileSync(path, text.replaceAll("SPIN", join(vmd.folder, "spin")));
    const options = { optional: false, macros: {}, log: new Log("brief", "text", () => {}) };
    const { vms } = await readConfiguration(path, options);
    return Object.fromEntries(vms.map((one) => [one.settings.name, one.settings]));
  }

  test("have what their templates have, but for disks and what only one VM can have", async () => {
    const { base, child, grandchild } = await settings(`
switch "lan" { interface bridge0 }
vm "base" instance "child" {
	disk "/child"
	memory 2M
}
vm "child" instance "grandchild" { disk "/grandchild", append "c", interface }
vm "base" {
	boot "SPIN"
	initrd "SPIN"
	append "a b"
	module "SPIN x y"
	cdrom "/cd"
	boot device cdrom
	disk "/base"
	engine unicorn
	portable tsc 2000000
	owner 7:8
	interface tap3 { switch "lan", lladdr 02:00:00:00:00:01 }
	local interface
	allow instance { instance, memory, owner 7 }
}
`);
    expect(base.interfaces[0]).toMatchObject({ tap: "tap3", lladdr: "02:00:00:00:00:01" });
    const { kernel, initrd, modules, cdrom, bootDevice, machine, owner, instances } = base;
    expect(modules).toEqual([{ path: join(vmd.folder, "spin"), args: "x y" }]);
    expect(machine).toEqual({ engine: "unicorn", portable: true, tscKhz: 2_000_000 });
    expect(owner).toEqual({ uid: 7, gid: 8 });
    const same = { kernel, initrd, modules, cdrom, bootDevice, machine, owner, instances };
    expect(child).toMatchObject({
      ...same,
      disks: [{ path: "/child" }],
      memory: 2 * 2 ** 20,
      cmdline: "a b",
    });
    expect(child.interfaces).toEqual([
      { switch: "lan", local: false },
      { switch: undefined, local: true },
    ]);
    expect(grandchild).toMatchObject({
      ...same,
      disks: [{ path: "/grandchild" }],
      memory: 2 * 2 ** 20,
      cmdline: "c",
    });
    expect(grandchild.interfaces).toMatchObject([{ local: false }]);
  });

  test("have their template's rights only where those are of instances, too", async () => {
    const { a, b } = await settings(
      'vm a { boot "SPIN", allow instance { memory, owner 7 } }\nvm a instance b { }\n',
    );
    expect(a.instances).toMatchObject({ memory: true, owner: { uid: 7 } });
    expect(b.instances).toBeUndefined();
  });
});

test("configured VMs start staggered, in order; disabled ones don't", async () => {
  await until(
    () => /three: started/.test(vmd.log),
    20_000,
    () => vmd.log,
  );
  expect(vmd.log.indexOf("one: started")).toBeLessThan(vmd.log.indexOf("three: started"));
  expect(vmd.log.indexOf("two: started")).toBeLessThan(vmd.log.indexOf("three: started"));
  expect(await states()).toEqual({
    one: "running",
    two: "running",
    three: "running",
    off: "stopped",
    template: "stopped",
    users: "stopped",
  });
  const rows = (await vmd.vctl(["status"])).out.split("\n");
  expect(rows[4]).toMatch(/^ {4}4 {5}- {5}1 {4}1\.0M {7}- {7}- {9}root  stopped off$/);
  expect((await vmd.vctl(["status", "-r"])).out).not.toContain("stopped");
});

test("a configured VM is started by its name, stays when it stops, and starts again", async () => {
  expect((await vmd.vctl(["start", "off"])).err).toMatch(/^vctl: started vm 4 successfully, tty /);
  expect((await states()).off).toBe("running");
  await vmd.vctl(["stop", "-fw", "off"]);
  expect((await states()).off).toBe("stopped");
  expect((await vmd.vctl(["start", "4"])).code).toBe(0);
  await vmd.vctl(["stop", "-fw", "4"]);
});

test("what is given for a start is for that start", async () => {
  await vmd.vctl(["start", "-m", "5M", "off"]);
  const size = async () => (await vmd.status()).find((vm) => vm.name === "off").maxMemory;
  expect(await size()).toBe(5 * 2 ** 20);
  await vmd.vctl(["stop", "-fw", "off"]);
  expect(await size()).toBe(2 ** 20);
});

describe("instances", () => {
  test("are made of a template, and are gone when they stop", async () => {
    const { err, code } = await vmd.vctl(["start", "-t", "template", "copy"]);
    expect(err).toMatch(/^vctl: started vm \d+ successfully/m);
    expect(code).toBe(0);
    const copy = (await vmd.status()).find((vm) => vm.name === "copy");
    expect(copy).toMatchObject({ maxMemory: 3 * 2 ** 20, configured: false });
    await vmd.vctl(["stop", "-fw", "copy"]);
    expect((await states()).copy).toBeUndefined();
  });

  test("need a template, and a name that isn't taken", async () => {
    expect((await vmd.vctl(["start", "-t", "nothing", "x"])).err).toContain(
      "vctl: invalid template",
    );
    expect((await vmd.vctl(["start", "-t", "template", "one"])).err).toContain(
      "start vm command failed: Operation already in progress",
    );
  });

  test.skipIf(closed)("users may make them, within what is allowed", async () => {
    chmodSync(vmd.socket, 0o666);
    const as = (...args: string[]) => vmd.vctl(args, USER);
    expect((await as("start", "-t", "template", "-m", "4M", "theirs")).code).toBe(0);
    const theirs = (await vmd.status()).find((vm) => vm.name === "theirs");
    expect(theirs).toMatchObject({ maxMemory: 4 * 2 ** 20, owner: `${USER}` });
    expect((await as("stop", "-fw", "theirs")).code).toBe(0);
    const spin = join(vmd.folder, "spin");
    for (const args of [
      ["start", "-t", "template", "-b", spin, "x"],
      ["start", "-t", "template", "-L", "x"],
      ["start", "-t", "users", "x"],
      ["start", "off"],
    ]) {
      expect((await as(...args)).err).toContain("Operation not permitted");
    }
  });

  test.skipIf(closed)("users start and stop what they own, as it is", async () => {
    const as = (...args: string[]) => vmd.vctl(args, USER);
    expect((await as("start", "users")).code).toBe(0);
    expect((await as("pause", "users")).code).toBe(0);
    expect((await as("stop", "-fw", "users")).code).toBe(0);
    expect((await as("start", "-m", "64M", "users")).err).toContain("Operation not permitted");
  });
});

test("load adds, reload reads again, reset forgets", async () => {
  const more = join(vmd.folder, "more.conf");
  writeFileSync(more, `vm "more" { boot "${vmd.folder}/spin", memory 1M, engine unicorn }\n`);
  expect((await vmd.vctl(["load", more])).code).toBe(0);
  await vmd.logs(/more: started/);
  writeFileSync(more, "vm x {\n memory 1\n}\n");
  const wrong = await vmd.vctl(["load", more]);
  expect(wrong.err).toBe(`vctl: command failed: ${more}:2: size must be at least one megabyte\n`);
  expect(wrong.code).toBe(1);
  await vmd.vctl(["stop", "-fw", "one"]);
  expect((await vmd.vctl(["reload"])).code).toBe(0);
  await until(() => vmd.log.split("one: started").length === 3, 20_000);
  expect((await states()).more).toBe("running");
  vmd.kill("SIGHUP");
  await until(() => vmd.log.split("configuration reloaded").length === 3, 10_000);
  expect((await vmd.vctl(["reset", "sw"])).code).toBe(0);
  expect((await states()).more).toBe("running");
  expect((await vmd.vctl(["reset", "vms"])).code).toBe(0);
  expect((await vmd.vctl(["status"])).code).toBe(1);
});
