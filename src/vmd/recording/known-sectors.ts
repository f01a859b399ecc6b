/** Which of a disk's sectors a replay knows: those that were read or written in this run. */

export const SECTOR = 512;
/** Sectors of one bitmap. */
const PART = 2 ** 15;

export class KnownSectors {
  readonly #parts = new Map<number, Uint8Array>();

  has(sector: number): boolean {
    const part = this.#parts.get(Math.floor(sector / PART));
    const at = sector % PART;
    return part !== undefined && (part[at >> 3] & (1 << (at & 7))) !== 0;
  }

  add(first: number, count: number): void {
    for (let sector = first; sector < first + count; sector++) {
      const number = Math.floor(sector / PART);
      let part = this.#parts.get(number);
      if (part === undefined) this.#parts.set(number, (part = new Uint8Array(PART / 8)));
      const at = sector % PART;
      part[at >> 3] |= 1 << (at & 7);
    }
  }

  remove(first: number, count: number): void {
    for (let sector = first; sector < first + count;) {
      const number = Math.floor(sector / PART);
      const at = sector % PART;
      const part = this.#parts.get(number);
      if (part === undefined || (at === 0 && first + count - sector >= PART)) {
        this.#parts.delete(number);
        sector += PART - at;
        continue;
      }
      part[at >> 3] &= ~(1 << (at & 7));
      sector++;
    }
  }

  /** The runs of [first, first + count) that are not known. */
  *unknown(first: number, count: number): Generator<{ first: number; count: number }> {
    const end = first + count;
    for (let sector = first; sector < end; sector++) {
      if (this.has(sector)) continue;
      const from = sector;
      while (sector < end && !this.has(sector)) sector++;
      yield { first: from, count: sector - from };
    }
  }
}
