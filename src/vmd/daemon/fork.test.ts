/** Copies and restored VMs whose processes had a machine before anybody wanted them. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, ftruncateSync, openSync, readdirSync, readlinkSync, writeSync } from "node:fs";
import { join } from "node:path";
import { createQcow2 } from "../disk/index.ts";
import { TestDaemon } from "./testing.ts";

setDefaultTimeout(120_000);

let vmd: TestDaemon;
let counter = "";
/** For processes to get ready, ms. */
const READY = 2500;

beforeAll(async () => {
  vmd = await TestDaemon.start();
  // Answers each byte with how many there were; "r" it says, and resets the machine.
  const code =
    "ba fd 03 ec a8 01 74 f8 ba f8 03 ec 3c 72 74 07 fe c3 88 d8 ee eb e9 ee b0 fe e6 64 f4";
  counter = vmd.firmware("counter", code);
});
afterAll(() => vmd[Symbol.asyncDispose]());

const type = (name: string, text: string) => vmd.type(name, text);
const start = (name: string, ...more: string[]) =>
  vmd.vctl(["start", name, "-b", counter, "-m", "4M", "--engine", "unicorn", ...more]);
const fork = (...names: string[]) => vmd.vctl(["fork", "one", ...names]);
const stop = (name: string) => vmd.vctl(["stop", "-fw", name]);

test("copies by processes that waited are what the VM is, again and again", async () => {
  expect(await start("one")).toMatchObject({ code: 0 });
  expect(await fork("cold")).toMatchObject({ code: 0 });
  expect([await type("cold", "x"), await type("one", "x")]).toEqual([1, 1]);
  for (let round = 0; round < 3; round++) {
    await Bun.sleep(READY);
    expect(await fork(`warm${round}`)).toMatchObject({ code: 0 });
    expect([await type(`warm${round}`, "x"), await type("one", "x")]).toEqual([
      2 + round,
      2 + round,
    ]);
  }
});

test("what copies are made from is nobody's to change any more, the VM's neither", async () => {
  const folder = `/proc/${vmd.pid}/fd`;
  const links = readdirSync(folder).map((name) => join(folder, name));
  const templates = links.filter((link) => readlinkSync(link).includes("memfd:vmd-snapshot"));
  expect(templates.length).toBeGreaterThan(0);
  for (const template of templates) {
    const descriptor = openSync(template, "r+");
    expect(() => writeSync(descriptor, new Uint8Array(1), 0, 1, 0)).toThrow("EPERM");
    expect(() => ftruncateSync(descriptor, 0)).toThrow("EPERM");
    closeSync(descriptor);
  }
});

test("a VM that was reset has nothing of what its copies were made from", async () => {
  await Bun.sleep(READY);
  expect(await type("one", "r")).toBe(0x72);
  await vmd.logs(/one: the guest reset its machine/);
  expect(await type("one", "x")).toBe(1);
  expect(await fork("after")).toMatchObject({ code: 0 });
  expect([await type("after", "x"), await type("one", "x")]).toEqual([2, 2]);
  await Bun.sleep(READY);
  expect(await fork("later")).toMatchObject({ code: 0 });
  expect([await type("later", "x"), await type("warm2", "x")]).toEqual([3, 5]);
  for (const { name } of await vmd.status()) await stop(name);
});

test("a file that is restored again goes on with its disk and its interface", async () => {
  const disk = join(vmd.folder, "disk.qcow2");
  createQcow2(disk, 2 ** 20);
  expect(await start("one", "-d", disk, "-L")).toMatchObject({ code: 0 });
  expect(await type("one", "x")).toBe(1);
  const file = join(vmd.folder, "one.snap");
  expect(await vmd.vctl(["snapshot", "--stop", "one", file])).toMatchObject({ code: 0 });
  for (let round = 0; round < 3; round++) {
    expect(await vmd.vctl(["restore", file])).toMatchObject({ code: 0 });
    expect([await type("one", "x"), await type("one", "x")]).toEqual([2, 3]);
    expect(await stop("one")).toMatchObject({ code: 0 });
    await Bun.sleep(READY);
  }
  expect(await vmd.vctl(["restore", "--verify", file])).toMatchObject({ code: 0 });
  expect(await type("one", "x")).toBe(2);
  await stop("one");
  expect(vmd.log).not.toContain("internal error");
});
