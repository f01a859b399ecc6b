/** The ways by which a VM may go, as a user types them, and what is refused. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { probe } from "../../vmm/engine.ts";
import { root } from "../../vmm/root.ts";
import { PAGE, RecordType } from "../../vmm/snapshot/format.ts";
import { SnapshotReader } from "../../vmm/snapshot/reader.ts";
import { BytesSource } from "../../vmm/snapshot/sources.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import { type Result, TestDaemon } from "../daemon/testing.ts";
import { parseConfig, type SnapshotConfig } from "../snapshot/config.ts";
import { Vm } from "../vm.ts";

setDefaultTimeout(60_000);
const VCTL = `${process.execPath} ${join(root, "src/vctl/index.ts")}`;
/** cli; jmp $ */
const SPIN = "fa eb fe";

let a: TestDaemon;
let b: TestDaemon;
let firmware = "";
let disk = "";
beforeAll(async () => {
  [a, b] = await Promise.all([TestDaemon.start(), TestDaemon.start()]);
  firmware = a.firmware("spin", SPIN);
  disk = join(a.folder, "disk.img");
  writeFileSync(disk, "");
  truncateSync(disk, 2 ** 20);
});
afterAll(async () => {
  await Promise.all([a[Symbol.asyncDispose](), b[Symbol.asyncDispose]()]);
});

const at = ({ socket }: TestDaemon) => `VMD_SOCKET=${socket} ${VCTL}`;

async function shell(line: string): Promise<Result> {
  const child = Bun.spawn(["bash", "-c", line], { stdio: ["ignore", "pipe", "pipe"] });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, out, err };
}

async function start(name: string, ...args: string[]): Promise<void> {
  const words = ["start", "--engine", "unicorn", "-m", "4M", "-b", firmware, ...args, name];
  expect((await a.vctl(words)).err).toContain("started vm");
}

async function stateOf(daemon: TestDaemon, name: string): Promise<string> {
  return (await daemon.status()).find((row) => row.name === name)?.state ?? "none";
}

async function stop(name: string): Promise<void> {
  await Promise.all([a.vctl(["stop", "-fw", name]), b.vctl(["stop", "-fw", name])]);
}

test("a pipe on one host: answers find their way by a socket", async () => {
  await start("pipe", "-d", disk);
  const { err, out } = await shell(
    `${at(a)} send pipe | ${at(b)} receive other; echo "\${PIPESTATUS[@]}"`,
  );
  expect([out, err]).toEqual(["0 0\n", expect.stringContaining("sent vm pipe: ")]);
  expect(err).toMatch(/received vm \d+ successfully, tty \/dev/);
  expect(await stateOf(a, "pipe")).toBe("none");
  expect(await stateOf(b, "other")).toBe("running");
  await stop("other");
});

test("a command with both directions, live", async () => {
  await start("via");
  const { code, err } = await shell(`${at(a)} send --live --via '${at(b)} receive via' via`);
  expect([code, err]).toEqual([0, expect.stringContaining("sent vm via: ")]);
  expect(err).toMatch(/round 1: /);
  expect(await stateOf(b, "via")).toBe("running");
  await stop("via");
});

test("a one-way pipe to another host: the source stays paused, and its disk is the other's", async () => {
  if (process.geteuid!() !== 0)
    return console.log("skipped: only root gives a host another boot id");
  await start("away", "-d", disk);
  const boot = join(a.folder, "boot_id");
  writeFileSync(boot, "00000000-0000-0000-0000-000000000000\n");
  const elsewhere = `mount --bind ${boot} /proc/sys/kernel/random/boot_id && ${at(b)} receive away`;
  const { out, err } = await shell(
    `${at(a)} send away | unshare -m sh -c '${elsewhere}'; echo "\${PIPESTATUS[@]}"`,
  );
  expect([out, err]).toEqual(["3 0\n", expect.stringContaining("vctl unpause away if it doesn't")]);
  expect(await stateOf(a, "away")).toBe("paused");
  expect(await stateOf(b, "away")).toBe("running");
  const unpause = await a.vctl(["unpause", "away"]);
  expect(unpause.code).toBe(1);
  expect(unpause.err).toContain(`${disk}: in use by another VM`);
  await b.vctl(["stop", "-fw", "away"]);
  expect((await a.vctl(["unpause", "away"])).code).toBe(0);
  expect(await stateOf(a, "away")).toBe("running");
  await stop("away");
});

