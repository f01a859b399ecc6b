/** For tests of snapshots: numbers that look random and are the same each time. */

/** xorshift32; Marsaglia, Journal of Statistical Software 8 (14), 2003. */
export class SeededBytes {
  #state: number;

  /** @param seed not 0 */
  constructor(seed: number) {
    this.#state = Math.imul(seed, 0x9e3779b1) >>> 0;
  }

  /** From 0 to limit − 1. */
  below(limit: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return Math.floor((this.#state / 2 ** 32) * Math.floor(limit));
  }
}
