/**
 * OpenBSD kernels, as vmd loads them: ELF segments and symbols below 256 MiB, boot arguments, and
 * an entry with paging already on. NetBSD and FreeBSD kernels load the same way; as with vmd, what
 * their own boot loaders would tell them is not there.
 *
 * Sources: OpenBSD's sys/stand/boot/bootarg.h, sys/sys/reboot.h (boot device); vmd's layout.
 * OpenBSD/i386 5.1 and 7.9 and OpenBSD/amd64 7.9 start from this state.
 */

import type { CpuState } from "../../vmm/cpu.ts";
import { CR0, CR4, flat } from "../../vmm/cpu.ts";
import { type Boot, type BootFormat, type BootOptions, checkOptions } from "./boot.ts";
import { alignUp, type Bytes, hex, size as text } from "./bytes.ts";
import type { E820Entry } from "./e820.ts";
import { packE820 } from "./e820.ts";
import {
  type Elf,
  headerSize,
  placeSegments,
  PT_LOAD,
  PT_OPENBSD_RANDOMIZE,
  readElf,
  readSections,
  type Section,
  sectionBytes,
  SHT_STRTAB,
  SHT_SYMTAB,
} from "./elf.ts";
import { kernelVersion } from "./identify.ts";
import {
  LARGE,
  Layout,
  longState,
  LOW,
  PAGE,
  placeGdt,
  placeIdentityMap,
  PRESENT_WRITABLE_USER,
  protectedState,
} from "./low-memory.ts";

/** Kernels are linked high; the low 28 bits of an address say where they run. */
const ADDRESS_MASK = 0x0fffffffn;
const ADDRESS_END = 0x10000000;
/** OpenBSD's largest has 4 KiB. */
const RANDOM_MAX = 2 ** 20;
const SHF_ALLOC = 2;

const CODE_32 = 0x08;
const DATA = 0x10;
const CODE_64 = 0x18;

/** Boot arguments; bootarg.h. */
const BOOTARG_MEMMAP = 0;
const BOOTARG_CONSDEV = 5;
const BOOTARG_BOOTMAC = 7;
const BOOTARG_END = 0xffffffff;
/** BAPIV_VECTOR | BAPIV_ENV | BAPIV_BMEMMAP. */
const BOOTARG_API = 0xe;
/** sd0a: MAKEBOOTDEV(major 4, 0, 0, unit 0, partition a). */
const BOOT_DEVICE = 0xa0000004;
/** com0: major 8, minor 0, in dev_t form. */
const CONSOLE_DEVICE = 8 << 8;
const CONSOLE_SPEED = 115200;
const CONSOLE_ADDRESS = 0x3f8;

/** Loads an OpenBSD kernel. Throws BootError. */
export const loadOpenBsd = (file: Bytes, options: BootOptions): Boot =>
  loadBsd(file, options, "openbsd", "OpenBSD");

/** Loads a NetBSD kernel, without NetBSD's own boot information. Throws BootError. */
export const loadNetBsd = (file: Bytes, options: BootOptions): Boot =>
  loadBsd(file, options, "netbsd", "NetBSD");

/** Loads a FreeBSD kernel, without FreeBSD's own metadata. Throws BootError. */
export const loadFreeBsd = (file: Bytes, options: BootOptions): Boot =>
  loadBsd(file, options, "freebsd", "FreeBSD");

function loadBsd(file: Bytes, options: BootOptions, format: BootFormat, system: string): Boot {
  checkOptions(options, format);
  const elf = readElf(file);
  const layout = new Layout(file.name, options.memory, options.e820);
  const kernelEnd = placeSegments(layout, elf, (segment) => segment.paddr & ADDRESS_MASK);
  if (kernelEnd > ADDRESS_END) {
    throw file.error(`the kernel ends at ${hex(kernelEnd)}; it must lie below 256 MiB`);
  }
  fillRandom(layout, elf, options);
  const end = placeSymbols(layout, elf, kernelEnd);
  const entry = readEntry(elf);

  const cpu = elf.bits === 64 ? longEntry(layout) : pagedEntry(layout);
  const bootArguments = makeBootArguments(options.e820, options.bootMac);
  if (bootArguments.length > PAGE) {
    throw file.error(`the memory map has too many entries (${options.e820.length}) for OpenBSD`);
  }
  layout.place("the boot arguments", LOW.bootArguments, bootArguments, PAGE);
  const frame = makeFrame(end, bootArguments.length);
  const stack = new Uint8Array(PAGE);
  stack.set(frame, PAGE - frame.length);
  layout.place("the stack", LOW.stack, stack);
  return {
    cpu: { ...cpu, rip: entry, rsp: LOW.stack + PAGE - frame.length },
    format,
    entry,
    description: `${kernelVersion(file, system) ?? `${system}-style kernel`} (ELF${elf.bits}), entry ${hex(entry)}`,
  };
}

