/**
 * Snapshots that somebody damaged, or made up: what is damaged is refused before anything runs, and
 * what is whole but can't be is refused too, or is a machine like any other.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  checksum,
  HEAD,
  PAGE,
  padded,
  RecordType,
  SnapshotError,
} from "../../vmm/snapshot/format.ts";
import { BytesSource } from "../../vmm/snapshot/sources.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import { openBootFiles } from "../boot-files.ts";
import { checkVmOptions, type VcpuOptions } from "../vm-options.ts";
import { type LifeHost, VmLife } from "../vm-life.ts";
import { repeatableRandom } from "../backend/random.ts";
import { random } from "../disk/testing.ts";
import { usedPages } from "../../vmm/snapshot/machine-memory.ts";
import { quiesce, saveHotPages, saveMemory, saveState } from "./save.ts";

setDefaultTimeout(300_000);

const ROUNDS = Number(process.env.VMD_SNAPSHOT_MUTATIONS ?? 16_000);
const RESEALED = Number(process.env.VMD_SNAPSHOT_RESEALED ?? 4_000);

let folder = "";
let options: VcpuOptions;
let whole: Uint8Array;
let small: Uint8Array;
let rom: { base: number; size: number } | undefined;
let cpuid: VmLife["engine"]["cpuid"];

const host: LifeHost = {
  output: () => {},
  debug: () => {},
  backends: () => ({ random: repeatableRandom(), interfaces: [], disks: [] }),
};

function take(life: VmLife, compress: boolean): Uint8Array {
  const parts: Uint8Array[] = [];
  const writer = new SnapshotWriter((bytes) => void parts.push(bytes.slice()), { compress });
  writer.json(RecordType.CONFIG, { format: 1 });
  saveMemory(life, writer, { pagemap: -1 });
  saveHotPages(life, writer, usedPages(life.image, -1), -1);
  saveState(life, writer);
  return Buffer.concat(parts);
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "hostile-"));
  // Programs the interval timer, the UART and the RTC, and counts in memory for ever.
  const code = Uint8Array.fromHex(
    [
      "b0 34 e6 43 b0 00 e6 40 e6 40",
      "b0 0b e6 70 e4 71",
      "ba fb 03 b0 83 ee",
      "31 c0 8e d8",
      "ff 06 00 05 e4 40 eb f8",
    ]
      .join("")
      .replaceAll(" ", ""),
  );
  const firmware = new Uint8Array(4096).fill(0xf4);
  firmware.set(code);
  firmware.set([0xe9, 0x0d, 0xf0], 0xff0);
  writeFileSync(join(folder, "firmware"), firmware);
  options = checkVmOptions({
    name: "hostile",
    kernel: join(folder, "firmware"),
    memory: "1M",
    engine: "unicorn",
    virtualTime: true,
  });
  using life = VmLife.boot("unicorn", options, openBootFiles(options), host);
  runFor(life, 300);
  quiesce(life);
  whole = take(life, false);
  small = take(life, true);
  ({ rom } = life);
  cpuid = life.engine.cpuid;
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a machine for some exits; of virtual time, none can be without one for long. */
function runFor(life: VmLife, exits: number): void {
  const attention = new Int32Array(1);
  life.vcpu.attention = attention;
  let left = exits;
  const see = () => {
    if (--left <= 0) {
      attention[0] = 1;
      life.engine.kick();
    }
  };
  life.vcpu.observer = { exited: see, answered: () => {}, tick: see, interrupt: () => {} };
  // A machine may have no timer, and go round in a loop or sleep for ever: as if one were due soon.
  const { clock } = life.machine;
  Object.defineProperty(clock, "deadline", { get: () => clock.now + 5000 });
  life.engine.wait = () => void Atomics.store(attention, 0, 1);
  life.vcpu.run();
}

/** @returns whether it is a machine, which then ran; what it throws else is a SnapshotError */
function restore(bytes: Uint8Array): boolean {
  let life: VmLife;
  try {
    const inputs = [{ source: new BytesSource(bytes), verify: true }];
    const restored = { rom, inputs, description: "", cpuid, prefetch: true };
    life = VmLife.restore("unicorn", options, restored, host);
  } catch (error) {
    if (error instanceof SnapshotError) return false;
    throw error;
  }
  using _ = life;
  runFor(life, 10);
  return true;
}

test("the whole one is a machine, compressed or not", () => {
  expect(restore(whole)).toBe(true);
  expect(restore(small)).toBe(true);
  expect(small.length).toBeLessThan(whole.length);
});

