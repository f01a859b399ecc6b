/** Where all of a campaign's decisions come from: xoshiro128** (Blackman and Vigna), seeded by splitmix32. */

export class Random {
  private a: number;
  private b: number;
  private c: number;
  private d: number;

  /** @param seed 32 bits are used. */
  constructor(seed: number) {
    let state = seed | 0;
    const word = () => {
      state = (state + 0x9e3779b9) | 0;
      let z = state;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return z ^ (z >>> 15);
    };
    this.a = word();
    this.b = word();
    this.c = word();
    // The one state that never leaves itself is all zeros.
    this.d = word() | 1;
  }

  /** 32 bits, signed. */
  next(): number {
    const five = Math.imul(this.b, 5);
    const result = Math.imul((five << 7) | (five >>> 25), 9);
    const shifted = this.b << 9;
    this.c ^= this.a;
    this.d ^= this.b;
    this.b ^= this.c;
    this.a ^= this.d;
    this.c ^= shifted;
    this.d = (this.d << 11) | (this.d >>> 21);
    return result;
  }

  /** From 0 to `limit` - 1, nearly even; 0 where `limit` is 0. `limit` is at most 2³¹. */
  below(limit: number): number {
    return ((this.next() >>> 0) * limit * 2 ** -32) | 0;
  }
}

/** Mixes a number into a seed, so that both matter in each bit. */
export function mixSeed(seed: number, value: number): number {
  let z = (seed ^ Math.imul(value + 1, 0x9e3779b9)) | 0;
  z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
  z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
  return (z ^ (z >>> 16)) >>> 0;
}