test("what came too late, is taken, or is no VM is refused in a sentence", async () => {
  await start("late");
  const file = join(a.folder, "late");
  const sent = await shell(`${at(a)} send late >${file}`);
  expect([sent.code, sent.err]).toEqual([3, expect.stringContaining("may run on the other side")]);
  const late = await shell(`${at(b)} receive late <${file}`);
  expect([late.code, late.err]).toEqual([1, expect.stringContaining("its sender is on this host")]);
  expect(await stateOf(b, "late")).toBe("none");
  const again = await shell(`${at(a)} send late | cat`);
  expect(again.err).toContain("the vm is paused");
  expect((await a.vctl(["unpause", "late"])).code).toBe(0);

  const self = await shell(`${at(a)} send late | ${at(a)} receive late; echo "\${PIPESTATUS[@]}"`);
  expect(self.out).toBe("1 1\n");
  expect(self.err).toContain("vm late is already there");
  expect(self.err).toContain("vm late goes on here");
  expect(await stateOf(a, "late")).toBe("running");

  for (const [line, why] of [
    [`${at(b)} receive x </dev/null`, "vctl: nothing comes from vctl send\n"],
    [`head -c 9000 /dev/urandom | ${at(b)} receive x`, "vctl: it is no snapshot\n"],
    [`head -c 5000 ${file} | ${at(b)} receive x`, undefined],
    [`${at(a)} send nobody | cat`, "vctl: send vm command failed: vm not found\n"],
    [`${at(a)} send --downtime 0 late | cat`, undefined],
    [`${at(a)} send --via false late`, undefined],
    [`${at(b)} receive 7 <${file}`, "vctl: invalid VM name\n"],
  ] as const) {
    const { err } = await shell(line);
    if (why !== undefined) expect(err).toBe(why);
    expect(err).toStartWith("vctl: ");
    expect(err).not.toContain("internal error");
  }
  expect(await stateOf(a, "late")).toBe("running");
  await stop("late");
});

test("the engine is the sender's, another that is named, or none that can't be", async () => {
  const isKvm = probe("kvm").available;
  const engineOf = async (name: string) => {
    return (await b.status()).find((row) => row.name === name)?.engine;
  };
  for (const [name, portable, engine] of [
    ["plain", [], "unicorn"],
    ["many", ["--portable", "--tsc", "2000000"], "unicorn"],
    ["any", ["--portable"], undefined],
  ] as const) {
    await start(name, ...portable);
    const named = engine === undefined ? "" : `--engine ${engine} `;
    const { out, err } = await shell(
      `${at(a)} send ${name} | ${at(b)} receive ${named}${name}; echo "\${PIPESTATUS[@]}"`,
    );
    expect([out, err]).toEqual(["0 0\n", expect.stringContaining("received vm")]);
    expect(await engineOf(name)).toBe("unicorn");
    expect(await stateOf(a, name)).toBe("none");
    await stop(name);
  }
  await start("stays", "--portable", "--tsc", "2000000");
  const refused = async (engine: string) => {
    const { out, err } = await shell(
      `${at(a)} send stays | ${at(b)} receive --engine ${engine} stays; echo "\${PIPESTATUS[@]}"`,
    );
    expect(out).toBe("1 1\n");
    expect(await stateOf(a, "stays")).toBe("running");
    expect(await stateOf(b, "stays")).toBe("none");
    expect(err).toContain("stays goes on here");
    for (const line of err.trimEnd().split("\n")) expect(line).toMatch(/^(vctl: |usage:\t)/);
    return err;
  };
  expect(await refused("bochs")).toContain("Allowed choices are auto, kvm, unicorn.");
  // Of a clock that it can't have, or since there is none.
  expect(await refused("kvm")).toMatch(
    isKvm ? /engine kvm: the guest's TSC counts 2000000 kHz, this host's \d+ kHz/ : /engine kvm/,
  );
  await stop("stays");
});

