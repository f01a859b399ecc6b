/** vmd and vctl as users meet them: a real daemon, real commands, small guests. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { isAlive, TestDaemon, until } from "./testing.ts";

setDefaultTimeout(60_000);

let vmd: TestDaemon;
let echo = "";

beforeAll(async () => {
  vmd = await TestDaemon.start();
  // Echoes what it is sent, by polling; "!" resets it.
  echo = vmd.firmware("echo", "ba fd 03 ec a8 01 74 f8 ba f8 03 ec ee 3c 21 75 f0 b0 fe e6 64");
});

afterAll(() => vmd[Symbol.asyncDispose]());

const start = (name: string, ...more: string[]) =>
  vmd.vctl(["start", "--engine", "unicorn", "-m", "1M", "-b", echo, ...more, name]);
const statusOf = async (name: string) => (await vmd.status()).find((vm) => vm.name === name);
const stop = (name: string) => vmd.vctl(["stop", "-fw", name]);

const repeated = (times: number, ...words: string[]) =>
  Array.from({ length: times }, () => words).flat();

describe("a VM's life", () => {
  test("is started, listed, and stopped by force", async () => {
    const { code, err } = await start("web");
    expect(err).toContain("vctl: starting without disks\n");
    expect(err).toContain("vctl: starting without network interfaces\n");
    expect(err).toMatch(/^vctl: started vm \d+ successfully, tty \/dev\/pts\/\d+$/m);
    expect(code).toBe(0);
    const { out } = await vmd.vctl(["status"]);
    const [head, row] = out.split("\n");
    expect(head).toBe("   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME");
    expect(row).toMatch(/^ {4}\d +\d+ {5}1 {4}1\.0M +\d+(\.\d)?M +pts\/\d+ {9}root  running web$/);
    const [vm] = await vmd.status();
    expect(vm).toMatchObject({ name: "web", state: "running", engine: "unicorn", vcpus: 1 });
    expect(isAlive(vm.pid)).toBe(true);
    const stopped = await vmd.vctl(["stop", "-f", "web"]);
    expect(stopped.err).toBe(`vctl: stopping vm web: forced to terminate vm ${vm.id}\n`);
    await until(() => !isAlive(vm.pid), 5000);
    expect((await vmd.vctl(["status"])).code).toBe(1);
  });

  test("a graceful stop of a guest that says nothing takes three seconds", async () => {
    await start("deaf");
    const before = performance.now();
    const { err } = await vmd.vctl(["stop", "-w", "deaf"]);
    expect(err).toMatch(/^vctl: stopping vm deaf: terminated vm \d+$/m);
    expect(performance.now() - before).toBeGreaterThan(2500);
    expect(performance.now() - before).toBeLessThan(9000);
  });

  test("ids stay a name's own", async () => {
    await start("sticky");
    const [{ id }] = await vmd.status();
    await stop("sticky");
    await start("another");
    await start("sticky");
    const vms = await vmd.status();
    expect(vms.find((vm) => vm.name === "sticky").id).toBe(id);
    expect(vms.map((vm) => vm.id)).toEqual([...vms.map((vm) => vm.id)].sort((a, b) => a - b));
    await vmd.vctl(["stop", "-faw"]);
  });

  test("is paused, doesn't run, and goes on", async () => {
    await start("held");
    const [{ id }] = await vmd.status();
    expect((await vmd.vctl(["pause", "held"])).err).toBe(`vctl: paused vm ${id} successfully\n`);
    expect((await vmd.status())[0].state).toBe("paused");
    expect((await vmd.vctl(["unpause", `${id}`])).err).toBe(
      `vctl: unpaused vm ${id} successfully\n`,
    );
    expect((await vmd.status())[0].state).toBe("running");
    await stop("held");
  });

  test("whoever waits is told when it stops", async () => {
    await start("gone");
    const waiting = vmd.vctl(["wait", "gone"]);
    await Bun.sleep(300);
    await stop("gone");
    const { code, err } = await waiting;
    expect(err).toMatch(/^vctl: waiting for vm gone: terminated vm \d+$/m);
    expect(code).toBe(0);
  });

  test("a guest's reset keeps id, process and terminal", async () => {
    // Waits for an x, resets.
    const code = "ba fd 03 ec a8 01 74 f8 ba f8 03 ec 3c 78 75 f0 b0 fe e6 64 f4";
    const path = vmd.firmware("reset", code);
    await vmd.vctl(["start", "--engine", "unicorn", "-m", "1M", "-b", path, "again"]);
    const before = await statusOf("again");
    await type("again", "x");
    await vmd.logs(/again: the guest reset its machine .*reboots=1/);
    const after = await statusOf("again");
    expect(after).toMatchObject({ id: before.id, pid: before.pid, tty: before.tty, reboots: 1 });
    await stop("again");
  });

  test("three quick resets end a VM", async () => {
    const path = vmd.firmware("restless", "b0 fe e6 64 f4");
    await vmd.vctl(["start", "--engine", "unicorn", "-m", "1M", "-b", path, "restless"]);
    await vmd.logs(/restless: warning: 3 resets within 6 s of each other: stopped/);
    await vmd.logs(/restless: stopped/);
    expect((await vmd.vctl(["status", "restless"])).code).toBe(1);
  });

  test("a VM process that is killed takes nothing with it", async () => {
    await start("victim");
    await start("other");
    const vms = await vmd.status();
    process.kill(vms.find((vm) => vm.name === "victim").pid, "SIGKILL");
    await vmd.logs(/victim: warning: its process ended with SIGKILL/);
    expect(await statusOf("victim")).toBeUndefined();
    expect(await statusOf("other")).toMatchObject({ state: "running" });
    await stop("other");
  });
});

/** Types at a console of vmd, and gives what came back until the end or `pattern`. */
async function type(name: string, text: string, pattern?: RegExp): Promise<string> {
  const child = Bun.spawn(
    [process.execPath, `${import.meta.dir}/../../vctl/index.ts`, "console", name],
    {
      stdio: ["pipe", "pipe", "ignore"],
      env: { ...process.env, VMD_SOCKET: vmd.socket },
    },
  );
  child.stdin.write(text);
  child.stdin.flush();
  let out = "";
  const reading = (async () => {
    for await (const chunk of child.stdout) {
      out += new TextDecoder().decode(chunk);
      if (pattern?.test(out)) break;
    }
  })();
  await Promise.race([reading, Bun.sleep(pattern === undefined ? 400 : 20_000)]);
  try {
    child.stdin.write("\r~.");
    await child.stdin.end();
  } catch {
    // It has ended by itself.
  }
  await child.exited;
  return out;
}

