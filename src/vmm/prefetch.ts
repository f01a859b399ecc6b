/** Pages of a file that are read and mapped before the guest touches them; native/prefetch.c. */
import { hostLibrary, type Pointer, ptr } from "./native.ts";
import type { Run } from "./snapshot/format.ts";

/** A thread that does it, or none where it can't be had: then pages come when they are touched. */
export class Prefetch implements Disposable {
  #handle: Pointer | null;

  private constructor(handle: Pointer | null) {
    this.#handle = handle;
  }

  /** @param pieces pairs of host address and bytes, of whole pages */
  static start(pieces: BigUint64Array): Prefetch {
    if (pieces.length === 0) return new Prefetch(null);
    const handle = hostLibrary().vmm_prefetch(ptr(pieces), pieces.length / 2);
    return new Prefetch(handle as Pointer | null);
  }

  get ended(): boolean {
    return this.#handle === null || hostLibrary().vmm_prefetch_ended(this.#handle) !== 0;
  }

  /** Before the memory goes. */
  [Symbol.dispose](): void {
    if (this.#handle !== null) hostLibrary().vmm_prefetch_end(this.#handle);
    this.#handle = null;
  }
}

/**
 * What lies in both.
 * @param runs in the order of their pages, none over another: as they are cut here
 * @param others in any order, perhaps one over another
 */
export function* commonRuns(runs: readonly Run[], others: readonly Run[]): Generator<Run> {
  const sorted = others.toSorted((a, b) => a.page - b.page);
  let place = 0;
  for (const { page, count } of runs) {
    const end = page + count;
    let from = page;
    while (from < end && place < sorted.length) {
      const other = sorted[place];
      const otherEnd = other.page + other.count;
      if (other.page >= end) break;
      const start = Math.max(from, other.page);
      const stop = Math.min(end, otherEnd);
      if (start < stop) {
        yield { page: start, count: stop - start };
        from = stop;
      }
      // The next run may begin in it.
      if (otherEnd > end) break;
      place++;
    }
  }
}
