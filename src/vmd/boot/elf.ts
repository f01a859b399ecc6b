/**
 * ELF files for x86: header, program headers, sections, notes, and placing the segments.
 * Sources: System V ABI, chapters 4 and 5; its i386 and x86-64 supplements.
 */

import { alignUp, Bytes, hex } from "./bytes.ts";
import type { Layout } from "./low-memory.ts";

export const PT_LOAD = 1;
export const PT_NOTE = 4;
/** To be filled with random bytes; OpenBSD's sys/exec_elf.h. */
export const PT_OPENBSD_RANDOMIZE = 0x65a3dbe6;
export const SHT_SYMTAB = 2;
export const SHT_STRTAB = 3;
export const SHT_NOBITS = 8;
export const ELFOSABI_FREEBSD = 9;
const ET_EXEC = 2;
const ET_DYN = 3;
/** EM_386, EM_486, EM_X86_64. */
const MACHINES = [3, 6, 62];
/** No kernel has more; bounds the time that placing them takes. */
const SEGMENTS_MAX = 256;
const NOTES_MAX = 1024;
const NAME_MAX = 64;

/** A program header. Addresses have all their bits; sizes and offsets are exact numbers. */
export interface Segment {
  index: number;
  type: number;
  flags: number;
  offset: number;
  vaddr: bigint;
  paddr: bigint;
  filesz: number;
  memsz: number;
  align: number;
}

export interface Section {
  index: number;
  name: string;
  nameOffset: number;
  type: number;
  offset: number;
  size: number;
}

export interface SectionTable {
  /** The table as it is in the file. */
  bytes: Uint8Array;
  entrySize: number;
  sections: Section[];
}

export interface Note {
  owner: string;
  type: number;
  desc: Uint8Array;
}

export interface Elf {
  file: Bytes;
  bits: 32 | 64;
  osabi: number;
  entry: bigint;
  segments: Segment[];
}

/** Sizes and field offsets of the structures in both classes. */
const SHAPE = {
  32: { header: 52, phentsize: 32, shentsize: 40, phoff: 28, shoff: 32, phentsizeAt: 42 },
  64: { header: 64, phentsize: 56, shentsize: 64, phoff: 32, shoff: 40, phentsizeAt: 54 },
} as const;

export function isElf(file: Bytes): boolean {
  return file.size >= 4 && file.u32(0, "e_ident") === 0x464c457f;
}

/** Size of the ELF header of a class, in bytes. */
export function headerSize(bits: 32 | 64): number {
  return SHAPE[bits].header;
}

/** An address, offset or size of the file's class. */
function word(file: Bytes, bits: 32 | 64, offset: number, field: string): number {
  return bits === 64 ? file.u53(offset, field) : file.u32(offset, field);
}

function address(file: Bytes, bits: 32 | 64, offset: number, field: string): bigint {
  return bits === 64 ? file.u64(offset, field) : BigInt(file.u32(offset, field));
}

/** Reads and checks the ELF header and the program headers. Throws BootError. */
export function readElf(file: Bytes): Elf {
  if (!isElf(file)) throw file.error("not an ELF file");
  const elfClass = file.u8(4, "EI_CLASS");
  if (elfClass !== 1 && elfClass !== 2)
    throw file.error(`EI_CLASS: ${elfClass} is neither 1 nor 2`);
  const bits = elfClass === 2 ? 64 : 32;
  if (file.u8(5, "EI_DATA") !== 1) throw file.error("EI_DATA: not a little-endian file");
  const type = file.u16(16, "e_type");
  if (type !== ET_EXEC && type !== ET_DYN) {
    throw file.error(`e_type: ${type} is not an executable file (2 or 3)`);
  }
  const machine = file.u16(18, "e_machine");
  if (!MACHINES.includes(machine)) throw file.error(`e_machine: ${machine} is not x86`);
  const entry = address(file, bits, 24, "e_entry");
  const segments = readSegments(file, bits);
  return { file, bits, osabi: file.u8(7, "EI_OSABI"), entry, segments };
}