describe("consoles", () => {
  test("come and go, show what was printed before, and several may look", async () => {
    await start("talk");
    expect(await type("talk", "hello", /hello/)).toContain("hello");
    const [first, second] = await Promise.all([
      type("talk", "", /world/),
      type("talk", "world", /world/),
    ]);
    expect(first).toContain("hello");
    expect(first).toContain("world");
    expect(second).toContain("world");
    expect((await vmd.status())[0].state).toBe("running");
    await stop("talk");
  });

  test("the terminal is the console too", async () => {
    await start("tty");
    const { tty } = await statusOf("tty");
    expect(existsSync(tty)).toBe(true);
    expect(statSync(tty).mode & 0o777).toBe(0o620);
    const shell = `exec 3<>${tty}; printf q >&3; head -c1 <&3`;
    const child = Bun.spawn(["timeout", "10", "sh", "-c", shell], { stdout: "pipe" });
    expect(await new Response(child.stdout).text()).toBe("q");
    await stop("tty");
  });

  test("a reader that stalls doesn't stall the guest", async () => {
    // Prints for ever.
    const path = vmd.firmware("flood", "b0 78 ba f8 03 ee eb fd");
    await vmd.vctl(["start", "--engine", "unicorn", "-m", "1M", "-b", path, "flood"]);
    const child = Bun.spawn(
      [process.execPath, `${import.meta.dir}/../../vctl/index.ts`, "console", "flood"],
      { stdio: ["pipe", "pipe", "ignore"], env: { ...process.env, VMD_SOCKET: vmd.socket } },
    );
    const printed = async () =>
      JSON.parse((await vmd.vctl(["show", "--json", "flood"])).out).statistics.printed;
    await Bun.sleep(1000);
    const before = await printed();
    await Bun.sleep(500);
    expect(await printed()).toBeGreaterThan(before + 50_000);
    child.kill("SIGKILL");
    await stop("flood");
  });

  test("start -c shows it from the first byte, and ends with the guest's code", async () => {
    const path = vmd.firmware("exit", "b0 48 ba f8 03 ee b0 0a ee ba f4 00 b0 15 ee f4");
    const { code, out, err } = await vmd.vctl([
      ...["start", "-c", "--engine", "unicorn", "-m", "1M", "--debug-exit", "-b", path, "fw"],
    ]);
    expect(out).toBe("H\n");
    expect(err).toContain("vctl: fw: the guest ended with code 43\n");
    expect(code).toBe(43);
  });
});

