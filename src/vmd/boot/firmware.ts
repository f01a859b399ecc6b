/**
 * Firmware: a BIOS image at the end of the first 4 GiB, entered at the reset vector.
 * Sources: Intel SDM vol. 3A, 10.1.4 (first instruction); vmd's limits on the image.
 */

import { resetState } from "../../vmm/cpu.ts";
import { type Boot, type BootOptions, checkOptions } from "./boot.ts";
import { alignUp, type Bytes, size as text } from "./bytes.ts";
import { FIRMWARE_SIZE, FOUR_GIB, ONE_MIB } from "./e820.ts";
import { PAGE } from "./low-memory.ts";

/** The reset vector holds at least a far jump. */
const SMALLEST = 15;
/** The first instruction's place, bytes from the image's end. */
const RESET_VECTOR = 16;
/** JMP rel16, JMP ptr16:16, JMP rel8. */
const JUMPS = [0xe9, 0xea, 0xeb];
/** What of the image is seen below 1 MiB too, in bytes. */
const LOW_COPY = 0x20000;

/**
 * The range of ROM that an image needs, whole pages below 4 GiB; undefined if its size is wrong.
 */
export function firmwareRange(bytes: number): { base: number; size: number } | undefined {
  if (bytes < SMALLEST || bytes > FIRMWARE_SIZE) return undefined;
  const size = alignUp(bytes, PAGE);
  return { base: FOUR_GIB - size, size };
}

/**
 * Whether a file looks like a firmware image: whole pages, and at the reset vector a jump, which
 * every image has. vmd takes any file for one; a mistyped path would then run as code.
 */
export function looksLikeFirmware(file: Bytes): boolean {
  if (firmwareRange(file.size) === undefined || file.size % PAGE !== 0) return false;
  return JUMPS.includes(file.data[file.size - RESET_VECTOR]);
}

/**
 * Prepares a firmware image of 15 bytes to 4 MiB. The machine must map `rom` read-only; here only
 * the copy of the image's top 128 KiB is written, to RAM that ends at 1 MiB. Throws BootError.
 */
export function loadFirmware(file: Bytes, options: BootOptions): Boot {
  checkOptions(options, "firmware");
  const range = firmwareRange(file.size);
  if (range === undefined) {
    throw file.error(`firmware must have 15 bytes to 4 MiB, and this file has ${text(file.size)}`);
  }
  // Flash that nothing was written to reads as ones.
  const bytes = new Uint8Array(range.size).fill(0xff);
  bytes.set(file.data, bytes.length - file.size);
  const copy = file.data.subarray(Math.max(0, file.size - LOW_COPY));
  const low = ONE_MIB - copy.length;
  if (
    !options.memory.ranges.some((r) => !r.readonly && low >= r.base && ONE_MIB <= r.base + r.size)
  ) {
    throw file.error("firmware needs RAM up to 1 MiB");
  }
  options.memory.write(low, copy);
  const cpu = resetState();
  return {
    cpu,
    format: "firmware",
    entry: cpu.cs.base + cpu.rip,
    rom: { base: range.base, bytes },
    description: `firmware of ${text(file.size)}, entered at the reset vector`,
  };
}
