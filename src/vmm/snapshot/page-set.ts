/** A set of guest pages, a bit each, range by range of a machine's memory. */
import type { MemoryRange } from "../memory.ts";
import { PAGE, type Run } from "./format.ts";

export class PageSet {
  readonly ranges: readonly MemoryRange[];
  /** Of each range, whole 64-bit words: as vmm_dirty and vmm_memory_used fill them. */
  readonly bitmaps: readonly Uint8Array[];
  readonly #words: readonly Uint32Array[];

  constructor(ranges: readonly MemoryRange[]) {
    this.ranges = ranges;
    this.bitmaps = ranges.map(({ size }) => new Uint8Array(Math.ceil(size / PAGE / 64) * 8));
    this.#words = this.bitmaps.map((bitmap) => new Uint32Array(bitmap.buffer));
  }

  /** Adds the pages of [address, address + length), as far as there are any. */
  add(address: number, length: number): void {
    if (length <= 0) return;
    for (let i = 0; i < this.ranges.length; i++) {
      const { base, size } = this.ranges[i];
      const from = Math.max(address, base);
      const to = Math.min(address + length, base + size);
      if (from >= to) continue;
      const bitmap = this.bitmaps[i];
      const last = Math.floor((to - 1 - base) / PAGE);
      for (let page = Math.floor((from - base) / PAGE); page <= last; page++) {
        bitmap[page >> 3] |= 1 << (page & 7);
      }
    }
  }

  has(address: number): boolean {
    return this.ranges.some(({ base, size }, i) => {
      if (address < base || address >= base + size) return false;
      const page = Math.floor((address - base) / PAGE);
      return (this.bitmaps[i][page >> 3] & (1 << (page & 7))) !== 0;
    });
  }

  copy(): PageSet {
    const copy = new PageSet(this.ranges);
    copy.addAll(this);
    return copy;
  }

  addAll(other: PageSet): void {
    this.#each(other, (mine, theirs) => mine | theirs);
  }

  removeAll(other: PageSet): void {
    this.#each(other, (mine, theirs) => mine & ~theirs);
  }

  keepOnly(other: PageSet): void {
    this.#each(other, (mine, theirs) => mine & theirs);
  }

  #each(other: PageSet, join: (mine: number, theirs: number) => number): void {
    this.#words.forEach((words, i) => {
      const theirs = other.#words[i];
      for (let at = 0; at < words.length; at++) words[at] = join(words[at], theirs[at]);
    });
  }

  clear(): void {
    for (const words of this.#words) words.fill(0);
  }

  get count(): number {
    let count = 0;
    for (const words of this.#words) for (const word of words) count += bitCount(word);
    return count;
  }

  /** Pages that follow each other, in the order of their addresses within each range. */
  *runs(): Generator<Run> {
    for (let i = 0; i < this.ranges.length; i++) {
      const { base, size } = this.ranges[i];
      const words = this.#words[i];
      const pages = size / PAGE;
      const first = base / PAGE;
      let from = -1;
      for (let page = 0; page < pages; page++) {
        const word = words[page >> 5];
        // Whole words that go on as before.
        if ((page & 31) === 0 && (word === 0 || word === 0xffffffff)) {
          if (word === 0 && from >= 0) {
            yield { page: first + from, count: page - from };
            from = -1;
          } else if (word !== 0 && from < 0) from = page;
          page += 31;
          continue;
        }
        const set = (word & (1 << (page & 31))) !== 0;
        if (set && from < 0) from = page;
        else if (!set && from >= 0) {
          yield { page: first + from, count: page - from };
          from = -1;
        }
      }
      if (from >= 0) yield { page: first + from, count: pages - from };
    }
  }
}

function bitCount(word: number): number {
  let n = word - ((word >>> 1) & 0x55555555);
  n = (n & 0x33333333) + ((n >>> 2) & 0x33333333);
  return (((n + (n >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}
