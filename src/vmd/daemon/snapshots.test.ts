/** vctl snapshot and vctl restore, as users type them. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../vmm/root.ts";
import { openOne } from "../snapshot/chain.ts";
import { createQcow2 } from "../disk/index.ts";
import { TestDaemon } from "./testing.ts";

setDefaultTimeout(60_000);

let vmd: TestDaemon;
let counter = "";
const at = (name: string) => join(vmd.folder, name);

beforeAll(async () => {
  vmd = await TestDaemon.start();
  // Answers each byte with how many there were.
  counter = vmd.firmware("counter", "ba fd 03 ec a8 01 74 f8 ba f8 03 ec fe c3 88 d8 ee eb ed");
});
afterAll(() => vmd[Symbol.asyncDispose]());

const count = (name: string) => vmd.type(name, "x");
const start = (name: string, ...more: string[]) =>
  vmd.vctl(["start", name, "-b", counter, "-m", "4M", "--engine", "unicorn", ...more]);
const stop = (name: string) => vmd.vctl(["stop", "-fw", name]);

test("a VM goes on where its snapshot left it, beside itself or in its own place", async () => {
  expect(await start("one")).toMatchObject({ code: 0 });
  expect([await count("one"), await count("one")]).toEqual([1, 2]);
  const taken = await vmd.vctl(["snapshot", "one", at("one.snap")]);
  expect(taken).toMatchObject({ code: 0 });
  expect(taken.err + taken.out).toMatch(
    /wrote .*one.snap: 0\.\d MiB, \d+ pages; the vm stood still for \d+ ms/,
  );
  expect(statSync(at("one.snap")).mode & 0o777).toBe(0o600);
  expect(await count("one")).toBe(3);
  expect(await vmd.vctl(["restore", at("one.snap"), "two"])).toMatchObject({ code: 0 });
  expect([await count("two"), await count("two"), await count("one")]).toEqual([3, 4, 4]);
  await stop("one");
  expect(await vmd.vctl(["restore", at("one.snap")])).toMatchObject({ code: 0 });
  expect(await count("one")).toBe(3);
  await Promise.all([stop("one"), stop("two")]);
});

test("what a guest used last can be prefetched, where its snapshot says so", async () => {
  expect(await start("warm")).toMatchObject({ code: 0 });
  expect(await count("warm")).toBe(1);
  expect(await vmd.vctl(["snapshot", "warm", at("warm.snap")])).toMatchObject({ code: 0 });
  await vmd.vctl(["pause", "warm"]);
  expect(await vmd.vctl(["snapshot", "warm", at("still.snap")])).toMatchObject({ code: 0 });
  const prefetch = async (...args: string[]) => {
    const { code, err } = await vmd.vctl(["restore", "--prefetch", ...args]);
    expect(code).toBe(0);
    return err;
  };
  const nothing = "it doesn't say what its guest used last: nothing is prefetched";
  expect(await prefetch(at("warm.snap"), "warm2")).not.toContain(nothing);
  expect(await prefetch(at("still.snap"), "warm3")).toContain(`${at("still.snap")}: ${nothing}`);
  expect([await count("warm2"), await count("warm3")]).toEqual([2, 2]);
  await Promise.all(["warm", "warm2", "warm3"].map(stop));
});

test("a portable processor is kept, with its TSC, and an engine can be named", async () => {
  const many = await start("many", "--portable", "--tsc", "10");
  expect(many.err).toContain("it is no number from 100000 to 8000000");
  const alone = await start("alone", "--tsc", "2000000");
  expect(alone.err).toContain("alone: only a portable processor's TSC can be chosen");
  expect(await start("portable", "--portable", "--tsc", "2596142")).toMatchObject({ code: 0 });
  expect(await count("portable")).toBe(1);
  const said = async (name: string, to: string) => {
    expect(await vmd.vctl(["snapshot", "--stop", name, at(to)])).toMatchObject({ code: 0 });
    const { config, descriptor } = openOne(at(to));
    closeSync(descriptor);
    return config;
  };
  const first = await said("portable", "portable.snap");
  expect(first).toMatchObject({ tscKhz: 2596142, options: { portable: true, tscKhz: 2596142 } });
  const restore = ["restore", "--engine", "unicorn", at("portable.snap")];
  expect(await vmd.vctl(restore)).toMatchObject({ code: 0 });
  expect(await count("portable")).toBe(2);
  const second = await said("portable", "again.snap");
  expect([second.tscKhz, second.cpuid]).toEqual([2596142, first.cpuid]);
});

test("what can't be is refused in a sentence, and nothing is left behind", async () => {
  await start("one");
  const fails = async (args: string[], sentence: string) => {
    const { code, err } = await vmd.vctl(args);
    expect(err).toContain(sentence);
    expect(code).toBe(1);
  };
  writeFileSync(at("there"), "x");
  await fails(["snapshot", "one", at("there")], "there: file exists; -f replaces it");
  await fails(["snapshot", "one", at("no/where")], "No such file or directory");
  await fails(["snapshot", "nobody", at("x.snap")], "vm not found");
  await fails(["restore", at("there")], "it ends too early");
  await fails(["restore", at("absent")], "absent: no such file");
  expect(await vmd.vctl(["snapshot", "-f", "one", at("there")])).toMatchObject({ code: 0 });
  await fails(["restore", at("there")], "vm one is already there");
  const whole = readFileSync(at("there"));
  const broken = Buffer.from(whole);
  broken[whole.length - 9000] ^= 4;
  writeFileSync(at("broken"), broken);
  await fails(["restore", at("broken"), "three"], "damaged");
  writeFileSync(at("short"), whole.subarray(0, whole.length - 4096));
  await fails(["restore", at("short"), "three"], "it ends too early");
  expect((await vmd.status()).map(({ name }) => name)).toEqual(["one"]);
  expect(readdirSync(vmd.folder).filter((name) => /partial/.test(name))).toEqual([]);
  await stop("one");
});

test("disks: qcow2 is frozen, raw only of a VM that ends", async () => {
  createQcow2(at("a.qcow2"), 2 ** 20);
  writeFileSync(at("b.img"), Buffer.alloc(2 ** 20));
  await start("disks", "-d", at("a.qcow2"), "-d", at("b.img"));
  const raw = await vmd.vctl(["snapshot", "disks", at("disks.snap")]);
  expect(raw.err).toContain("b.img: a raw image can't stay as it is while its VM goes on");
  expect(readdirSync(vmd.folder).filter((name) => name.startsWith("a.qcow2"))).toEqual(["a.qcow2"]);
  expect(await vmd.vctl(["snapshot", "--stop", "disks", at("disks.snap")])).toMatchObject({
    code: 0,
  });
  await vmd.vctl(["wait", "disks"]);
  expect(await vmd.vctl(["restore", at("disks.snap")])).toMatchObject({ code: 0 });
  await stop("disks");

  await start("frozen", "-d", at("a.qcow2"));
  await count("frozen");
  expect(await vmd.vctl(["snapshot", "frozen", at("frozen.snap")])).toMatchObject({ code: 0 });
  expect(await count("frozen")).toBe(2);
  expect(readdirSync(vmd.folder).filter((name) => name.startsWith("a.qcow2."))).toHaveLength(1);
  expect(await vmd.vctl(["restore", at("frozen.snap"), "again"])).toMatchObject({ code: 0 });
  expect(existsSync(at("frozen.snap.disk0.qcow2"))).toBe(true);
  expect(await count("again")).toBe(2);
  const twice = await vmd.vctl(["restore", at("frozen.snap"), "third"]);
  expect(twice).toMatchObject({ code: 0 });
  expect(existsSync(at("frozen.snap.disk0-1.qcow2"))).toBe(true);
  await Promise.all([stop("frozen"), stop("again"), stop("third")]);
});

test("copies go on beside their VM, each by itself", async () => {
  createQcow2(at("f.qcow2"), 2 ** 20);
  await start("origin", "-d", at("f.qcow2"));
  expect(await count("origin")).toBe(1);
  const forked = await vmd.vctl(["fork", "-n", "3", "origin", "copy"]);
  expect(forked).toMatchObject({ code: 0 });
  expect(
    [...(forked.out + forked.err).matchAll(/started vm \d+ successfully: (copy-\d), in/g)].map(
      ([, name]) => name,
    ),
  ).toEqual(["copy-1", "copy-2", "copy-3"]);
  expect([await count("copy-1"), await count("copy-1"), await count("copy-2")]).toEqual([2, 3, 2]);
  expect(await count("origin")).toBe(2);
  // What they write to their disks has no name.
  expect(readdirSync(vmd.folder).filter((name) => name.startsWith("f.qcow2"))).toHaveLength(2);
  expect((await vmd.vctl(["fork", "origin", "copy-1"])).err).toContain(
    "vm copy-1 is already there",
  );
  expect((await vmd.vctl(["fork", "nobody", "x"])).err).toContain("vm not found");
  // A copy of a copy: its disk has no name to be frozen by.
  expect((await vmd.vctl(["fork", "copy-1", "x"])).err).toContain(
    "the vm is a copy, and what it writes to its disks has no name",
  );
  expect(readdirSync(vmd.folder).filter((name) => name.startsWith("f.qcow2"))).toHaveLength(2);
  for (const name of ["origin", "copy-1", "copy-2", "copy-3"]) await stop(name);
});

test("show tells a copy's own link addresses, which its guest has still to take", async () => {
  if (process.geteuid!() !== 0) return console.log("skipped: taps need root");
  await using own = await TestDaemon.start({ ownNetwork: true });
  const words = ["-b", counter, "-m", "4M", "--engine", "unicorn", "-i", "2"];
  expect(await own.vctl(["start", "origin", ...words])).toMatchObject({ code: 0 });
  expect(await own.vctl(["fork", "origin", "copy"])).toMatchObject({ code: 0 });
  const macs = async (name: string): Promise<string[]> => {
    const { interfaces } = JSON.parse((await own.vctl(["show", "--json", name])).out);
    return interfaces.map(({ mac }: { mac: string }) => mac);
  };
  const all = [...(await macs("origin")), ...(await macs("copy"))];
  for (const mac of all) expect(mac).toMatch(/^fe:e1:[0-9a-f:]{11}$/);
  expect(new Set(all).size).toBe(4);
  const { out } = await own.vctl(["show", "copy"]);
  expect(out).toMatch(new RegExp(`^interface +unattached ${all[2]}$`, "m"));
  await own.vctl(["stop", "-fw", "copy"]);
  await own.vctl(["stop", "-fw", "origin"]);
  expect(await macs("origin").catch(() => "gone")).toBe("gone");
});

test("differential ones, and one file made of them", async () => {
  expect(await start("chain")).toMatchObject({ code: 0 });
  const write = (name: string, ...more: string[]) =>
    vmd.vctl(["snapshot", "-d", ...more, "chain", at(name)]);
  expect(await count("chain")).toBe(1);
  const first = await write("chain.0");
  expect(first.err).toMatch(/^vctl: wrote .*chain\.0: [\d.]+ MiB, \d+ pages; the vm stood still/);
  expect(await count("chain")).toBe(2);
  expect((await write("chain.1")).err).toContain("pages that changed;");
  expect(await count("chain")).toBe(3);
  expect((await write("chain.1", "-f")).err).toContain("would be based on this file itself");
  expect((await write("chain.2")).err).toContain("pages that changed;");
  const merged = await vmd.vctl(["merge", at("chain.2"), at("chain.whole")]);
  expect(merged.err).toMatch(/^vctl: .*chain\.whole: 3 snapshots in \d+ MiB\n$/);
  for (const [file, name] of [
    ["chain.2", "of-chain"],
    ["chain.whole", "of-whole"],
  ]) {
    expect(await vmd.vctl(["restore", at(file), name])).toMatchObject({ code: 0 });
    expect(await count(name)).toBe(4);
    await stop(name);
  }
  await stop("chain");
  const missing = await vmd.vctl(["merge", at("nothing"), at("chain.x")]);
  expect(missing).toMatchObject({ code: 1, err: expect.stringContaining("nothing: ") });
  writeFileSync(at("chain.0"), "x");
  const broken = await vmd.vctl(["merge", at("chain.2"), at("chain.x")]);
  expect(broken).toMatchObject({ code: 1, err: expect.stringContaining("chain.0: ") });
  expect(existsSync(at("chain.x"))).toBe(false);
});

test("a live one, into a file and through a pipe", async () => {
  createQcow2(at("live.qcow2"), 2 ** 20);
  expect(await start("live", "-d", at("live.qcow2"))).toMatchObject({ code: 0 });
  expect(await count("live")).toBe(1);
  const taken = await vmd.vctl(["snapshot", "--live", "live", at("live.snap")]);
  expect(taken.err).toMatch(
    /^vctl: wrote .*live.snap: [\d.]+ MiB, \d+ pages in \d+ rounds?; the vm stood still for \d+ ms/,
  );
  const vctl = `VMD_SOCKET=${vmd.socket} ${process.execPath} ${join(root, "src/vctl/index.ts")}`;
  const shell = (line: string) => {
    const { stderr } = Bun.spawnSync(["sh", "-c", `cd ${vmd.folder}; ${line}`], {
      timeout: 30_000,
    });
    return stderr.toString();
  };
  expect(await count("live")).toBe(2);
  expect(shell(`${vctl} snapshot --live live - | cat >piped.snap`)).toMatch(/ in \d+ rounds?; /);
  expect(await count("live")).toBe(3);
  expect(shell(`${vctl} snapshot live - | cat >plain.snap`)).toMatch(/ pages; the vm stood still/);
  expect(await vmd.vctl(["merge", at("piped.snap"), at("merged.snap")])).toMatchObject({ code: 0 });
  for (const [file, next] of [
    ["live.snap", 2],
    ["piped.snap", 3],
    ["merged.snap", 3],
    ["plain.snap", 4],
  ] as const) {
    expect(await vmd.vctl(["restore", at(file), "again"])).toMatchObject({ code: 0 });
    expect(await count("again")).toBe(next);
    await stop("again");
  }
  // Nobody reads it: the guest goes on, on the disk that it had.
  const images = readdirSync(vmd.folder).filter((name) => name.startsWith("live.qcow2"));
  expect(images).toHaveLength(4);
  expect(shell(`${vctl} snapshot --live live - | true`)).toContain(
    "no snapshot: writing it: EPIPE",
  );
  expect(readdirSync(vmd.folder).filter((name) => name.startsWith("live.qcow2"))).toEqual(images);
  expect(await count("live")).toBe(4);
  for (const [words, why] of [
    [["--live", "--stop", "live", at("x")], "--live goes neither with --stop nor"],
    [["--live", "-d", "live", at("x")], "--live goes neither with --stop nor"],
    [["-d", "live", "-"], "--differential needs a file"],
    [["--live", "--downtime", "0", "live", at("x")], "it is 1 to 60000"],
  ] as const) {
    const refused = await vmd.vctl(["snapshot", ...words]);
    expect(refused).toMatchObject({ code: 1, err: expect.stringContaining(why) });
  }
  await stop("live");
});

test("a disk that was frozen is locked as before: it moves with its VM, and belongs to one", async () => {
  createQcow2(at("moving.qcow2"), 2 ** 20);
  expect(await start("moving", "-d", at("moving.qcow2"))).toMatchObject({ code: 0 });
  expect(await vmd.vctl(["snapshot", "moving", at("moving.snap")])).toMatchObject({ code: 0 });
  const second = await start("other", "-d", at("moving.qcow2"));
  expect(second).toMatchObject({ code: 1, err: expect.stringContaining("in use by another VM") });
  await using elsewhere = await TestDaemon.start();
  const vctl = `${process.execPath} ${join(root, "src/vctl/index.ts")}`;
  const [from, to] = [vmd, elsewhere].map(({ socket }) => `VMD_SOCKET=${socket} ${vctl}`);
  const line = `${from} send moving | ${to} receive moving`;
  const { stderr } = Bun.spawnSync(["sh", "-c", line]);
  expect(stderr.toString()).toContain("received vm");
  expect((await elsewhere.status())[0]).toMatchObject({ name: "moving", state: "running" });
});