describe("disks, images and firmware", () => {
  const disk = () => {
    const path = `${vmd.folder}/disk.img`;
    writeFileSync(path, new Uint8Array(2 ** 20));
    return path;
  };

  test("without a kernel, the host's firmware is booted", async () => {
    const path = disk();
    const args = ["start", "--engine", "unicorn", "-m", "32M", "-d", path, "bios"];
    const { code, err } = await vmd.vctl(args);
    if (err.includes("vmm bios firmware file not found")) {
      console.log("no firmware is installed here (package seabios): its boot isn't tested");
      return;
    }
    expect(code).toBe(0);
    // The disk has no boot sector.
    expect(await type("bios", "", /No bootable device/)).toContain("SeaBIOS (version");
    await stop("bios");
  });

  test("a disk belongs to one VM at a time", async () => {
    const path = disk();
    expect((await start("first", "-d", path)).code).toBe(0);
    const { code, err } = await start("second", "-d", path);
    expect(err).toContain(`could not open disk image(s): ${path}: in use by another VM`);
    expect(code).toBe(1);
    await stop("first");
    expect((await start("second", "-d", path)).code).toBe(0);
    await stop("second");
  });

  test.each([
    [["-d", "/nonexistent"], "/nonexistent: no such file"],
    [["-d", "/tmp"], "could not open disk image(s): /tmp: "],
    [["-r", "/tmp"], "specified iso image is not a regular file: /tmp"],
    [repeated(5, "-d", "/bin/true"), "too many disks"],
    [repeated(5, "-n", "sw"), "too many network interfaces"],
    [["-L", ...repeated(4, "-n", "sw")], "too many network interfaces"],
    [["-i", "5"], "too many network interfaces"],
    [["-i", "/nonexistent"], "/nonexistent: no such file"],
    [["-p", "2"], "this machine has one CPU"],
    [["-p", "0"], "it is no number from 1 to 64"],
    [["-m", "2M"], "memory specified multiple times"],
    [["-b", "/bin/true"], "boot image specified multiple times"],
    [["-B", "floppy"], "Allowed choices are cdrom, disk, net"],
    [["--registers"], "--registers goes with --foreground"],
  ])("start %j is refused", async (args, message) => {
    const { code, err } = await start("wrong", ...args);
    expect(err).toContain(message);
    expect(code).toBe(1);
  });

  test("an interface on a switch that isn't there is refused, and nothing is left", async () => {
    const { code, err } = await start("cards", "-n", "sw");
    expect(err).toContain('switch "sw" not found');
    expect(code).toBe(1);
    expect((await vmd.status()).find(({ name }) => name === "cards")?.state).not.toBe("running");
  });
});

describe("mistakes", () => {
  test.each([
    [["start", "x"], "start vm command failed: no kernel or disk/cdrom specified"],
    [["start", "-b", "/nonexistent", "x"], "/nonexistent: no such file"],
    [["start", "-t", "none", "-b", "/bin/true", "x"], "invalid template"],
    [["start", "777"], "start vm command failed: vm not found"],
    [["stop", "nobody"], "stopping vm nobody: vm not found"],
    [["stop"], "missing vmid argument"],
    [["wait", "nobody"], "vm not found"],
    [["console", "nobody"], "vm not found"],
    [["pause", "nobody"], "pause vm command failed: vm not found"],
    [["pause", "0"], "invalid id: 0"],
    [["status", "-x"], "unknown option '-x'"],
    [["load", "/nonexistent"], "/nonexistent: no such file"],
    [["log", "loud"], "unknown argument: loud"],
    [["reset", "everything"], "unknown argument: everything"],
    [["stop", ".x"], "invalid VM name"],
    [["stop", "x".repeat(64)], "name too long"],
  ])("%j", async (args, message) => {
    const { code, out, err } = await vmd.vctl(args);
    expect(err).toContain(`vctl: ${message}`);
    expect(err).not.toMatch(/\n\s+at /);
    expect(out).toBe("");
    expect(code).toBe(1);
  });

  test("a kernel that is none leaves nothing behind", async () => {
    const { code, err } = await vmd.vctl(["start", "-b", vmd.config, "--format", "linux", "bad"]);
    expect(err).toMatch(/^vctl: start vm command failed: bad: vm\.conf: .*$/m);
    expect(code).toBe(1);
    expect(await statusOf("bad")).toBeUndefined();
  });

  test("a name that runs is not started again", async () => {
    await start("twice");
    const { code, err } = await start("twice");
    expect(err).toContain("start vm command failed: Operation already in progress");
    expect(code).toBe(1);
    await stop("twice");
  });

  test("no daemon: the socket is named", async () => {
    const child = Bun.spawnSync(
      [process.execPath, `${import.meta.dir}/../../vctl/index.ts`, "status"],
      { env: { ...process.env, VMD_SOCKET: "/nonexistent/vmd.sock" } },
    );
    expect(child.stderr.toString()).toBe(
      "vctl: connect: /nonexistent/vmd.sock: No such file or directory\n",
    );
    expect(child.exitCode).toBe(1);
  });
});

test("log, metrics, exits and registers", async () => {
  await start("busy");
  expect((await vmd.vctl(["log", "verb"])).code).toBe(0);
  await vmd.vctl(["status"]);
  await vmd.logs(/request request=status/);
  await vmd.vctl(["log", "brief"]);
  const { out } = await vmd.vctl(["metrics"]);
  expect(out).toMatch(/^vmd_vm_state\{vm="busy",id="\d+",state="running"\} 1$/m);
  expect(out).toMatch(/^# TYPE vmd_vm_exits_total counter$/m);
  const exits = JSON.parse((await vmd.vctl(["exits", "--json", "busy"])).out);
  expect(exits.counts[0]).toMatchObject({ reason: "IO", where: "in 0x3fd/1" });
  expect(exits.counts[0].count).toBeGreaterThan(1000);
  await stop("busy");
});
