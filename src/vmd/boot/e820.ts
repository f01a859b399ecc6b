/**
 * The classic machine's memory map, in the form of the BIOS call INT 15h, AX=E820h.
 * Source: ACPI specification 6.5, table 15.4 (types); vmd's machine (addresses).
 *
 * | range | use |
 * |---|---|
 * | 0 - 0x9f000 | RAM (636 KiB) |
 * | 0x9f000 - 1 MiB | reserved: EBDA, option ROMs, the BIOS's copy |
 * | 1 MiB - 0xf0000000 | RAM, up to the machine's size |
 * | 0xf0000000 - 0xffc00000 | hole for devices: not in the map |
 * | 0xffc00000 - 4 GiB | reserved: firmware |
 * | 4 GiB - | the rest of RAM |
 */

import { BootError, size as text } from "./bytes.ts";

export const E820_RAM = 1;
export const E820_RESERVED = 2;
export const E820_ACPI = 3;
export const E820_NVS = 4;

/** One range; addresses and sizes in bytes. */
export interface E820Entry {
  readonly base: number;
  readonly size: number;
  readonly type: number;
}

/** The display's window. */
const VGA_BASE = 0xa0000;
const VGA_END = 0xc0000;
/** End of conventional memory. */
export const LOW_RAM_END = 0x9f000;
export const ONE_MIB = 0x100000;
/** RAM below 4 GiB ends here at the latest. */
export const HOLE_BASE = 0xf0000000;
/** Room for firmware below 4 GiB, in bytes. */
export const FIRMWARE_SIZE = 0x400000;
export const FOUR_GIB = 2 ** 32;
/** vmd's limits on a machine's memory, in bytes. */
export const MEMORY_MIN = ONE_MIB;
export const MEMORY_MAX = 128 * 2 ** 30;

/**
 * The memory map of a classic machine with `memory` bytes of RAM (whole pages, 1 MiB - 128 GiB).
 * The reserved range below 1 MiB counts as part of `memory`, as in vmd.
 */
export function classicMemoryMap(memory: number): E820Entry[] {
  if (!(memory >= MEMORY_MIN && memory <= MEMORY_MAX) || memory % 4096 !== 0) {
    throw new BootError(
      `memory: ${text(memory)} is not a whole number of pages between 1 MiB and 128 GiB`,
    );
  }
  const map: E820Entry[] = [
    { base: 0, size: LOW_RAM_END, type: E820_RAM },
    { base: LOW_RAM_END, size: ONE_MIB - LOW_RAM_END, type: E820_RESERVED },
  ];
  const low = Math.min(memory, HOLE_BASE);
  if (low > ONE_MIB) map.push({ base: ONE_MIB, size: low - ONE_MIB, type: E820_RAM });
  map.push({ base: FOUR_GIB - FIRMWARE_SIZE, size: FIRMWARE_SIZE, type: E820_RESERVED });
  if (memory > HOLE_BASE) {
    map.push({ base: FOUR_GIB, size: memory - HOLE_BASE, type: E820_RAM });
  }
  return map;
}

/**
 * The guest-physical ranges to back with memory for classicMemoryMap(memory). The display's window
 * is left out: this machine has no display, and memory there passes for one.
 */
export function classicRam(memory: number): { base: number; size: number }[] {
  const low = Math.min(memory, HOLE_BASE);
  const ranges = [
    { base: 0, size: VGA_BASE },
    { base: VGA_END, size: low - VGA_END },
  ];
  if (memory > HOLE_BASE) ranges.push({ base: FOUR_GIB, size: memory - HOLE_BASE });
  return ranges;
}

/**
 * An E820 table as Linux's boot_params and fw_cfg's etc/e820 hold it: entries of 20 bytes,
 * { u64 base, u64 size, u32 type }, packed.
 */
export function packE820(map: readonly E820Entry[]): Uint8Array {
  const bytes = new Uint8Array(map.length * 20);
  const view = new DataView(bytes.buffer);
  for (const [i, entry] of map.entries()) {
    view.setBigUint64(i * 20, BigInt(entry.base), true);
    view.setBigUint64(i * 20 + 8, BigInt(entry.size), true);
    view.setUint32(i * 20 + 16, entry.type, true);
  }
  return bytes;
}
