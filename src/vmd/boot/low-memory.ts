/**
 * Where a loader's own structures lie in guest memory, and the check that nothing a loader places
 * (kernel, initrd, modules, tables) overlaps anything else or misses RAM.
 *
 * OpenBSD's addresses are vmd's. The other protocols reuse its GDT, page tables and stack, except
 * Multiboot, whose images may be linked as low as 0x8000: all of its structures lie below.
 *
 * | address | size | protocol | what |
 * |---|---|---|---|
 * | 0x400 | 256 | Multiboot | BIOS data area |
 * | 0x1000 | 4 KiB | Multiboot | GDT |
 * | 0x2000 | 4 KiB | OpenBSD | boot arguments |
 * | 0x2000 | 20 KiB | Multiboot | information, strings |
 * | 0x6000 | 4 KiB | PVH | start information |
 * | 0x7000 | 4 KiB | Linux | zero page (boot_params) |
 * | 0x7000 | 4 KiB | Multiboot | stack |
 * | 0xf000 | 4 KiB | OpenBSD, Linux | stack |
 * | 0x10000 | 4 KiB | OpenBSD, Linux, PVH | GDT |
 * | 0x11000 | 24 KiB | OpenBSD, Linux | page tables: PML4, PDPT, four page directories |
 * | 0x20000 | 64 KiB | Linux, PVH | command line |
 */

import type { CpuState, DescriptorTable, Segment } from "../../vmm/cpu.ts";
import { CR0, CR4, EFER, flat, resetState } from "../../vmm/cpu.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import { alignDown, BootError, hex, size as text } from "./bytes.ts";
import { E820_RAM, type E820Entry } from "./e820.ts";

export const PAGE = 4096;

export const LOW = {
  bootArguments: 0x2000,
  startInfo: 0x6000,
  zeroPage: 0x7000,
  stack: 0xf000,
  gdt: 0x10000,
  pageTables: 0x11000,
  commandLine: 0x20000,
} as const;

/** Multiboot's structures, all below 0x8000. */
export const MULTIBOOT_LOW = {
  gdt: 0x1000,
  info: 0x2000,
  infoSize: 0x5000,
  stack: 0x7000,
} as const;

/** Room for a command line with its NUL, in bytes. */
export const COMMAND_LINE_ROOM = 0x10000;

interface Area {
  what: string;
  base: number;
  end: number;
}

/** Guest memory as a loader sees it: RAM of the E820 map, minus what is placed already. */
export class Layout {
  readonly #placed: Area[] = [];

  constructor(
    /** Name of the file being loaded, for sentences. */
    readonly name: string,
    readonly memory: GuestMemory,
    readonly e820: readonly E820Entry[],
  ) {}

  /** RAM in bytes, as the map says. */
  get ram(): number {
    return this.e820.reduce((sum, entry) => sum + (entry.type === E820_RAM ? entry.size : 0), 0);
  }

  /** Takes [base, base+size) for `what`. Throws BootError if it isn't RAM or is taken. */
  reserve(what: string, base: number, size: number): void {
    const end = base + size;
    if (!this.#isRam(base, end)) {
      throw new BootError(
        `${this.name}: ${what} needs ${text(size)} at ${hex(base)}, which is not RAM: ` +
          this.#ramSentence(),
      );
    }
    const other = this.#overlap(base, end);
    if (other !== undefined) {
      throw new BootError(
        `${this.name}: ${what} (${hex(base)}-${hex(end)}) overlaps ${other.what} ` +
          `(${hex(other.base)}-${hex(other.end)})`,
      );
    }
    this.#placed.push({ what, base, end });
  }

  /** Reserves and writes; bytes between data.length and `size` become 0. */
  place(what: string, base: number, data: Uint8Array, size = data.length): void {
    this.reserve(what, base, size);
    this.memory.write(base, data);
    this.memory.fill(base + data.length, size - data.length, 0);
  }

  /**
   * The highest free page-aligned address for `size` bytes that end at or below `limit`, reserved.
   * Throws BootError when there is none.
   */
  reserveHigh(what: string, size: number, limit: number): number {
    for (let base of this.#candidates(size, limit)) {
      for (;;) {
        const other = this.#overlap(base, base + size);
        if (other === undefined) break;
        base = alignDown(other.base - size, PAGE);
      }
      if (base >= 0 && this.#isRam(base, base + size)) {
        this.reserve(what, base, size);
        return base;
      }
    }
    throw new BootError(
      `${this.name}: no room for ${what} (${text(size)}) below ${hex(limit)}: ` +
        this.#ramSentence(),
    );
  }

