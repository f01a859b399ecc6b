/**
 * Any fast-check arbitrary as a decoder of bytes: its random choices are read from the input, four bytes
 * each, so that mutated bytes are mutated values. A target that takes structured values decodes its input
 * with one; a campaign with `unit` 4 moves whole choices.
 */
import fc from "fast-check";

/** Choices past the input's end are the smallest ones, and after so many of them varied. */
const SMALLEST = 4096;

/** fast-check's (pure-rand's) generator, over bytes. */
class ByteGenerator {
  constructor(
    private readonly bytes: Uint8Array,
    private readonly length: number,
    private at = 0,
    private beyond = 0,
  ) {}

  clone(): ByteGenerator {
    return new ByteGenerator(this.bytes, this.length, this.at, this.beyond);
  }

  /** 32 bits, signed. Bytes of 0 give the least: the first choice of any. */
  next(): number {
    const { bytes, length, at } = this;
    if (at >= length) return this.past();
    this.at = at + 4;
    let value = bytes[at];
    for (let i = 1; i < 4 && at + i < length; i++) value |= bytes[at + i] << (8 * i);
    return value ^ 0x80000000;
  }

  getState(): readonly number[] {
    return [this.at, this.beyond];
  }

  // An arbitrary that asks until it gets another answer would never end.
  private past(): number {
    this.beyond++;
    if (this.beyond < SMALLEST) return -0x80000000;
    return Math.imul(this.beyond ^ (this.beyond >>> 7), 0x9e3779b1);
  }
}

export class Decoder<T> {
  constructor(private readonly arbitrary: fc.Arbitrary<T>) {}

  /** The value that the first `length` bytes of `input` stand for: the same for the same bytes. */
  decode(input: Uint8Array, length = input.length): T {
    const random = new fc.Random(new ByteGenerator(input, length));
    return this.arbitrary.generate(random, undefined).value;
  }
}