function readSegments(file: Bytes, bits: 32 | 64): Segment[] {
  const { phoff, phentsize, phentsizeAt } = SHAPE[bits];
  const table = word(file, bits, phoff, "e_phoff");
  const entrySize = file.u16(phentsizeAt, "e_phentsize");
  const count = file.u16(phentsizeAt + 2, "e_phnum");
  if (count === 0) throw file.error("e_phnum: no program headers, so nothing to load");
  if (count > SEGMENTS_MAX) {
    throw file.error(`e_phnum: ${count} program headers; at most ${SEGMENTS_MAX} are supported`);
  }
  if (entrySize !== phentsize) {
    throw file.error(`e_phentsize: ${entrySize} instead of ${phentsize}`);
  }
  file.check(table, 1, "e_phoff");
  file.check(table, count * entrySize, "e_phnum");
  const segments: Segment[] = [];
  for (let i = 0; i < count; i++) segments.push(readSegment(file, bits, table + i * entrySize, i));
  return segments;
}

function readSegment(file: Bytes, bits: 32 | 64, at: number, index: number): Segment {
  const field = (name: string) => `program header ${index}: ${name}`;
  // ELF64 moved p_flags up, to keep 8-byte fields aligned.
  const [flags, offset, vaddr, paddr, filesz, memsz, align] =
    bits === 64 ? [4, 8, 16, 24, 32, 40, 48] : [24, 4, 8, 12, 16, 20, 28];
  const segment: Segment = {
    index,
    type: file.u32(at, field("p_type")),
    flags: file.u32(at + flags, field("p_flags")),
    offset: word(file, bits, at + offset, field("p_offset")),
    vaddr: address(file, bits, at + vaddr, field("p_vaddr")),
    paddr: address(file, bits, at + paddr, field("p_paddr")),
    filesz: word(file, bits, at + filesz, field("p_filesz")),
    memsz: word(file, bits, at + memsz, field("p_memsz")),
    align: word(file, bits, at + align, field("p_align")),
  };
  if (segment.type === PT_LOAD && segment.memsz < segment.filesz) {
    throw file.error(
      `${field("p_filesz")}: ${hex(segment.filesz)} is more than p_memsz, ${hex(segment.memsz)}`,
    );
  }
  return segment;
}

/** The part of the file that a segment holds. Throws BootError if it isn't all there. */
export function segmentBytes(elf: Elf, segment: Segment): Uint8Array {
  const { offset, filesz, index } = segment;
  if (filesz === 0) return new Uint8Array(0);
  elf.file.check(offset, 1, `program header ${index}: p_offset`);
  return elf.file.slice(offset, filesz, `program header ${index}: p_filesz`);
}

/**
 * Places every loadable segment at `where(segment)`: filesz bytes of the file, then zeroes up to
 * memsz. Segments outside RAM or over each other are refused, which also bounds the work.
 * Returns the first address after the highest segment.
 */
export function placeSegments(
  layout: Layout,
  elf: Elf,
  where: (segment: Segment) => bigint,
): number {
  let end = 0;
  for (const segment of elf.segments) {
    if (segment.type !== PT_LOAD || segment.memsz === 0) continue;
    const bytes = segmentBytes(elf, segment);
    const base = where(segment);
    if (base > Number.MAX_SAFE_INTEGER) {
      throw elf.file.error(`program header ${segment.index}: address ${hex(base)} is not RAM`);
    }
    layout.place(`segment ${segment.index}`, Number(base), bytes, segment.memsz);
    end = Math.max(end, Number(base) + segment.memsz);
  }
  if (end === 0) throw elf.file.error("no loadable segments");
  return end;
}

/**
 * The physical address of the entry point, for protocols that enter without paging. A kernel that
 * is linked high gives it as a virtual address of one of its segments.
 */
export function physicalEntry(elf: Elf): number {
  const loads = elf.segments.filter((segment) => segment.type === PT_LOAD);
  const { entry } = elf;
  const physical = loads.some((s) => entry >= s.paddr && entry < s.paddr + BigInt(s.memsz));
  if (physical) return Number(entry);
  const high = loads.find((s) => entry >= s.vaddr && entry < s.vaddr + BigInt(s.memsz));
  if (high !== undefined) return Number(entry - high.vaddr + high.paddr);
  throw elf.file.error(`e_entry: ${hex(entry)} lies in no loadable segment`);
}

