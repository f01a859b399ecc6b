/** Checksums by which two runs are told to be the same. */
import { hash } from "bun";
import { RecordType, PAGE } from "../../vmm/snapshot/format.ts";
import { usedPages } from "../../vmm/snapshot/machine-memory.ts";
import { encodeCpuRecord } from "../snapshot/cpu-record.ts";
import type { VmLife } from "../vm-life.ts";

/** XXH3 over the register blocks, the CPU and the clock. The CPU's must have been saved. */
export function registersHash({ image, machine }: VmLife): bigint {
  let sum = hash.xxHash3(encodeCpuRecord(image, machine.clock.now));
  for (const { layout, offset } of image.blocks) {
    sum = hash.xxHash3(image.state.subarray(offset, offset + layout.size), sum);
  }
  return sum;
}

/**
 * SHA-256 over a whole machine: its CPU and clock, the register blocks in their order, and each page
 * of RAM and ROM that holds anything but zeros, behind its number as f64. As hexadecimal digits.
 */
export function imageHash(life: VmLife): string {
  const { image, machine, engine } = life;
  engine.saveCpu();
  machine.clock.sample();
  const hasher = new Bun.CryptoHasher("sha256");
  hasher.update(encodeCpuRecord(image, machine.clock.now));
  for (const { layout, offset } of image.blocks) {
    hasher.update(Uint32Array.of(RecordType.STATE, layout.size));
    hasher.update(image.state.subarray(offset, offset + layout.size));
  }
  for (const { page, count } of usedPages(image, -1).runs()) {
    for (let i = 0; i < count; i++) {
      hasher.update(Float64Array.of(page + i));
      for (const bytes of image.memory.bytes((page + i) * PAGE, PAGE)) hasher.update(bytes);
    }
  }
  return hasher.digest("hex");
}
