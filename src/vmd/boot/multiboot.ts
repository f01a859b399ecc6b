/**
 * Multiboot 1: a header in the first 8 KiB of a file, loaded by its own addresses (the "a.out
 * kludge") or as ELF, entered in 32-bit protected mode with EBX = the information structure.
 * Source: Multiboot Specification 0.6.96, sections 3.1-3.3.
 */

import { flat } from "../../vmm/cpu.ts";
import { type Boot, type BootOptions, checkOptions, commandLine } from "./boot.ts";
import { alignUp, type Bytes, BootError, hex } from "./bytes.ts";
import { E820_RAM, type E820Entry, ONE_MIB } from "./e820.ts";
import { isElf, physicalEntry, placeSegments, readElf } from "./elf.ts";
import { Layout, MULTIBOOT_LOW, PAGE, placeGdt, protectedState } from "./low-memory.ts";

const HEADER_MAGIC = 0x1badb002;
const ENTRY_MAGIC = 0x2badb002;
const SEARCH = 8192;
/** Flags of the header. Page-aligned modules and memory information are always given. */
const WANTS_VIDEO = 4;
const UNDERSTOOD = 0x7;
const HAS_ADDRESSES = 0x10000;
/** Flags of the information structure. */
const MEMORY = 1;
const COMMAND_LINE = 4;
const MODULES = 8;
const MEMORY_MAP = 0x40;
const LOADER_NAME = 0x200;
const INFO_SIZE = 120;
const CODE = 0x08;
const DATA = 0x10;
const LOADER = "vmd";
/** BIOS data area: ports of COM1, EBDA segment, KiB of conventional memory. */
const BDA = { base: 0x400, size: 0x100, com1: 0, ebda: 0x0e, memory: 0x13 } as const;
const COM1 = 0x3f8;

/** File offset of the Multiboot header, if there is one. */
export function findMultibootHeader(file: Bytes): number | undefined {
  for (let at = 0; at + 12 <= Math.min(SEARCH, file.size); at += 4) {
    if (file.u32(at, "magic") !== HEADER_MAGIC) continue;
    const flags = file.u32(at + 4, "flags");
    if (((HEADER_MAGIC + flags + file.u32(at + 8, "checksum")) & 0xffffffff) === 0) return at;
  }
  return undefined;
}

/** Loads a Multiboot kernel with modules and command lines. Throws BootError. */
export function loadMultiboot(file: Bytes, options: BootOptions): Boot {
  checkOptions(options, "multiboot");
  const header = findMultibootHeader(file);
  if (header === undefined) throw file.error("no Multiboot header in the first 8 KiB");
  const flags = file.u32(header + 4, "flags");
  const unknown = flags & 0xffff & ~UNDERSTOOD;
  if (unknown !== 0) throw file.error(`Multiboot header: unknown requirements ${hex(unknown)}`);
  const layout = new Layout(file.name, options.memory, options.e820);
  const { entry, end, form } =
    (flags & HAS_ADDRESSES) !== 0 ? placeByHeader(layout, file, header) : placeElf(layout, file);
  placeInfo(layout, options, end);
  placeBiosData(layout);
  const gdt = placeGdt(layout, MULTIBOOT_LOW.gdt, [flat(CODE, "code32"), flat(DATA, "data")]);
  layout.place("the stack", MULTIBOOT_LOW.stack, new Uint8Array(0), PAGE);
  const video = (flags & WANTS_VIDEO) !== 0 ? ", asks for video, which there is not" : "";
  return {
    cpu: {
      ...protectedState(CODE, DATA, gdt),
      rax: ENTRY_MAGIC,
      rbx: MULTIBOOT_LOW.info,
      rip: entry,
      rsp: MULTIBOOT_LOW.stack + PAGE,
    },
    format: "multiboot",
    entry,
    description: `Multiboot kernel (${form}), entry ${hex(entry)}${video}`,
  };
}

interface Placed {
  entry: number;
  end: number;
  form: string;
}

function placeElf(layout: Layout, file: Bytes): Placed {
  if (!isElf(file)) {
    throw file.error("Multiboot header: neither an ELF file nor load addresses in the header");
  }
  const elf = readElf(file);
  const end = placeSegments(layout, elf, (segment) => segment.paddr);
  const entry = physicalEntry(elf);
  if (entry >= 2 ** 32) throw file.error(`e_entry: ${hex(entry)} lies above 4 GiB`);
  return { entry, end, form: `ELF${elf.bits}` };
}