function readEntry(elf: Elf): number {
  const entry = elf.entry & ADDRESS_MASK;
  const inKernel = elf.segments.some((segment) => {
    const base = segment.paddr & ADDRESS_MASK;
    return segment.type === PT_LOAD && entry >= base && entry < base + BigInt(segment.memsz);
  });
  if (!inKernel) throw elf.file.error(`e_entry: ${hex(elf.entry)} lies in no loadable segment`);
  return Number(entry);
}

/** Fills what the kernel asks to be random: after loading, since it lies within its data. */
function fillRandom(layout: Layout, elf: Elf, options: BootOptions): void {
  const random = options.random ?? crypto.getRandomValues.bind(crypto);
  const inside = (base: number, size: number) =>
    elf.segments.some((segment) => {
      const start = Number(segment.paddr & ADDRESS_MASK);
      return segment.type === PT_LOAD && base >= start && base + size <= start + segment.memsz;
    });
  for (const segment of elf.segments) {
    if (segment.type !== PT_OPENBSD_RANDOMIZE || segment.filesz === 0) continue;
    const { filesz, index } = segment;
    if (filesz > RANDOM_MAX) {
      throw elf.file.error(
        `program header ${index}: p_filesz: ${text(filesz)} of random data; at most 1 MiB is given`,
      );
    }
    const base = Number(segment.paddr & ADDRESS_MASK);
    if (!inside(base, filesz)) layout.reserve("the random data", base, filesz);
    const bytes = new Uint8Array(PAGE);
    for (let offset = 0; offset < filesz; offset += PAGE) {
      const chunk = bytes.subarray(0, Math.min(PAGE, filesz - offset));
      random(chunk);
      layout.memory.write(base + offset, chunk);
    }
  }
}

/**
 * Puts the symbols where the kernel's debugger looks for them: after the kernel, as an ELF file of
 * header, section headers and the sections that matter. Returns the end of everything loaded.
 */
function placeSymbols(layout: Layout, elf: Elf, kernelEnd: number): number {
  const table = readSections(elf);
  const { sections, entrySize } = table;
  if (!sections.some((section) => section.type === SHT_SYMTAB)) {
    // Where a kernel looks for symbols it must not find what was left there.
    const end = alignUp(kernelEnd, PAGE);
    layout.place("the page after the kernel", end, new Uint8Array(PAGE));
    return end;
  }
  const word = elf.bits / 8;
  const header = headerSize(elf.bits);
  let size = alignUp(header + table.bytes.length, word);
  const wanted = sections.filter(isSymbolSection).map((section) => {
    const at = size;
    size += alignUp(section.size, word);
    return { section, at, bytes: sectionBytes(elf, section) };
  });
  const base = alignUp(kernelEnd, word);
  if (base + size > ADDRESS_END) {
    throw elf.file.error(`kernel and symbols (${text(size)}) must lie below 256 MiB`);
  }
  // Before there is memory for them: a section without bytes may have any size.
  layout.reserve("the symbols", base, size);
  const block = new Uint8Array(size);
  block.set(elf.file.slice(0, header, "ELF header"));
  block.set(table.bytes, header);
  rewriteHeader(block, elf.bits);
  for (const { section, at, bytes } of wanted) {
    block.set(bytes, at);
    rewriteSection(block, elf.bits, header + section.index * entrySize, at);
  }
  layout.memory.write(base, block);
  return base + size;
}

function isSymbolSection(section: Section): boolean {
  return (
    section.type === SHT_SYMTAB ||
    section.type === SHT_STRTAB ||
    section.name === ".debug_line" ||
    section.name === ".SUNW_ctf"
  );
}