/** The snapshot with another CONFIG. */
function withConfig(path: string, into: string, change: (config: SnapshotConfig) => void): void {
  const parts: Uint8Array[] = [];
  const writer = new SnapshotWriter((bytes) => void parts.push(bytes.slice()));
  const reader = new SnapshotReader(new BytesSource(new Uint8Array(readFileSync(path))));
  for (let record = reader.next(); record !== undefined; record = reader.next()) {
    const { type } = record.head;
    if (type === RecordType.CONFIG) {
      const config = parseConfig(record.payload);
      change(config);
      writer.json(type, config);
    } else if (type === RecordType.PAGES) {
      const data = reader.data(record);
      let at = 0;
      writer.data(record.runs, ({ count }) => {
        at += count * PAGE;
        return [data.subarray(at - count * PAGE, at)];
      });
    } else writer.bytes(type, record.payload);
  }
  writeFileSync(into, Buffer.concat(parts));
}

test("a snapshot's file goes on; one of another processor, or of no whole machine, is refused", async () => {
  const path = join(a.folder, "snapshot");
  const vm = await Vm.start({ kernel: firmware, memory: "4M", engine: "unicorn", sandbox: false });
  await vm.snapshot(path);
  await vm.stop();
  const good = await shell(`${at(b)} receive file <${path}`);
  expect([good.code, good.err]).toEqual([0, expect.stringContaining("received vm")]);
  expect(await stateOf(b, "file")).toBe("running");
  await stop("file");
  const other = join(a.folder, "other");
  const refused = async (change: (config: SnapshotConfig) => void) => {
    withConfig(path, other, change);
    const { code, err } = await shell(`${at(b)} receive file <${other}`);
    expect(code).toBe(1);
    expect(await stateOf(b, "file")).toBe("none");
    return err;
  };
  expect(
    await refused(({ cpuid }) => {
      const leaf = cpuid.find(([number]) => number === 7);
      if (leaf !== undefined) leaf[4] = 0xffffffff;
    }),
  ).toMatch(/CPUID leaf 0x7 lacks 0x[0-9a-f]+ in EBX, which the guest has seen/);
  expect(
    await refused((config) => {
      config.base = { id: "0".repeat(32), path: "x" };
    }),
  ).toContain("it is based on another snapshot: merge them first");
  expect(
    await refused((config) => {
      config.options.disks = [{ path: "/nowhere/disk.img" }];
    }),
  ).toContain("/nowhere/disk.img");
});

test("interfaces are the receiver's, with their addresses", async () => {
  if (process.geteuid!() !== 0) return console.log("skipped: taps need root");
  await using here = await TestDaemon.start({ ownNetwork: true });
  await using there = await TestDaemon.start({ ownNetwork: true });
  const words = ["start", "--engine", "unicorn", "-m", "4M", "-b", firmware, "-L", "net"];
  expect((await here.vctl(words)).err).toContain("started vm");
  const wrong = await shell(`${at(here)} send net | ${at(there)} receive -L -n any net`);
  expect(wrong.err).toContain("the vm has 1 interface, 2 are given");
  const none = await shell(`${at(here)} send net | ${at(there)} receive -n nowhere net`);
  expect(none.err).toContain("nowhere");
  expect(none.err).toContain("vm net goes on here");
  const { err } = await shell(`${at(here)} send net | ${at(there)} receive net`);
  expect(err).toContain("received vm");
  const { out } = await there.vctl(["show", "--json", "net"]);
  const [first] = JSON.parse(out).interfaces;
  expect(first.local).toBe(true);
  expect(first.lladdr).toMatch(/^fe:e1:/);
  expect(first.where).not.toBeNull();
});
