/**
 * Names of a guest's addresses: from an ELF file's symbol table (ELF specification, "Symbol Table"), or
 * from lines as nm and /proc/kallsyms have them ("ffffffffc0000000 t name [module]").
 */
import { readFileSync } from "node:fs";
import { FuzzError } from "./machine.ts";

const ELF = 0x464c457f;
const CLASS = 4;
const SHT_SYMTAB = 2;
const SHT_DYNSYM = 11;
const SHN_UNDEF = 0;
/** STT_NOTYPE and STT_FUNC, STT_OBJECT: what has an address in memory. */
const TYPES = [0, 1, 2];

/** A module's code ends at most so far behind its last symbol. */
const LAST_FUNCTION = 4096n;

interface Symbol {
  readonly name: string;
  readonly address: bigint;
  /** Of the kernel, whose code it is. */
  readonly module?: string;
}

export class Symbols {
  readonly #byName = new Map<string, bigint>();
  readonly #sorted: Symbol[] = [];

  /** @throws FuzzError */
  static read(path: string): Symbols {
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch (error) {
      throw new FuzzError(`${path}: ${(error as Error).message}`);
    }
    const isElf = bytes.length >= 64 && bytes.readUInt32LE(0) === ELF;
    const found = isElf ? elfSymbols(bytes) : textSymbols(bytes.toString("latin1"));
    if (found.length === 0) throw new FuzzError(`${path}: no symbols in it`);
    return new Symbols(found);
  }

  /** Those of several files. @throws FuzzError */
  static all(paths: readonly string[]): Symbols {
    return new Symbols(paths.flatMap((path) => Symbols.read(path).#sorted));
  }

  constructor(symbols: readonly Symbol[] = []) {
    for (const { name, address } of symbols) {
      if (!this.#byName.has(name)) this.#byName.set(name, address);
    }
    this.#sorted = symbols.toSorted(
      (a, b) => Number(a.address > b.address) - Number(a.address < b.address),
    );
  }

  address(name: string): bigint | undefined {
    return this.#byName.get(name);
  }

  /** From a kernel module's first function to the end of its last one. */
  module(name: string): { from: bigint; to: bigint } | undefined {
    const found = this.#sorted.filter(({ module }) => module === name);
    if (found.length === 0) return undefined;
    return { from: found[0].address, to: found[found.length - 1].address + LAST_FUNCTION };
  }

  /** "name+0x12" for an address behind a symbol, by less than 1 MiB; else hexadecimal digits. */
  name(address: bigint): string {
    let low = 0;
    let high = this.#sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#sorted[middle].address <= address) low = middle + 1;
      else high = middle;
    }
    const before = this.#sorted[low - 1];
    if (before === undefined || address - before.address >= 2n ** 20n)
      return `0x${address.toString(16)}`;
    const offset = address - before.address;
    return offset === 0n ? before.name : `${before.name}+0x${offset.toString(16)}`;
  }
}

/**
 * Where an ELF file's program lies: from the page of its first segment to the end of its last one.
 * Undefined: it is no ELF file, or has none. Segments at 0 don't count beside others: Linux has its
 * processors' own variables there.
 */
export function imageOf(path: string): { base: bigint; end: bigint } | undefined {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
    if (bytes.length < 64 || bytes.readUInt32LE(0) !== ELF) return undefined;
    const segments = bytes[CLASS] === 2 ? segments64(bytes) : segments32(bytes);
    const placed = segments.filter(({ at }) => at > 0n);
    const all = placed.length > 0 ? placed : segments;
    if (all.length === 0) return undefined;
    const base = all.reduce((low, { at }) => (at < low ? at : low), all[0].at) & ~0xfffn;
    const end = all.reduce((high, { at, size }) => (at + size > high ? at + size : high), 0n);
    return { base, end };
  } catch {
    // It can't be read, or ends too early.
    return undefined;
  }
}

interface LoadedSegment {
  readonly at: bigint;
  readonly size: bigint;
}

const PT_LOAD = 1;