  /** For each RAM range, highest first: the highest page at which `size` bytes would fit. */
  #candidates(size: number, limit: number): number[] {
    return this.e820
      .filter((entry) => entry.type === E820_RAM)
      .map((entry) => alignDown(Math.min(entry.base + entry.size, limit) - size, PAGE))
      .sort((a, b) => b - a);
  }

  #isRam(base: number, end: number): boolean {
    return (
      base >= 0 &&
      end >= base &&
      this.e820.some((e) => e.type === E820_RAM && base >= e.base && end <= e.base + e.size) &&
      this.memory.ranges.some((r) => !r.readonly && base >= r.base && end <= r.base + r.size)
    );
  }

  #overlap(base: number, end: number): Area | undefined {
    return this.#placed.find((area) => base < area.end && area.base < end);
  }

  #ramSentence(): string {
    const ranges = this.e820
      .filter((entry) => entry.type === E820_RAM)
      .map((entry) => `${hex(entry.base)}-${hex(entry.base + entry.size)}`);
    return `the machine's RAM is ${ranges.join(", ")}`;
  }
}

/** A segment as its 8-byte descriptor; Intel SDM vol. 3A, figure 3-8. */
export function descriptor(segment: Segment): bigint {
  const limit = segment.g ? Math.floor(segment.limit / 4096) : segment.limit;
  const access =
    segment.type | (segment.s << 4) | (segment.dpl << 5) | (segment.present ? 0x80 : 0);
  const flags = segment.avl | (segment.l << 1) | (segment.db << 2) | (segment.g << 3);
  return (
    BigInt(limit & 0xffff) |
    (BigInt(segment.base & 0xffffff) << 16n) |
    (BigInt(access) << 40n) |
    (BigInt((limit >>> 16) & 0xf) << 48n) |
    (BigInt(flags) << 52n) |
    (BigInt(segment.base >>> 24) << 56n)
  );
}

/**
 * Puts a GDT with these segments, each at its own selector, into the page at `base`.
 * Returns the GDTR for it.
 */
export function placeGdt(
  layout: Layout,
  base: number,
  segments: readonly Segment[],
): DescriptorTable {
  const last = Math.max(...segments.map((segment) => segment.selector));
  const page = new Uint8Array(PAGE);
  const view = new DataView(page.buffer);
  for (const segment of segments) view.setBigUint64(segment.selector, descriptor(segment), true);
  layout.place("the GDT", base, page);
  return { base, limit: last + 7 };
}

/**
 * Page tables that map the first `gib` GiB (1-4) to themselves in pages of 2 MiB, writable and
 * for user mode too, as vmd has them: PML4, PDPT, then the page directories. Returns CR3.
 */
export function placeIdentityMap(layout: Layout, base: number, gib: number): number {
  const tables = new Uint8Array((2 + gib) * PAGE);
  const view = new DataView(tables.buffer);
  view.setUint32(0, (base + PAGE) | PRESENT_WRITABLE_USER, true);
  for (let g = 0; g < gib; g++) {
    const directory = (2 + g) * PAGE;
    view.setUint32(PAGE + g * 8, (base + directory) | PRESENT_WRITABLE_USER, true);
    for (let i = 0; i < 512; i++) {
      const page = ((g << 30) | (i << 21) | LARGE | PRESENT_WRITABLE_USER) >>> 0;
      view.setUint32(directory + i * 8, page, true);
    }
  }
  layout.place("the page tables", base, tables);
  return base;
}

export const PRESENT_WRITABLE_USER = 7;
export const LARGE = 0x80;

/** Segment registers of a flat entry state: `code` in CS, `data` in all others. */
function flatState(code: Segment, data: Segment, gdt: DescriptorTable): CpuState {
  return {
    ...resetState(),
    rdx: 0,
    cs: code,
    ds: data,
    es: { ...data },
    fs: { ...data },
    gs: { ...data },
    ss: { ...data },
    gdt,
    idt: { base: 0, limit: 0 },
  };
}

/** 32-bit protected mode without paging, interrupts off. */
export function protectedState(code: number, data: number, gdt: DescriptorTable): CpuState {
  return {
    ...flatState(flat(code, "code32"), flat(data, "data"), gdt),
    cr0: CR0.PE | CR0.ET,
  };
}

/** Long mode with paging; `kind` says whether CS holds 64-bit or compatibility-mode code. */
export function longState(
  code: number,
  kind: "code64" | "code32",
  data: number,
  gdt: DescriptorTable,
  cr3: number,
): CpuState {
  return {
    ...flatState(flat(code, kind), flat(data, "data"), gdt),
    // PG is bit 31: added, since | would make it negative.
    cr0: (CR0.PE | CR0.ET) + CR0.PG,
    cr3,
    cr4: CR4.PAE,
    efer: EFER.LME | EFER.LMA,
  };
}
