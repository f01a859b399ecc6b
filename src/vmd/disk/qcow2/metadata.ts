/**
 * Which clusters of an image hold the image's own structures. A wrong image may hand one of them to
 * the guest; a write there would let the guest compose tables and headers, so it is refused.
 */

/** Clusters by their offsets in the file. */
export class MetadataClusters {
  /** Sorted; images have millions of tables at worst, for which a Set is too large. */
  readonly #initial: Float64Array;
  readonly #added = new Set<number>();
  readonly #removed = new Set<number>();

  /** Takes the array over. */
  constructor(offsets: Float64Array) {
    this.#initial = offsets.sort();
  }

  add(offset: number): void {
    this.#removed.delete(offset);
    this.#added.add(offset);
  }

  remove(offset: number): void {
    this.#added.delete(offset);
    this.#removed.add(offset);
  }

  has(offset: number): boolean {
    if (this.#added.has(offset)) return true;
    return !this.#removed.has(offset) && this.#isInitial(offset);
  }

  #isInitial(offset: number): boolean {
    const sorted = this.#initial;
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (sorted[middle] < offset) low = middle + 1;
      else high = middle;
    }
    return low < sorted.length && sorted[low] === offset;
  }
}
