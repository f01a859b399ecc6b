/** VMs as values: start, stop, pause, questions, and what happens when these meet. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm, type VmOptions } from "../index.ts";
import { SCROLLBACK } from "./console-hub.ts";

setDefaultTimeout(60_000);

let folder = "";
let options: VmOptions;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "vm-"));
  // Echoes what it is sent, by polling; "!" resets it.
  options = guest("echo", "ba fd 03 ec a8 01 74 f8 ba f8 03 ec ee 3c 21 75 f0 b0 fe e6 64");
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function guest(name: string, code: string): VmOptions {
  const bytes = new Uint8Array(4096).fill(0xf4);
  bytes.set(Uint8Array.fromHex(code.replaceAll(" ", "")), 0);
  bytes.set([0xe9, 0x0d, 0xf0], 0xff0);
  const kernel = join(folder, name);
  writeFileSync(kernel, bytes);
  return { name, kernel, memory: "1M", engine: "unicorn" };
}

test("input comes back, across a reset too", async () => {
  await using vm = await Vm.start(options);
  vm.console.send("ab");
  await vm.console.expect("ab");
  vm.console.send("!");
  await vm.console.expect("!");
  vm.console.send("c");
  for (let i = 0; i < 100 && !vm.console.pending.includes("c"); i++) {
    await Bun.sleep(20);
    vm.console.send("c");
  }
  await vm.console.expect("c");
});

test("a paused guest does nothing, an unpaused one goes on", async () => {
  await using vm = await Vm.start(options);
  vm.pause();
  vm.console.send("x");
  await vm.statistics();
  await Bun.sleep(100);
  expect(vm.console.pending).toBe("");
  vm.unpause();
  await vm.console.expect("x");
});

test("registers and statistics are told while it runs, and refused when it is gone", async () => {
  const vm = await Vm.start(options);
  expect(await vm.registers()).toMatch(/^rax {4}[0-9a-f]{16}/);
  vm.console.send("q");
  await vm.console.expect("q");
  expect((await vm.statistics()).exits).toBeGreaterThan(0);
  expect(await vm.stop()).toMatchObject({ kind: "stopped", code: 0 });
  expect(vm.registers()).rejects.toThrow("echo is not running");
  expect(await vm.stop()).toMatchObject({ kind: "stopped" });
});

test("a guest's resets are events, its exits are counted, and its process has a pid", async () => {
  await using vm = await Vm.start(options);
  const events: string[] = [];
  const end = vm.onEvent((event) => events.push(event.kind));
  vm.console.send("!");
  for (let i = 0; i < 100 && events.length === 0; i++) await Bun.sleep(20);
  expect(events).toEqual(["rebooted"]);
  end();
  const [first] = await vm.exits(100);
  expect(first).toMatchObject({ reason: "IO", where: "in 0x3fd/1" });
  expect(first.count).toBeGreaterThan(100);
  expect(vm.pid).toBeGreaterThan(1);
  expect(vm.unconfined).toBe("");
});

test("stopping a busy guest again and again meets no closed engine", async () => {
  for (let i = 0; i < 60; i++) {
    const vm = await Vm.start(options);
    for (let j = 0; j < i % 7; j++) vm.console.send("x");
    const stopped = vm.stop();
    vm.console.send("y");
    vm.unpause();
    expect((await stopped).kind).toBe("stopped");
  }
});

test("VMs leave no descriptor and no thread behind", async () => {
  const count = () =>
    ["fd", "task"].map((kind) => readdirSync(`/proc/self/${kind}`).length).join(" ");
  const some = async () => {
    const vms = await Promise.all(Array.from({ length: 4 }, () => Vm.start(options)));
    await Promise.all(vms.map((vm) => vm.stop()));
    await Bun.sleep(300);
  };
  await some();
  const [fds, threads] = count().split(" ").map(Number);
  for (let i = 0; i < 3; i++) await some();
  const [fdsNow, threadsNow] = count().split(" ").map(Number);
  expect(fdsNow).toBeLessThanOrEqual(fds + 2);
  expect(threadsNow).toBeLessThanOrEqual(threads + 4);
});

for (const [port, code] of [
  ["COM1", "b0 0a ba f8 03 ee eb fd"],
  ["the debug port", "b0 0a e6 e9 eb fc"],
]) {
  test(`a guest that floods ${port} waits for its reader, and keeps nobody from asking`, async () => {
    await using vm = await Vm.start(guest("flood", code));
    // A reader that takes nothing.
    const stalled = () => new Promise(() => {});
    vm.console.follow(stalled);
    vm.debug.follow(stalled);
    // Each question lets a port that can't wait by itself go on a little.
    const printed = async () => (await vm.statistics()).printed;
    let before = -1000;
    let now = await printed();
    for (let i = 0; i < 50 && now - before > 100; i++) {
      before = now;
      await Bun.sleep(200);
      now = await printed();
    }
    expect(now - before).toBeLessThanOrEqual(100);
    expect(now).toBeGreaterThan(SCROLLBACK / 2);
    expect(now).toBeLessThan(16 * SCROLLBACK);
    expect((await vm.stop()).kind).toBe("stopped");
  });
}

test("input that the guest doesn't take yet makes its sender wait, and isn't lost", async () => {
  await using vm = await Vm.start(options);
  vm.pause();
  let sent = 0;
  const sending = (async () => {
    for (; sent < 100; sent++) await vm.console.send("x".repeat(5000));
  })();
  await Bun.sleep(200);
  expect(sent).toBeLessThan(100);
  vm.unpause();
  await sending;
  vm.console.send("end");
  await vm.console.expect("end");
});

test("what can't be started says why, in one sentence", () => {
  const start = (change: Partial<VmOptions>) => Vm.start({ ...options, ...change });
  expect(start({ kernel: "/nonexistent" })).rejects.toThrow("echo: /nonexistent: no such file");
  expect(start({ kernel: folder })).rejects.toThrow(`echo: ${folder}: is a directory`);
  expect(start({ kernel: "/dev/zero" })).rejects.toThrow("not a regular file");
  expect(start({ memory: "much" })).rejects.toThrow("invalid size: much");
  expect(start({ memory: 12345 })).rejects.toThrow("12345 is not a whole number of pages");
  expect(start({ memory: Number.NaN })).rejects.toThrow("NaN is not a whole number of pages");
  expect(start({ memory: "1T" })).rejects.toThrow("limit is 128G");
  expect(start({ engine: "bochs" as "kvm" })).rejects.toThrow("it is auto, kvm or unicorn");
  expect(start({ epoch: Number.NaN })).rejects.toThrow("epoch NaN is no time");
  expect(start({ kernel: "" })).rejects.toThrow("no kernel or firmware specified");
  expect(start({ initrd: "/nonexistent" })).rejects.toThrow(/no such file|takes no initrd/);
});

test("a guest that never says it is waited for no longer than was asked", async () => {
  await using vm = await Vm.start(options);
  vm.console.send("hello");
  await vm.console.expect("hello");
  expect(vm.console.expect("login:", 50)).rejects.toThrow("did not print login: within 0.05 s");
  await Bun.sleep(100);
});