/** No program headers; section headers directly after the header. */
function rewriteHeader(block: Uint8Array, bits: 32 | 64): void {
  const view = new DataView(block.buffer);
  if (bits === 64) {
    view.setBigUint64(32, 0n, true);
    view.setBigUint64(40, 64n, true);
    view.setUint32(54, 0, true);
  } else {
    view.setUint32(28, 0, true);
    view.setUint32(32, 52, true);
    view.setUint32(42, 0, true);
  }
}

/** A copied section: its new offset, and the flag that says it is in memory. */
function rewriteSection(block: Uint8Array, bits: 32 | 64, at: number, offset: number): void {
  const view = new DataView(block.buffer);
  view.setUint32(at + 8, view.getUint32(at + 8, true) | SHF_ALLOC, true);
  if (bits === 64) view.setBigUint64(at + 24, BigInt(offset), true);
  else view.setUint32(at + 16, offset, true);
}

/** The chain of boot arguments: { u32 type, u32 size, u32 address of the next, payload }. */
function makeBootArguments(e820: readonly E820Entry[], bootMac?: Uint8Array): Uint8Array {
  const chain: [type: number, payload: Uint8Array][] = [
    // A range of type 0 ends the map; the other types are E820's.
    [BOOTARG_MEMMAP, packE820([...e820, { base: 0, size: 0, type: 0 }])],
    [BOOTARG_CONSDEV, makeConsole()],
  ];
  if (bootMac !== undefined) chain.push([BOOTARG_BOOTMAC, bootMac]);
  chain.push([BOOTARG_END, new Uint8Array(0)]);
  const sizes = chain.map(([, payload]) => 12 + alignUp(payload.length, 4));
  const bytes = new Uint8Array(sizes.reduce((sum, size) => sum + size, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [i, [type, payload]] of chain.entries()) {
    const next = type === BOOTARG_END ? 0 : LOW.bootArguments + at + sizes[i];
    view.setUint32(at, type, true);
    view.setUint32(at + 4, sizes[i], true);
    view.setUint32(at + 8, next, true);
    bytes.set(payload, at + 12);
    at += sizes[i];
  }
  return bytes;
}

/** struct _bios_consdev: device, speed, address; frequency, flags and register layout stay 0. */
function makeConsole(): Uint8Array {
  const bytes = new Uint8Array(32);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, CONSOLE_DEVICE, true);
  view.setUint32(4, CONSOLE_SPEED, true);
  view.setBigUint64(8, BigInt(CONSOLE_ADDRESS), true);
  return bytes;
}

/** What boot(8) leaves on the stack for the kernel, lowest address first. */
function makeFrame(end: number, bootArgumentsSize: number): Uint8Array {
  const words = [
    0, // return address
    0, // howto: no flags
    BOOT_DEVICE,
    BOOTARG_API,
    end,
    0, // extended memory, KiB: 0 makes the kernel use the memory map
    0, // conventional memory, likewise
    bootArgumentsSize,
    LOW.bootArguments,
  ];
  return new Uint8Array(new Uint32Array(words).buffer);
}

function placeBsdGdt(layout: Layout) {
  const segments = [flat(CODE_32, "code32"), flat(DATA, "data"), flat(CODE_64, "code64")];
  return placeGdt(layout, LOW.gdt, segments);
}

/** 64-bit kernels start in compatibility mode, the first GiB mapped; they jump to 64 bits. */
function longEntry(layout: Layout): CpuState {
  const gdt = placeBsdGdt(layout);
  const cr3 = placeIdentityMap(layout, LOW.pageTables, 1);
  return { ...longState(CODE_32, "code32", DATA, gdt, cr3), cr4: CR4.PAE | CR4.PSE };
}

/** 32-bit kernels start with all 4 GiB mapped to themselves in pages of 4 MiB. */
function pagedEntry(layout: Layout): CpuState {
  const gdt = placeBsdGdt(layout);
  const directory = new Uint32Array(1024);
  for (let i = 0; i < 1024; i++) directory[i] = (i << 22) | LARGE | PRESENT_WRITABLE_USER;
  // vmd's PML3 page: the second of the page table pages.
  const cr3 = LOW.pageTables + PAGE;
  layout.place("the page directory", cr3, new Uint8Array(directory.buffer));
  const cpu = protectedState(CODE_32, DATA, gdt);
  return { ...cpu, cr0: cpu.cr0 + CR0.PG, cr3, cr4: CR4.PSE };
}
