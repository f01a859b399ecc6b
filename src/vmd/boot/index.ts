/**
 * boot/: what puts a kernel or firmware into a machine.
 *
 * A loader is a function of a file's bytes and guest memory: it checks the file, places it with
 * what its boot protocol asks for, and returns the state to start the CPU in. It opens no file,
 * knows no device and no engine, and fails only with a BootError.
 */

import type { Boot, BootFormat, BootOptions } from "./boot.ts";
import { BootError, Bytes, size } from "./bytes.ts";
import { type Elf, isElf, readElf, readNotes } from "./elf.ts";
import { firmwareRange, loadFirmware, looksLikeFirmware } from "./firmware.ts";
import { gunzip, isGzip } from "./gzip.ts";
import { identifyByNotes, identifyByVersion } from "./identify.ts";
import { isBzImage, loadLinux } from "./linux.ts";
import { findMultibootHeader, loadMultiboot } from "./multiboot.ts";
import { loadFreeBsd, loadNetBsd, loadOpenBsd } from "./openbsd.ts";
import { loadPvh, pvhEntry } from "./pvh.ts";
import { loadVmlinux } from "./vmlinux.ts";

export type { Boot, BootFormat, BootModule, BootOptions } from "./boot.ts";
export { BootError } from "./bytes.ts";
export { extractVmlinux } from "./extract.ts";
export {
  classicMemoryMap,
  classicRam,
  E820_ACPI,
  E820_NVS,
  E820_RAM,
  E820_RESERVED,
  type E820Entry,
  HOLE_BASE,
  packE820,
} from "./e820.ts";

type Loader = (file: Bytes, options: BootOptions) => Boot;

const LOADERS: Record<BootFormat, Loader> = {
  firmware: loadFirmware,
  linux: loadLinux,
  vmlinux: loadVmlinux,
  pvh: loadPvh,
  multiboot: loadMultiboot,
  openbsd: loadOpenBsd,
  netbsd: loadNetBsd,
  freebsd: loadFreeBsd,
};

/** No kernel is larger unpacked, and a Buffer could hold more. In bytes. */
const UNPACKED_MAX = 2 ** 30;

/**
 * Puts `options.kernel` into `options.memory` and returns how to enter it. `format` "auto" (the
 * default) looks at the file. Memory must be zeroed. Throws BootError and nothing else.
 */
export function loadKernel(options: BootOptions & { format?: BootFormat | "auto" }): Boot {
  try {
    const file = unpack(options);
    const { format = "auto" } = options;
    const chosen = format === "auto" ? detectFormat(file) : format;
    const loader = LOADERS[chosen];
    if (loader === undefined) throw file.error(`unknown format ${format}`);
    if (chosen === "firmware" && file.data !== options.kernel) {
      throw file.error("gzip: neither ELF nor a Linux bzImage inside; firmware must not be packed");
    }
    return loader(file, options);
  } catch (error) {
    if (error instanceof BootError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new BootError(`${options.name}: can't be loaded: ${reason}`, { cause: error });
  }
}

/** A kernel compressed by gzip is unpacked first, to no more than the machine's RAM. */
function unpack(options: BootOptions): Bytes {
  const file = new Bytes(options.name, options.kernel);
  if (!isGzip(file)) return file;
  const limit = Math.min(options.memory.size, UNPACKED_MAX);
  return new Bytes(file.name, gunzip(file, limit));
}

/** The format of an unpacked file, by its contents. Throws BootError when it is none. */
export function detectFormat(file: Bytes): BootFormat {
  if (isElf(file)) return detectElf(readElf(file));
  if (isBzImage(file)) return "linux";
  if (findMultibootHeader(file) !== undefined) return "multiboot";
  if (looksLikeFirmware(file)) return "firmware";
  throw file.error(
    "not a kernel: neither ELF nor a Linux bzImage, and no firmware image with a jump at its " +
      `reset vector (${size(file.size)}); format firmware takes it as it is`,
  );
}

/**
 * The ROM that a machine must have before loadKernel puts this file into it: undefined for
 * anything but firmware. Throws nothing; what is wrong with the file, loadKernel says.
 */
export function romRange(
  kernel: Uint8Array,
  format: BootFormat | "auto" = "auto",
): { base: number; size: number } | undefined {
  const file = new Bytes("", kernel);
  const other =
    isGzip(file) || isElf(file) || isBzImage(file) || findMultibootHeader(file) !== undefined;
  const firmware =
    format === "firmware" || (format === "auto" && !other && looksLikeFirmware(file));
  return firmware ? firmwareRange(kernel.length) : undefined;
}

/**
 * Whoever supports several protocols is entered by the one that needs least: Linux by its own
 * (no PVH glue), OpenBSD as vmd does it, others by Multiboot or PVH if they can. What is left is
 * loaded as vmd loads every ELF file.
 */
function detectElf(elf: Elf): BootFormat {
  const notes = readNotes(elf);
  const system = identifyByNotes(elf, notes);
  if (system === "linux") return "vmlinux";
  if (system === "openbsd") return "openbsd";
  if (findMultibootHeader(elf.file) !== undefined) return "multiboot";
  const named = system ?? identifyByVersion(elf.file);
  if (named === "linux") return "vmlinux";
  if (pvhEntry(elf, notes) !== undefined) return "pvh";
  return named ?? "openbsd";
}
