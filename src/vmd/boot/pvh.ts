/**
 * PVH: kernels that name a 32-bit entry point in an ELF note and take hvm_start_info.
 * Sources: Xen's public/arch-x86/hvm/start_info.h, public/elfnote.h and docs/misc/pvh.pandoc.
 */

import { flat } from "../../vmm/cpu.ts";
import { type Boot, type BootOptions, checkOptions, commandLine } from "./boot.ts";
import { type Bytes, BootError, hex } from "./bytes.ts";
import { type Elf, type Note, placeSegments, PT_LOAD, readElf, readNotes } from "./elf.ts";
import { COMMAND_LINE_ROOM, Layout, LOW, PAGE, placeGdt, protectedState } from "./low-memory.ts";
import { placeInitrd } from "./zero-page.ts";

/** XEN_ELFNOTE_PHYS32_ENTRY. */
const PHYS32_ENTRY = 18;
/** "xEn3" with the top bit of the E set. */
const MAGIC = 0x336ec578;
const CODE = 0x08;
const DATA = 0x10;
/** Offsets in the start information page: hvm_start_info, then the module, then the map. */
const MODULE = 0x40;
const MEMORY_MAP = 0x80;
const MAP_ENTRY = 24;
/** The spec sets no limit for an initrd; below 2 GiB every kernel can reach it. */
const INITRD_END = 0x80000000;

/** The address in the PVH note, if there is one. Throws BootError for a malformed note. */
export function pvhEntry(elf: Elf, notes: readonly Note[]): number | undefined {
  const note = notes.find(({ owner, type }) => owner === "Xen" && type === PHYS32_ENTRY);
  if (note === undefined) return undefined;
  const { desc } = note;
  if (desc.length !== 4 && desc.length !== 8) {
    throw elf.file.error(`PVH note: the entry point has ${desc.length} bytes, neither 4 nor 8`);
  }
  const view = new DataView(desc.buffer, desc.byteOffset, desc.length);
  if (desc.length === 8 && view.getUint32(4, true) !== 0) {
    throw elf.file.error("PVH note: the entry point lies above 4 GiB");
  }
  return view.getUint32(0, true);
}

/** Loads an ELF kernel by its PVH note, with initrd and command line. Throws BootError. */
export function loadPvh(file: Bytes, options: BootOptions): Boot {
  checkOptions(options, "pvh");
  const elf = readElf(file);
  const entry = pvhEntry(elf, readNotes(elf));
  if (entry === undefined) throw file.error("no PVH entry point: the XEN_ELFNOTE 18 is missing");
  const layout = new Layout(file.name, options.memory, options.e820);
  placeSegments(layout, elf, (segment) => segment.paddr);
  const inKernel = elf.segments.some(
    ({ type, paddr, memsz }) => type === PT_LOAD && entry >= paddr && entry < Number(paddr) + memsz,
  );
  if (!inKernel) throw file.error(`PVH note: ${hex(entry)} lies in no loadable segment`);
  layout.place("the start information", LOW.startInfo, makeStartInfo(layout, options), PAGE);
  const gdt = placeGdt(layout, LOW.gdt, [flat(CODE, "code32"), flat(DATA, "data")]);
  const cpu = protectedState(CODE, DATA, gdt);
  return {
    // The specification gives TR the limit of a bare TSS.
    cpu: { ...cpu, rip: entry, rbx: LOW.startInfo, tr: { ...cpu.tr, limit: 0x67 } },
    format: "pvh",
    entry,
    description: `PVH kernel (ELF${elf.bits}), 32-bit entry ${hex(entry)}`,
  };
}

/** Places command line and initrd; returns hvm_start_info version 1 with what it points to. */
function makeStartInfo(layout: Layout, options: BootOptions): Uint8Array {
  const { e820, initrd } = options;
  const bytes = new Uint8Array(MEMORY_MAP + e820.length * MAP_ENTRY);
  if (bytes.length > PAGE) {
    throw new BootError(`the memory map has too many entries (${e820.length}) for PVH`);
  }
  const view = new DataView(bytes.buffer);
  const u64 = (offset: number, value: number) => view.setBigUint64(offset, BigInt(value), true);
  const line = commandLine(options.name, options.cmdline ?? "", COMMAND_LINE_ROOM - 1);
  layout.place("the command line", LOW.commandLine, line);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, 1, true);
  if (initrd !== undefined && initrd.length > 0) {
    view.setUint32(12, 1, true);
    u64(16, LOW.startInfo + MODULE);
    u64(MODULE, placeInitrd(layout, initrd, INITRD_END));
    u64(MODULE + 8, initrd.length);
  }
  u64(24, LOW.commandLine);
  u64(40, LOW.startInfo + MEMORY_MAP);
  view.setUint32(48, e820.length, true);
  for (const [i, { base, size, type }] of e820.entries()) {
    const at = MEMORY_MAP + i * MAP_ENTRY;
    u64(at, base);
    u64(at + 8, size);
    view.setUint32(at + 16, type, true);
  }
  return bytes;
}