function segments64(bytes: Buffer): LoadedSegment[] {
  const table = Number(bytes.readBigUInt64LE(0x20));
  const list: LoadedSegment[] = [];
  for (let index = 0; index < bytes.readUInt16LE(0x38); index++) {
    const header = table + index * bytes.readUInt16LE(0x36);
    if (bytes.readUInt32LE(header) !== PT_LOAD) continue;
    list.push({
      at: bytes.readBigUInt64LE(header + 16),
      size: bytes.readBigUInt64LE(header + 40),
    });
  }
  return list;
}

function segments32(bytes: Buffer): LoadedSegment[] {
  const table = bytes.readUInt32LE(0x1c);
  const list: LoadedSegment[] = [];
  for (let index = 0; index < bytes.readUInt16LE(0x2c); index++) {
    const header = table + index * bytes.readUInt16LE(0x2a);
    if (bytes.readUInt32LE(header) !== PT_LOAD) continue;
    list.push({
      at: BigInt(bytes.readUInt32LE(header + 8)),
      size: BigInt(bytes.readUInt32LE(header + 20)),
    });
  }
  return list;
}

function elfSymbols(bytes: Buffer): Symbol[] {
  try {
    return bytes[CLASS] === 2 ? elf64(bytes) : elf32(bytes);
  } catch (error) {
    if (error instanceof RangeError) return []; // it ends too early
    throw error;
  }
}

function elf64(bytes: Buffer): Symbol[] {
  const table = Number(bytes.readBigUInt64LE(0x28));
  return sectionSymbols(
    bytes,
    bytes.readUInt16LE(0x3c),
    (index) => {
      const at = table + index * bytes.readUInt16LE(0x3a);
      return {
        type: bytes.readUInt32LE(at + 4),
        offset: Number(bytes.readBigUInt64LE(at + 24)),
        size: Number(bytes.readBigUInt64LE(at + 32)),
        link: bytes.readUInt32LE(at + 40),
      };
    },
    24,
    (at) => ({
      name: bytes.readUInt32LE(at),
      info: bytes[at + 4],
      section: bytes.readUInt16LE(at + 6),
      address: bytes.readBigUInt64LE(at + 8),
    }),
  );
}

function elf32(bytes: Buffer): Symbol[] {
  const table = bytes.readUInt32LE(0x20);
  return sectionSymbols(
    bytes,
    bytes.readUInt16LE(0x30),
    (index) => {
      const at = table + index * bytes.readUInt16LE(0x2e);
      return {
        type: bytes.readUInt32LE(at + 4),
        offset: bytes.readUInt32LE(at + 16),
        size: bytes.readUInt32LE(at + 20),
        link: bytes.readUInt32LE(at + 24),
      };
    },
    16,
    (at) => ({
      name: bytes.readUInt32LE(at),
      info: bytes[at + 12],
      section: bytes.readUInt16LE(at + 14),
      address: BigInt(bytes.readUInt32LE(at + 4)),
    }),
  );
}

interface Section {
  readonly type: number;
  readonly offset: number;
  readonly size: number;
  readonly link: number;
}

function sectionSymbols(
  bytes: Buffer,
  count: number,
  section: (index: number) => Section,
  size: number,
  entry: (at: number) => { name: number; info: number; section: number; address: bigint },
): Symbol[] {
  const found: Symbol[] = [];
  for (let index = 0; index < count; index++) {
    const table = section(index);
    if (table.type !== SHT_SYMTAB && table.type !== SHT_DYNSYM) continue;
    const strings = section(table.link).offset;
    for (let at = table.offset; at + size <= table.offset + table.size; at += size) {
      const symbol = entry(at);
      if (symbol.section === SHN_UNDEF || !TYPES.includes(symbol.info & 15)) continue;
      const start = strings + symbol.name;
      const name = bytes.toString("latin1", start, bytes.indexOf(0, start));
      if (name !== "") found.push({ name, address: symbol.address });
    }
  }
  return found;
}

function textSymbols(text: string): Symbol[] {
  const lines = text.matchAll(/^([0-9a-f]{8,16}) ([a-zA-Z]) (\S+)(?:[ \t]+\[(\S+)\])?/gm);
  return Array.from(lines, ([, address, type, name, module]) => {
    const isCode = type === "t" || type === "T";
    return { name, address: BigInt(`0x${address}`), ...(isCode && { module }) };
  });
}
