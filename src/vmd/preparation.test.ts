/** A machine that ran for nothing is the one that its snapshots hold, to the last byte. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deviceGuest } from "../../golden/guests/devices.ts";
import { linuxAmd64 } from "../../golden/guests/linux.ts";
import { CPU_LAYOUT } from "../vmm/cpu-codec.ts";
import { Engine } from "../vmm/engine.ts";
import { MachineImage } from "../vmm/image.ts";
import { hostLibrary } from "../vmm/native.ts";
import { FileSource } from "../vmm/snapshot/sources.ts";
import { openBootFiles } from "./boot-files.ts";
import { random } from "./disk/testing.ts";
import { memoryRanges } from "./machine.ts";
import { prepare, type TryOn } from "./preparation.ts";
import { readConfig, type SnapshotConfig } from "./snapshot/config.ts";
import { newId, restoredOptions } from "./snapshot/restored.ts";
import { processorOf, restoreLife, waitFor } from "./snapshot/restore-life.ts";
import { SnapshotTaker } from "./snapshot/taker.ts";
import { Vm } from "./vm.ts";
import { VmLife } from "./vm-life.ts";
import type { RestoreDescription, StartMessage } from "./vm-messages.ts";
import { checkVmOptions, type VcpuOptions } from "./vm-options.ts";

setDefaultTimeout(120_000);
const engine = process.env.VMD_LAB === undefined ? ("unicorn" as const) : ("kvm" as const);
const missing = linuxAmd64.missing();
if (missing !== undefined) console.log(`a prepared Linux skipped: ${missing}`);

const ROUNDS = 8;
const MSR_TSC = 0x10;
/** Ports of the entropy device, and where its queue's used ring lies. */
const RNG = 0x2000;
const USED = 0x42000;
const host = { output: () => {}, debug: () => {}, hostTime: Date.now };
const devices = { flush: () => {}, states: () => [], rebase: () => {} };
let folder = "";
let options: VcpuOptions;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "prepared-"));
  // Counts in one of 128 places, by a linear congruential generator, and reads the timer.
  const code = "69c96d4e 81c13930 89c8 25007f 050010 8ed8 ff060005 e440 ebe6".replaceAll(" ", "");
  const firmware = new Uint8Array(4096).fill(0xf4);
  firmware.set(Uint8Array.fromHex(code));
  firmware.set([0xe9, 0x0d, 0xf0], 0xff0);
  const kernel = join(folder, "firmware");
  writeFileSync(kernel, firmware);
  options = checkVmOptions({ name: "prepared", kernel, memory: "1M", engine });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function description(config: SnapshotConfig, count: number): RestoreDescription {
  const { boot, cpuid, tscKhz, rom } = config;
  const inputs = Array.from({ length: count }, () => ({ stream: false, verify: false }));
  return { boot, cpuid, tscKhz, rom, inputs };
}

function startMessage(wanted: VcpuOptions, restore: RestoreDescription): StartMessage {
  const files = { restore, disks: [], interfaces: [], shares: [] };
  return { kind: "start", options: wanted, files, terminal: false, attached: [] };
}

const reopen = (file: number) => openSync(`/proc/self/fd/${file}`, "r");

/** As its process does it. */
const tryOn: TryOn = (
  { machine: waiting },
  { options: wanted, files: { restore } },
  given,
  backends,
) => {
  const own = { ...host, backends };
  restoreLife(engine, wanted, restore!, own, given, { prepared: waiting }).leave();
};

/** All that a machine is, but for what is the host's time. */
function contents(life: VmLife): unknown {
  const { image, engine: opened } = life;
  const memory = image.memory.ranges.flatMap(({ base, size }) =>
    [...image.memory.bytes(base, size)].map((bytes) => Bun.hash.xxHash3(bytes)),
  );
  const { tsc: _, ...cpu } = opened.getCpu() as { tsc?: unknown } & object;
  const blocks = image.blocks.map(({ layout, offset }) => {
    const bytes = image.state.slice(offset, offset + layout.size);
    // Guest time goes on.
    return layout.name === "clock" ? layout.name : [layout.name, Bun.hash.xxHash3(bytes)];
  });
  return { memory, cpu, blocks, halted: life.vcpu.halted, host: life.machine.hostState.input };
}

/**
 * @param files a snapshot and those that are based on it; @param count of them, that are prepared
 * @param changed what had changed since these before
 */
function expectSame(
  wanted: VcpuOptions,
  files: readonly number[],
  count: number,
  changed?: number,
): void {
  const config = readConfig(new FileSource(files[files.length - 1]));
  using fresh = restoreLife(
    engine,
    wanted,
    description(config, files.length),
    host,
    files.map(reopen),
  );
  const first = startMessage(wanted, description(config, count));
  const given = files.slice(0, count);
  if (changed !== undefined) given.push(changed);
  const message = {
    kind: "prepare",
    start: first,
    ...(changed ? { changed: true as const } : {}),
  } as const;
  const { machine } = prepare(message, given.map(reopen), tryOn);
  const restore = { ...description(config, files.length - count), prepared: true as const };
  const rest = files.slice(count).map(reopen);
  using life = restoreLife(engine, wanted, restore, host, rest, { prepared: machine });
  expect(contents(life)).toEqual(contents(fresh));
}

/** A snapshot in memory, based on the one that is named, if one is. @returns its file, to read */
function take(
  taker: SnapshotTaker,
  life: VmLife,
  base: string | undefined,
  { template = true, differential = true } = {},
): { file: number; id: string; based: boolean } {
  const out = hostLibrary().vmm_memory_file(0);
  const file = reopen(out);
  const id = newId();
  const config = JSON.stringify({ format: 1, id, base: base && { id: base }, ...CONFIG });
  const request = { config, compress: false, differential, template, overlays: [], stop: false };
  const { result } = taker.take(life, request, [out], devices)!;
  expect(result.failure).toBeUndefined();
  return { file, id, based: result.differential };
}