test(`${ROUNDS} damaged ones: flipped bits, other bytes, cuts, moves, repeats`, () => {
  const next = random(1);
  let cuts = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const from = round % 3 === 0 ? small : whole;
    let bytes = Uint8Array.from(from);
    const at = next(bytes.length);
    const kind = next(6);
    if (kind === 0) bytes[at] ^= 1 << next(8);
    else if (kind === 1) bytes[at] = (bytes[at] + 1 + next(255)) & 0xff;
    else if (kind === 2) {
      bytes = bytes.subarray(0, at);
      cuts++;
    } else if (kind === 3) {
      // Pages change places.
      const a = PAGE * next(bytes.length / PAGE);
      const b = PAGE * next(bytes.length / PAGE);
      const page = bytes.slice(a, a + PAGE);
      bytes.copyWithin(a, b, b + PAGE);
      bytes.set(page, b);
      if (Buffer.compare(bytes, from) === 0) continue;
    } else if (kind === 4) bytes = Buffer.concat([bytes, bytes.subarray(at)]);
    else {
      const a = PAGE * next(bytes.length / PAGE);
      bytes = Buffer.concat([bytes.subarray(0, a), bytes.subarray(a + PAGE)]);
    }
    if (restore(bytes)) throw new Error(`round ${round}: kind ${kind} at ${at} was taken`);
  }
  expect(cuts).toBeGreaterThan(ROUNDS / 10);
});

test("cut off at every multiple of 64 bytes", () => {
  for (let end = 0; end < small.length; end += 64) {
    if (restore(small.subarray(0, end))) throw new Error(`${end} of ${small.length} bytes`);
  }
});

test(`${RESEALED} made-up ones, whose checksums are right`, () => {
  const next = random(2);
  let taken = 0;
  for (let round = 0; round < RESEALED; round++) {
    if (restore(reseal(mutate(Uint8Array.from(round % 4 === 0 ? small : whole), next)))) taken++;
  }
  // Memory may hold anything, and most registers may.
  expect(taken).toBeGreaterThan(RESEALED / 10);
  expect(taken).toBeLessThan(RESEALED);
});

interface Place {
  type: number;
  at: number;
  length: number;
  stored: number;
}

function records(bytes: Uint8Array): Place[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found: Place[] = [];
  for (let at = 0; at + HEAD <= bytes.length;) {
    const length = Number(view.getBigUint64(at + 8, true));
    const stored = view.getUint32(at + 20, true);
    found.push({ type: view.getUint32(at, true), at, length, stored });
    const next = at + padded(HEAD + length) + padded(stored);
    if (next <= at || next > bytes.length) break;
    at = next;
  }
  return found;
}

/** Some bytes of a record's payload, or its head, become others. */
function mutate(bytes: Uint8Array, next: (limit: number) => number): Uint8Array {
  const all = records(bytes);
  const { STATE, CPU, HOT } = RecordType;
  const likely = all.filter(({ type }) => type === STATE || type === CPU || type === HOT);
  const record = next(4) === 0 ? all[next(all.length)] : likely[next(likely.length)];
  for (let count = 1 + next(4); count > 0; count--) {
    const inHead = next(16) === 0;
    const at = inHead ? record.at + next(36) : record.at + HEAD + next(Math.max(1, record.length));
    if (at >= bytes.length) continue;
    const kind = next(4);
    if (kind === 0) bytes[at] ^= 1 << next(8);
    else if (kind === 1) bytes[at] = [0, 1, 0x7f, 0x80, 0xff][next(5)];
    else if (kind === 2) bytes[at] = next(256);
    else bytes.fill(next(2) * 0xff, at, Math.min(at + 8, bytes.length));
  }
  return bytes;
}

/** Makes all checksums right again. */
function reseal(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let before = 0n;
  for (const { at, length, stored } of records(bytes)) {
    const data = at + padded(HEAD + length);
    if (stored > 0 && data + stored <= bytes.length) {
      view.setBigUint64(at + 24, checksum(bytes.subarray(data, data + stored)), true);
    }
    view.setBigUint64(at + 40, before, true);
    view.setBigUint64(at + 48, checksum(bytes.subarray(at + HEAD, at + HEAD + length)), true);
    before = checksum(bytes.subarray(at, at + 56));
    view.setBigUint64(at + 56, before, true);
  }
  return bytes;
}
