/** An input as choices: bytes are taken one after the other, and zeroes when they are used up. */

export class Choices {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** Whether none are left. */
  get ended(): boolean {
    return this.#at >= this.#bytes.length;
  }

  u8(): number {
    return this.#at < this.#bytes.length ? this.#bytes[this.#at++] : 0;
  }

  u16(): number {
    return this.u8() | (this.u8() << 8);
  }

  u32(): number {
    return (this.u16() | (this.u16() << 16)) >>> 0;
  }

  /** 0 to `limit` − 1, of at most 256: by a byte. */
  below(limit: number): number {
    return this.u8() % limit;
  }

  of<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }

  /** The next bytes, or as many as there are. */
  take(length: number): Uint8Array {
    const bytes = this.#bytes.subarray(this.#at, this.#at + length);
    this.#at = Math.min(this.#bytes.length, this.#at + length);
    return bytes;
  }

  rest(): Uint8Array {
    return this.take(this.#bytes.length);
  }
}

/** Writes choices, for seeds. */
export class ChoicesWriter {
  readonly #bytes: number[] = [];

  u8(...values: number[]): this {
    for (const value of values) this.#bytes.push(value & 0xff);
    return this;
  }

  u16(value: number): this {
    return this.u8(value, value >>> 8);
  }

  u32(value: number): this {
    return this.u16(value).u16(value >>> 16);
  }

  bytes(bytes: Iterable<number>): this {
    return this.u8(...bytes);
  }

  done(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}