test("it is the same, and with what changed later", () => {
  const next = random(11);
  const files = openBootFiles(options);
  using life = VmLife.boot(engine, options, files, host);
  closeSync(files.kernel.descriptor);
  const taker = new SnapshotTaker(-1, waitFor);
  const taken: number[] = [];
  let base: string | undefined;
  for (let round = 0; round < ROUNDS; round++) {
    life.vcpu.limit = life.vcpu.exits + 1 + next(300);
    expect(life.vcpu.run()).toEqual({ kind: "attention" });
    const { file, id, based } = take(taker, life, base);
    expect(based).toBe(round > 0);
    base ??= id;
    const [before] = taken.splice(1);
    taken.push(file);
    expectSame(options, taken, 1);
    if (round > 0) expectSame(options, taken, 2);
    if (before !== undefined) expectSame(options, taken, 1, before);
  }
});

/** Of a CONFIG record, what is no matter here. */
const CONFIG = {
  created: 0,
  options: { name: "prepared", memory: 2 ** 20 },
  ahead: 0,
  interfaces: [],
};

/** All of an engine's CPU, but for its time. */
function cpuOf(engineOf: Engine): Uint8Array {
  const bytes = engineOf.cpuBytes().slice();
  const view = new DataView(bytes.buffer);
  for (let at = CPU_LAYOUT.msrs; at + 16 <= bytes.length; at += 16) {
    if (view.getUint32(at, true) === MSR_TSC) view.setBigUint64(at + 8, 0n, true);
  }
  return bytes;
}

test("its engine is as it was opened, where its snapshot says nothing of a register", () => {
  const opened = openBootFiles(options);
  using life = VmLife.boot(engine, options, opened, host);
  closeSync(opened.kernel.descriptor);
  const taker = new SnapshotTaker(-1, waitFor);
  const { file } = take(taker, life, undefined, { template: false, differential: false });
  const restore = description(readConfig(new FileSource(file)), 1);
  const { machine } = prepare(
    { kind: "prepare", start: startMessage(options, restore) },
    [file],
    tryOn,
  );
  using image = machine.image;
  using prepared = machine.engine;
  using other = new MachineImage(memoryRanges(options.memory, restore.rom));
  using fresh = Engine.open(engine, other, {}, processorOf(restore));
  expect(image.size).toBe(other.size);
  expect(cpuOf(prepared)).toEqual(cpuOf(fresh));
});

test("a page that a later file clears stays cleared, whoever wrote it", () => {
  const opened = openBootFiles(options);
  using life = VmLife.boot(engine, options, opened, host);
  closeSync(opened.kernel.descriptor);
  const { memory } = life.image;
  const all = () => memory.write(0x10000, new Uint8Array(0x80000).fill(0xaa));
  const clear = () => memory.write(0x10000, new Uint8Array(0x80000));
  const taker = new SnapshotTaker(-1, waitFor);
  const files: number[] = [];
  let base: string | undefined;
  for (const fill of [all, clear]) {
    fill();
    const { file, id } = take(taker, life, base, { template: false });
    files.push(file);
    base = id;
  }
  expectSame(options, files, 2);
});

test("what devices write when it goes on for nothing, it hasn't got", () => {
  const opened = openBootFiles(options);
  using life = VmLife.boot(engine, options, opened, host);
  closeSync(opened.kernel.descriptor);
  const { memory, ports } = life.machine;
  const out = (at: number, size: 1 | 2 | 4, value: number) => ports.write(RNG + at, size, value);
  const taker = new SnapshotTaker(-1, waitFor);
  const files: number[] = [];
  let base: string | undefined;
  const steps = [
    () => memory.write32(USED, 0x12345678),
    // A queue whose used ring the device writes to as soon as it goes on: virtio 1.2, § 4.1.4.3.
    () => {
      for (const status of [0, 3]) out(0x14, 1, status);
      out(0x08, 4, 1);
      out(0x0c, 4, 1);
      out(0x14, 1, 11);
      out(0x16, 2, 0);
      [0x40000, 0x41000, USED].forEach((ring, index) => out(0x20 + 8 * index, 4, ring));
      out(0x1c, 2, 1);
      out(0x14, 1, 15);
    },
    // The guest resets it, and writes nothing itself.
    () => out(0x14, 1, 0),
  ];
  for (const step of steps) {
    step();
    const { file, id } = take(taker, life, base);
    files.push(file);
    base ??= id;
  }
  const [first, changed, last] = files;
  expectSame(options, [first, last], 1);
  expectSame(options, [first, last], 1, changed);
  for (const file of files) closeSync(file);
});

describe.skipIf(missing !== undefined)("Linux", () => {
  test("it is the same after a kernel ran", async () => {
    const guest = await deviceGuest({
      name: "busy",
      modules: [],
      script: `i=0; while true; do i=$((i+1)); echo "tick $i" >/tmp/x; cat /tmp/x; done`,
    });
    const vm = await Vm.start({ ...guest, engine });
    await vm.console.expect(/tick 40\r/);
    const path = join(folder, "linux.snap");
    await vm.snapshot(path, { stop: true });
    await vm.ended;
    const file = openSync(path, "r");
    try {
      const wanted = restoredOptions(readConfig(new FileSource(file)), {});
      for (let round = 0; round < 3; round++) expectSame(wanted, [file], 1);
    } finally {
      closeSync(file);
    }
  });
});
