/** A guest's memory as a debugger sees it: by linear addresses, or by physical ones. */
import type { GuestMemory } from "../../vmm/memory.ts";
import { entriesOf, pagingRegisters, translate } from "../../vmm/paging.ts";
import type { VmLife } from "../vm-life.ts";

const PAGE = 4096;

/** @returns what can be read from the start of the range on, in full or less. */
export function readMemory(
  life: VmLife,
  address: bigint,
  length: number,
  physical: boolean,
): Uint8Array {
  const { memory } = life.image;
  const bytes = new Uint8Array(length);
  let done = 0;
  pieces(life, address, length, physical, (at, offset, count) => {
    const got = readPhysical(memory, at, bytes.subarray(offset, offset + count));
    done = offset + got;
    return got === count;
  });
  return bytes.subarray(0, done);
}

/** All or nothing. @returns whether it was written */
export function writeMemory(
  life: VmLife,
  address: bigint,
  bytes: Uint8Array,
  physical: boolean,
): boolean {
  const { memory } = life.image;
  const parts: { at: number; offset: number; count: number }[] = [];
  const all = pieces(life, address, bytes.length, physical, (at, offset, count) => {
    if (!memory.contains(at, count)) return false;
    parts.push({ at, offset, count });
    return true;
  });
  if (!all) return false;
  for (const { at, offset, count } of parts) {
    memory.write(at, bytes.subarray(offset, offset + count));
  }
  return true;
}

/** @returns whether `use` took all of the range, page by page. */
function pieces(
  { engine, image }: VmLife,
  address: bigint,
  length: number,
  physical: boolean,
  use: (at: number, offset: number, count: number) => boolean,
): boolean {
  const { memory } = image;
  if (!physical) engine.saveCpu();
  const registers = pagingRegisters(image.cpu);
  const entries = entriesOf(memory);
  for (let offset = 0; offset < length;) {
    const linear = BigInt.asUintN(64, address + BigInt(offset));
    const count = Math.min(length - offset, PAGE - Number(linear % BigInt(PAGE)));
    const at = physical ? Number(linear) : translate(registers, linear, entries);
    if (at === undefined || !use(at, offset, count)) return false;
    offset += count;
  }
  return true;
}

/** RAM or ROM. @returns how many bytes there are. */
function readPhysical(memory: GuestMemory, address: number, into: Uint8Array): number {
  if (memory.contains(address, into.length)) {
    memory.read(address, into);
    return into.length;
  }
  const has = (at: number) =>
    memory.ranges.some(({ base, size }) => at >= base && at < base + size);
  let done = 0;
  while (done < into.length && has(address + done)) into[done] = memory.read8(address + done++);
  return done;
}
