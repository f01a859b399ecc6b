/** A machine image's pages: which ones a snapshot holds, and back into an image. */
import type { MachineImage } from "../image.ts";
import type { GuestMemory, MemoryRange } from "../memory.ts";
import { check, hostLibrary, ptr } from "../native.ts";
import { COMPRESSED, PAGE, RecordType, type Run, SnapshotError } from "./format.ts";
import { PageSet } from "./page-set.ts";
import type { SnapshotReader, SnapshotRecord } from "./reader.ts";

/** Pages between runs that are written too rather than that a run ends: fewer are sooner mapped. */
const GAP = 8;
/** Of a template, which is mapped again and again. */
export const TEMPLATE_GAP = 32;
/** So many pages at most are read at once rather than mapped, where that is wanted. */
export const FEW = 2048;
/** ... in records whose runs have fewer pages than that, on average. */
const SHORT = 8;
/** Mappings of one machine, then the rest is read: the host allows a process some 65,000. */
const MAPPED_MAX = 16_384;

/**
 * The pages that hold anything but zeros.
 * @param pagemap descriptor of vmm_pagemap_open, or -1: then all pages are looked at
 */
export function usedPages(image: MachineImage, pagemap: number): PageSet {
  const { ranges } = image.memory;
  const set = new PageSet(ranges);
  ranges.forEach(({ host, size }, index) => {
    look(host, size / PAGE, set.bitmaps[index], pagemap);
  });
  // Untouched pages there are a file's.
  if (image.overlaid.length === 0) return set;
  const overlaid = new PageSet(ranges);
  for (const { page, count } of image.overlaid) overlaid.add(page * PAGE, count * PAGE);
  set.addAll(usedOf(image, overlaid, -1));
  return set;
}

/** Of some pages, those that hold anything but zeros; see usedPages. */
export function usedOf(image: MachineImage, pages: PageSet, pagemap: number): PageSet {
  const { ranges } = image.memory;
  const used = new PageSet(ranges);
  // Untouched pages of a file hold something.
  const map = image.overlaid.length > 0 ? -1 : pagemap;
  for (const { page, count } of pages.runs()) {
    const { base, host } = rangeOf(ranges, page * PAGE, count * PAGE) as MemoryRange;
    const bitmap = new Uint8Array(Math.ceil(count / 64) * 8);
    look(host + (page * PAGE - base), count, bitmap, map);
    for (let i = 0; i < count; i++) {
      if ((bitmap[i >> 3] & (1 << (i & 7))) !== 0) used.add((page + i) * PAGE, PAGE);
    }
  }
  return used;
}

/** The same of `count` pages that lie in one range, as runs. */
export function usedRuns(image: MachineImage, page: number, count: number, pagemap: number): Run[] {
  const range = rangeOf(image.memory.ranges, page * PAGE, count * PAGE) as MemoryRange;
  const set = new PageSet([{ ...range, base: page * PAGE, size: count * PAGE }]);
  const map = image.overlaid.length > 0 ? -1 : pagemap;
  look(range.host + (page * PAGE - range.base), count, set.bitmaps[0], map);
  return [...set.runs()];
}

function look(address: number, pages: number, bitmap: Uint8Array, pagemap: number): void {
  const used = hostLibrary().vmm_memory_used(address, pages, ptr(bitmap), pagemap);
  check("looking at a machine's pages", used);
}

/** Runs with small gaps closed: the pages there hold what they hold. */
export function* closeGaps(set: PageSet, pages = GAP): Generator<Run> {
  let last: Run | undefined;
  for (const run of set.runs()) {
    if (last === undefined) {
      last = run;
      continue;
    }
    const gap = run.page - (last.page + last.count);
    const together = gap >= 0 && gap <= pages;
    const whole = { page: last.page, count: run.page + run.count - last.page };
    if (together && rangeOf(set.ranges, whole.page * PAGE, whole.count * PAGE) !== undefined) {
      last = whole;
    } else {
      yield last;
      last = run;
    }
  }
  if (last !== undefined) yield last;
}

function rangeOf(
  ranges: readonly MemoryRange[],
  address: number,
  length: number,
): MemoryRange | undefined {
  return ranges.find(({ base, size }) => address >= base && address + length <= base + size);
}

export interface LoadOptions {
  /** A file whose pages are mapped, and come when they are touched; absent: all is read. */
  readonly file?: number;
  /** Mapped pages are looked at before, too. */
  readonly verify: boolean;
  /**
   * A few pages in short runs are read, not mapped: that is sooner done where the file is in memory, and
   * the machine about to go on. Not with `verify`.
   */
  readonly eager?: boolean;
}

/** Puts a snapshot's pages into an image. */
export class MemoryLoader {
  readonly #image: MachineImage;
  readonly #memory: GuestMemory;
  readonly #reader: SnapshotReader;
  readonly #options: LoadOptions;
  #mapped = 0;
  /** Pages so far. */
  pages = 0;
  /** Some were copied, not mapped. */
  copied = false;

  constructor(image: MachineImage, reader: SnapshotReader, options: LoadOptions) {
    this.#image = image;
    this.#memory = image.memory;
    this.#reader = reader;
    this.#options = options;
  }

  /** Takes a PAGES or ZERO record that the reader has just given. @throws SnapshotError */
  take(record: SnapshotRecord): void {
    for (const { page, count } of record.runs) {
      if (rangeOf(this.#memory.ranges, page * PAGE, count * PAGE) === undefined) {
        throw new SnapshotError("it has pages where the machine has no memory");
      }
    }
    if (record.head.type === RecordType.ZERO) {
      // Of what an earlier file has there, too: what is cleared now was written.
      if (this.#image.overlaid.length > 0) this.copied = true;
      for (const run of record.runs) this.#image.clearPages(run.page * PAGE, run.count * PAGE);
      return;
    }
    this.pages += record.head.pages;
    if (this.#readAtOnce(record)) return;
    const { file, verify } = this.#options;
    const map =
      file !== undefined &&
      (record.head.flags & COMPRESSED) === 0 &&
      this.#mapped + record.runs.length <= MAPPED_MAX;
    // What is mapped is not read, unless it is to be looked at.
    const data = map && !verify ? undefined : this.#reader.data(record);
    let at = 0;
    for (const { page, count } of record.runs) {
      const length = count * PAGE;
      if (map) this.#image.overlay(page * PAGE, length, file, record.offset + at);
      else this.#copy(page * PAGE, (data as Uint8Array).subarray(at, at + length));
      at += length;
    }
    if (map) this.#mapped += record.runs.length;
    else this.copied = true;
  }

  #readAtOnce({ head, runs, offset }: SnapshotRecord): boolean {
    const { file, verify, eager = false } = this.#options;
    if (!eager || verify || file === undefined || (head.flags & COMPRESSED) !== 0) return false;
    if (this.pages > FEW || head.pages >= SHORT * runs.length) return false;
    this.#image.readPages(runs, file, offset);
    this.copied = true;
    return true;
  }

  #copy(address: number, bytes: Uint8Array): void {
    let at = 0;
    for (const piece of this.#memory.bytes(address, bytes.length)) {
      piece.set(bytes.subarray(at, at + piece.length));
      at += piece.length;
    }
    this.#memory.written(address, bytes.length);
  }
}
