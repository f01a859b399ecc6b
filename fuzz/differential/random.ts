/** Random numbers of which case N of seed S always gets the same. */

/** sfc32 (Chris Doty-Humphrey, PractRand), seeded by splitmix32. */
export class Random {
  #a = 0;
  #b = 0;
  #c = 0;
  #counter = 1;

  /** Starts the sequence of one case. */
  seed(seed: number, index: number): void {
    let state = (seed ^ Math.imul(index, 0x9e3779b1)) >>> 0;
    const high = Math.floor(index / 2 ** 32);
    const next = (): number => {
      state = (state + 0x9e3779b9) | 0;
      let mixed = state ^ (state >>> 16);
      mixed = Math.imul(mixed, 0x21f0aaad);
      mixed ^= mixed >>> 15;
      mixed = Math.imul(mixed, 0x735a2d97);
      return mixed ^ (mixed >>> 15);
    };
    this.#a = next() ^ seed;
    this.#b = next() ^ index;
    this.#c = next() ^ high;
    this.#counter = 1;
    for (let i = 0; i < 12; i++) this.next();
  }

  /** 32 bits, unsigned. */
  next(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    return sum >>> 0;
  }

  /** 0 to `bound` - 1; `bound` is at most 2^32. */
  below(bound: number): number {
    return Math.floor((this.next() / 2 ** 32) * bound);
  }

  /** True in `percent` of 100. */
  chance(percent: number): boolean {
    return this.next() < percent * 42949672.96;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)];
  }
}