/** The notes of all PT_NOTE segments. Throws BootError for one that reaches beyond its segment. */
export function readNotes(elf: Elf): Note[] {
  const notes: Note[] = [];
  for (const segment of elf.segments) {
    if (segment.type !== PT_NOTE) continue;
    const align = segment.align === 8 ? 8 : 4;
    const at = new Bytes(
      `${elf.file.name}: notes (program header ${segment.index})`,
      segmentBytes(elf, segment),
      "the notes",
    );
    // A note is three words, a name and a description, each padded; less than 12 bytes is padding.
    for (let offset = 0; offset + 12 <= at.size;) {
      if (notes.length === NOTES_MAX) throw elf.file.error(`more than ${NOTES_MAX} notes`);
      const nameSize = at.u32(offset, "n_namesz");
      const descSize = at.u32(offset + 4, "n_descsz");
      const type = at.u32(offset + 8, "n_type");
      const desc = alignUp(offset + 12 + nameSize, align);
      at.check(offset + 12, nameSize, "n_namesz");
      const owner = at.text(offset + 12, Math.min(nameSize, NAME_MAX), "name");
      notes.push({
        owner,
        type,
        desc: descSize === 0 ? NONE : at.slice(desc, descSize, "n_descsz"),
      });
      offset = alignUp(desc + descSize, align);
    }
  }
  return notes;
}

const NONE = new Uint8Array(0);

/** Reads and checks the section header table; no sections if there is none. Throws BootError. */
export function readSections(elf: Elf): SectionTable {
  const { file, bits } = elf;
  const { shentsize, shoff, phentsizeAt } = SHAPE[bits];
  const offset = word(file, bits, shoff, "e_shoff");
  const entrySize = file.u16(phentsizeAt + 4, "e_shentsize");
  const count = file.u16(phentsizeAt + 6, "e_shnum");
  const names = file.u16(phentsizeAt + 8, "e_shstrndx");
  if (offset === 0 || count === 0) return { bytes: NONE, entrySize: shentsize, sections: [] };
  if (entrySize !== shentsize)
    throw file.error(`e_shentsize: ${entrySize} instead of ${shentsize}`);
  if (names >= count) throw file.error(`e_shstrndx: ${names}, but there are ${count} sections`);
  file.check(offset, 1, "e_shoff");
  const bytes = file.slice(offset, count * entrySize, "e_shnum");
  const sections: Section[] = [];
  for (let i = 0; i < count; i++) sections.push(readSection(file, bits, offset + i * entrySize, i));
  nameSections(elf, sections, sections[names]);
  return { bytes, entrySize, sections };
}

function readSection(file: Bytes, bits: 32 | 64, at: number, index: number): Section {
  const field = (name: string) => `section ${index}: ${name}`;
  const [offset, size] = bits === 64 ? [24, 32] : [16, 20];
  return {
    index,
    name: "",
    nameOffset: file.u32(at, field("sh_name")),
    type: file.u32(at + 4, field("sh_type")),
    offset: word(file, bits, at + offset, field("sh_offset")),
    size: word(file, bits, at + size, field("sh_size")),
  };
}

function nameSections(elf: Elf, sections: Section[], strings: Section): void {
  const names = new Bytes(
    `${elf.file.name}: section names`,
    sectionBytes(elf, strings),
    "the table",
  );
  for (const section of sections) {
    // Section 0 has no name, and a table of no names is legal when nothing has one.
    if (section.nameOffset === 0) continue;
    section.name = names.text(section.nameOffset, NAME_MAX, `section ${section.index}: sh_name`);
  }
}

/** A section's bytes in the file; none for SHT_NOBITS. Throws BootError if they aren't all there. */
export function sectionBytes(elf: Elf, section: Section): Uint8Array {
  if (section.type === SHT_NOBITS || section.size === 0) return NONE;
  const field = (name: string) => `section ${section.index}: ${name}`;
  elf.file.check(section.offset, 1, field("sh_offset"));
  return elf.file.slice(section.offset, section.size, field("sh_size"));
}
