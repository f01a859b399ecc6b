/**
 * The CPU record of a snapshot: guest time, and struct vmm_cpu of native/vmm.h.
 *
 * ```
 *  0  u32  version of what follows
 *  4  u32  0
 *  8  i64  guest time, ns
 * 16  i64  virtual clock: ns that it was moved ahead
 * 24  u64  virtual clock: blocks executed
 * 32  u32  0: real, 1: virtual clock
 * 36  u32  virtual clock: ns for a block
 * 40  struct vmm_cpu
 * ```
 */
import type { MachineImage } from "../../vmm/image.ts";
import { checkCpu } from "../../vmm/cpu-check.ts";
import { CPU_LAYOUT } from "../../vmm/cpu-codec.ts";
import { SnapshotError } from "../../vmm/snapshot/format.ts";

const VERSION = 1;
const CPU = 40;
export const CPU_RECORD_SIZE = CPU + CPU_LAYOUT.size;
// struct vmm_clock
const ORIGIN = 0;
const WARP = 8;
const BLOCKS = 16;
const MODE = 24;
const NS_PER_BLOCK = 28;
const VIRTUAL = 1;
/** 2^53 ns: a hundred days. What is beyond isn't exact. */
const TIME_MAX = 2n ** 60n;

/** @param now guest time, ns */
export function encodeCpuRecord(image: MachineImage, now: number): Uint8Array {
  const record = new Uint8Array(CPU_RECORD_SIZE);
  const view = new DataView(record.buffer);
  const { clock, cpu } = image;
  view.setUint32(0, VERSION, true);
  view.setBigInt64(8, BigInt(Math.floor(now)), true);
  view.setBigInt64(16, clock.getBigInt64(WARP, true), true);
  view.setBigUint64(24, clock.getBigUint64(BLOCKS, true), true);
  view.setUint32(32, clock.getUint32(MODE, true), true);
  view.setUint32(36, clock.getUint32(NS_PER_BLOCK, true), true);
  record.set(new Uint8Array(cpu.buffer, cpu.byteOffset, CPU_LAYOUT.size), CPU);
  return record;
}

/**
 * Sets an image's clock, before an engine is opened on it. What passes while no engine is there is
 * no guest time.
 * @returns whether time is virtual
 * @throws SnapshotError
 */
export function applyClock(image: MachineImage, record: Uint8Array): boolean {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  if (record.length !== CPU_RECORD_SIZE) throw new SnapshotError("its CPU has another size");
  const version = view.getUint32(0, true);
  if (version !== VERSION) throw new SnapshotError(`its CPU is of version ${version}`);
  const now = view.getBigInt64(8, true);
  const warp = view.getBigInt64(16, true);
  const blocks = view.getBigUint64(24, true);
  const mode = view.getUint32(32, true);
  const nsPerBlock = view.getUint32(36, true);
  if (now < 0n || now > TIME_MAX || mode > VIRTUAL || nsPerBlock > 1e6) {
    throw new SnapshotError("its clock can't be");
  }
  if (warp < -TIME_MAX || warp > TIME_MAX || blocks > TIME_MAX) {
    throw new SnapshotError("its clock can't be");
  }
  const { clock } = image;
  const virtual = mode === VIRTUAL;
  // With origin 0, opening an engine sets it to the host's time: guest time is then `warp`.
  clock.setBigInt64(ORIGIN, 0n, true);
  clock.setBigInt64(WARP, virtual ? warp : now, true);
  clock.setBigUint64(BLOCKS, virtual ? blocks : 0n, true);
  clock.setUint32(NS_PER_BLOCK, nsPerBlock, true);
  return virtual;
}

/** Sets an image's CPU registers, which an engine then loads. @throws SnapshotError */
export function applyCpu(image: MachineImage, record: Uint8Array): void {
  const cpu = record.slice(CPU);
  const why = checkCpu(new DataView(cpu.buffer));
  if (why !== undefined) throw new SnapshotError(`its CPU's state is none that can be: ${why}`);
  new Uint8Array(image.cpu.buffer, image.cpu.byteOffset, CPU_LAYOUT.size).set(cpu);
}