/** Loads what the header's address fields say; section 3.1.3. */
function placeByHeader(layout: Layout, file: Bytes, header: number): Placed {
  const [headerAddress, load, loadEnd, bssEnd, entry] = [
    "header_addr",
    "load_addr",
    "load_end_addr",
    "bss_end_addr",
    "entry_addr",
  ].map((field, i) => file.u32(header + 12 + i * 4, field));
  const offset = header - (headerAddress - load);
  if (load > headerAddress || offset < 0) {
    throw file.error(`load_addr: ${hex(load)} doesn't fit header_addr, ${hex(headerAddress)}`);
  }
  if (loadEnd !== 0 && loadEnd < load) {
    throw file.error(`load_end_addr: ${hex(loadEnd)} lies below load_addr, ${hex(load)}`);
  }
  const length = loadEnd === 0 ? file.size - offset : loadEnd - load;
  const bytes = file.slice(offset, length, "load_end_addr");
  if (bssEnd !== 0 && bssEnd < load + length) {
    throw file.error(`bss_end_addr: ${hex(bssEnd)} lies below the end of the data`);
  }
  const end = Math.max(bssEnd, load + length);
  if (entry < load || entry >= end) {
    throw file.error(`entry_addr: ${hex(entry)} lies outside what is loaded`);
  }
  layout.place("the kernel", load, bytes, end - load);
  return { entry, end, form: "addresses in its header" };
}

/** Where the next string or table goes in the information block. */
class Block {
  readonly bytes = new Uint8Array(MULTIBOOT_LOW.infoSize);
  readonly view = new DataView(this.bytes.buffer);
  #used = INFO_SIZE;

  constructor(readonly name: string) {}

  /** Reserves `size` bytes, 4-aligned. Returns their offset in the block. */
  reserve(size: number): number {
    const at = this.#used;
    this.#used = alignUp(at + size, 4);
    if (this.#used > this.bytes.length) {
      throw new BootError(
        `${this.name}: command lines, modules and memory map need more than 20 KiB`,
      );
    }
    return at;
  }

  /** Adds a string. Returns its guest-physical address. */
  string(text: string): number {
    const bytes = commandLine(this.name, text, this.bytes.length);
    const at = this.reserve(bytes.length);
    this.bytes.set(bytes, at);
    return MULTIBOOT_LOW.info + at;
  }
}

/** Places the modules after the kernel, and the information structure; section 3.3. */
function placeInfo(layout: Layout, options: BootOptions, kernelEnd: number): void {
  const { e820, modules = [], cmdline, name } = options;
  const block = new Block(name);
  const u32 = (offset: number, value: number) => block.view.setUint32(offset, value, true);
  u32(0, MEMORY | COMMAND_LINE | MODULES | MEMORY_MAP | LOADER_NAME);
  u32(4, contiguousRam(e820, 0) / 1024);
  u32(8, Math.min(contiguousRam(e820, ONE_MIB) / 1024, 0xffffffff));
  u32(16, block.string(withName(name, cmdline)));
  u32(20, modules.length);
  const table = block.reserve(modules.length * 16);
  u32(24, MULTIBOOT_LOW.info + table);
  let next = kernelEnd;
  for (const [i, module] of modules.entries()) {
    const start = alignUp(next, PAGE);
    next = start + module.data.length;
    layout.place(`module ${module.name}`, start, module.data);
    if (next > 2 ** 32) throw new BootError(`${module.name}: no room for the module below 4 GiB`);
    u32(table + i * 16, start);
    u32(table + i * 16 + 4, next);
    u32(table + i * 16 + 8, block.string(withName(module.name, module.args)));
  }
  const map = block.reserve(e820.length * 24);
  u32(44, e820.length * 24);
  u32(48, MULTIBOOT_LOW.info + map);
  for (const [i, { base, size, type }] of e820.entries()) {
    u32(map + i * 24, 20);
    block.view.setBigUint64(map + i * 24 + 4, BigInt(base), true);
    block.view.setBigUint64(map + i * 24 + 12, BigInt(size), true);
    u32(map + i * 24 + 20, type);
  }
  u32(64, block.string(LOADER));
  layout.place("the Multiboot information", MULTIBOOT_LOW.info, block.bytes);
}

/**
 * A Multiboot loader runs on a BIOS, and some kernels (Xen) look in its data area for the end of
 * conventional memory, without a check that there is something.
 */
function placeBiosData(layout: Layout): void {
  const area = new Uint8Array(BDA.size);
  const view = new DataView(area.buffer);
  const end = contiguousRam(layout.e820, 0);
  view.setUint16(BDA.com1, COM1, true);
  view.setUint16(BDA.ebda, Math.min(end / 16, 0xffff), true);
  view.setUint16(BDA.memory, Math.min(end / 1024, 0xffff), true);
  layout.place("the BIOS data area", BDA.base, area);
}

/** Kernels and modules expect their name as the first word, as GRUB gives it. */
function withName(name: string, args = ""): string {
  return args === "" ? name : `${name} ${args}`;
}

/** Bytes of RAM from `base` up to the first hole. */
function contiguousRam(e820: readonly E820Entry[], base: number): number {
  const entry = e820.find((e) => e.type === E820_RAM && base >= e.base && base < e.base + e.size);
  return entry === undefined ? 0 : entry.base + entry.size - base;
}
