/**
 * Mutations, in place in one buffer, several on top of each other ("havoc"). Nothing is allocated. Which
 * there are, and their values, is what AFL and libFuzzer found useful.
 */
import type { Dictionary } from "./dictionary.ts";
import type { Random } from "./random.ts";

const INTERESTING_8 = Int8Array.of(-128, -1, 0, 1, 16, 32, 64, 100, 127);
const INTERESTING_16 = Int16Array.of(
  ...INTERESTING_8,
  ...[-32768, -129, 128, 255, 256, 512, 1000, 1024, 4096, 32767],
);
const INTERESTING_32 = Int32Array.of(
  ...INTERESTING_16,
  ...[-2147483648, -100663046, -32769, 32768, 65535, 65536, 100663045, 0x7fffffff],
);

/** Largest number that is added or taken away. */
const MAX_DELTA = 35;
/** Of a copied, inserted or deleted block, mostly. */
const SMALL_BLOCK = 32;
/** Up to so many bytes a loop takes less time than a call of the array's own method. */
const FEW = 64;

/** The mutations: one of these is done at each step. */
const enum Op {
  FLIP_BIT,
  RANDOM_BYTE,
  ADD_8,
  ADD_16,
  ADD_32,
  ADD_64,
  INTERESTING_8,
  INTERESTING_16,
  INTERESTING_32,
  INTERESTING_64,
  DELETE,
  INSERT_COPY,
  INSERT_BYTES,
  OVERWRITE_COPY,
  OVERWRITE_BYTES,
  SWAP_BYTES,
  TOKEN_OVERWRITE,
  TOKEN_INSERT,
  SPLICE_OVERWRITE,
  SPLICE_INSERT,
  COUNT,
}

/** Bytes of one array into another, or another place of it that doesn't overlap. */
function copy(to: Uint8Array, at: number, from: Uint8Array): void {
  const { length } = from;
  if (length > FEW) {
    to.set(from, at);
    return;
  }
  for (let i = 0; i < length; i++) to[at + i] = from[i];
}

/** As `buffer.copyWithin(to, from, from + size)`. */
function move(buffer: Uint8Array, to: number, from: number, size: number): void {
  if (size > FEW) {
    buffer.copyWithin(to, from, from + size);
  } else if (to < from) {
    for (let i = 0; i < size; i++) buffer[to + i] = buffer[from + i];
  } else {
    for (let i = size - 1; i >= 0; i--) buffer[to + i] = buffer[from + i];
  }
}

export class Mutator {
  length = 0;
  /** Another input, of which parts are spliced into this one. */
  partner: Uint8Array = new Uint8Array(0);

  /**
   * @param buffer where inputs are: its first `length` bytes; none gets longer than it is
   * @param unit bytes that blocks are a multiple of, half the time
   */
  constructor(
    readonly buffer: Uint8Array,
    private readonly random: Random,
    private readonly dictionary: Dictionary,
    private readonly unit = 1,
  ) {}

  load(input: Uint8Array): void {
    copy(this.buffer, 0, input);
    this.length = input.length;
  }

  /** One to sixteen mutations on top of each other, rather few than many. */
  havoc(): void {
    for (let left = 1 << this.random.below(1 + this.random.below(5)); left > 0; left--)
      this.step(this.random.below(Op.COUNT));
  }

  /** One mutation; none where it doesn't fit the input's length. */
  step(op: number): void {
    const { buffer, random, length } = this;
    // An empty input can only grow.
    if (length === 0) op = (op & 1) === 0 ? Op.INSERT_BYTES : Op.TOKEN_INSERT;
    switch (op as Op) {
      case Op.FLIP_BIT:
        buffer[random.below(length)] ^= 1 << random.below(8);
        break;
      case Op.RANDOM_BYTE:
        buffer[random.below(length)] ^= 1 + random.below(255);
        break;
      case Op.ADD_8:
        buffer[random.below(length)] += this.delta();
        break;
      case Op.ADD_16:
        this.add(2);
        break;
      case Op.ADD_32:
        this.add(4);
        break;
      case Op.ADD_64:
        this.add(8);
        break;
      case Op.INTERESTING_8:
        buffer[random.below(length)] = INTERESTING_8[random.below(INTERESTING_8.length)];
        break;
      case Op.INTERESTING_16:
        this.put(2, INTERESTING_16[random.below(INTERESTING_16.length)]);
        break;
      case Op.INTERESTING_32:
        this.put(4, INTERESTING_32[random.below(INTERESTING_32.length)]);
        break;
      case Op.INTERESTING_64:
        this.put(8, INTERESTING_32[random.below(INTERESTING_32.length)]);
        break;
      case Op.DELETE:
        this.delete();
        break;
      case Op.INSERT_COPY:
        this.insertCopy();
        break;
      case Op.INSERT_BYTES:
        this.insertBytes();
        break;
      case Op.OVERWRITE_COPY:
        this.overwriteCopy();
        break;
      case Op.OVERWRITE_BYTES:
        this.overwriteBytes();
        break;
      case Op.SWAP_BYTES:
        this.swap();
        break;
      case Op.TOKEN_OVERWRITE:
        this.overwrite(this.dictionary.pick(random));
        break;
      case Op.TOKEN_INSERT:
        this.insert(this.dictionary.pick(random));
        break;
      case Op.SPLICE_OVERWRITE:
      case Op.SPLICE_INSERT:
        this.splice(op === Op.SPLICE_INSERT);
        break;
      default:
    }
  }

  /** Puts `replacement` in the place of `width` bytes at `at`; false if the result would be too long. */
  replace(at: number, width: number, replacement: Uint8Array): boolean {
    const grown = this.length - width + replacement.length;
    if (grown > this.buffer.length) return false;
    if (replacement.length !== width) {
      move(this.buffer, at + replacement.length, at + width, this.length - at - width);
    }
    copy(this.buffer, at, replacement);
    this.length = grown;
    return true;
  }

  private delta(): number {
    const value = 1 + this.random.below(2 * MAX_DELTA);
    return value > MAX_DELTA ? MAX_DELTA - value : value;
  }

  /** Adds to a number of `size` bytes, in either order. */
  private add(size: number): void {
    const { buffer, random, length } = this;
    if (length < size) return;
    const start = random.below(length - size + 1);
    const big = random.below(2) === 1;
    let carry = this.delta();
    for (let i = 0; i < size; i++) {
      const at = big ? start + size - 1 - i : start + i;
      const sum = buffer[at] + carry;
      buffer[at] = sum;
      carry = sum >> 8;
    }
  }

  /** Puts a number there, sign-extended to `size` bytes, in either order. */
  private put(size: number, value: number): void {
    const { buffer, random, length } = this;
    if (length < size) return;
    const start = random.below(length - size + 1);
    const big = random.below(2) === 1;
    for (let i = 0; i < size; i++) {
      buffer[big ? start + size - 1 - i : start + i] = value >> Math.min(31, 8 * i);
    }
  }

  /** A block's length, from 1 to `limit`, mostly small. */
  private block(limit: number): number {
    const { random, unit } = this;
    const wide = random.below(8) === 0 ? limit : Math.min(limit, SMALL_BLOCK);
    const size = 1 + random.below(wide);
    if (unit > 1 && limit >= unit && random.below(2) === 0)
      return Math.max(unit, size - (size % unit));
    return size;
  }

  /** A place from 0 to `limit`, at a unit's beginning half the time. */
  private place(limit: number): number {
    const at = this.random.below(limit + 1);
    return this.unit > 1 && this.random.below(2) === 0 ? at - (at % this.unit) : at;
  }

  private delete(): void {
    const { buffer, length } = this;
    if (length < 2) return;
    const size = this.block(length - 1);
    const at = this.place(length - size);
    move(buffer, at, at + size, length - at - size);
    this.length = length - size;
  }

  /** Makes room for `size` bytes at `at`. */
  private open(at: number, size: number): void {
    move(this.buffer, at + size, at, this.length - at);
    this.length += size;
  }

  private insertCopy(): void {
    const { buffer, length } = this;
    const limit = Math.min(length, buffer.length - length);
    if (limit < 1) return;
    const size = this.block(limit);
    const from = this.place(length - size);
    const to = this.place(length);
    this.open(to, size);
    // What lies behind the gap has moved; a block around it comes from both its sides.
    for (let i = 0; i < size; i++) {
      const at = from + i;
      buffer[to + i] = buffer[at < to ? at : at + size];
    }
  }

  private insertBytes(): void {
    const { buffer, length } = this;
    const limit = buffer.length - length;
    if (limit < 1) return;
    const size = this.block(limit);
    const at = this.place(length);
    this.open(at, size);
    this.fill(at, size);
  }

  private overwriteCopy(): void {
    const { buffer, length } = this;
    if (length < 2) return;
    const size = this.block(length - 1);
    const from = this.place(length - size);
    move(buffer, this.place(length - size), from, size);
  }

  private overwriteBytes(): void {
    const size = this.block(this.length);
    this.fill(this.place(this.length - size), size);
  }

  /** With one byte, or with random ones. */
  private fill(at: number, size: number): void {
    const { buffer, random } = this;
    if (random.below(2) === 0) {
      const byte = random.below(256);
      if (size > FEW) buffer.fill(byte, at, at + size);
      else for (let i = at; i < at + size; i++) buffer[i] = byte;
      return;
    }
    for (let i = at; i < at + size; i++) buffer[i] = random.next();
  }

  private swap(): void {
    const { buffer, random, length } = this;
    const one = random.below(length);
    const other = random.below(length);
    const byte = buffer[one];
    buffer[one] = buffer[other];
    buffer[other] = byte;
  }

  private overwrite(token: Uint8Array | undefined): void {
    if (token === undefined || token.length > this.length) return;
    copy(this.buffer, this.place(this.length - token.length), token);
  }

  private insert(token: Uint8Array | undefined): void {
    if (token === undefined || this.length + token.length > this.buffer.length) return;
    const at = this.place(this.length);
    this.open(at, token.length);
    copy(this.buffer, at, token);
  }

  private splice(insert: boolean): void {
    const { buffer, partner, length } = this;
    const limit = Math.min(partner.length, insert ? buffer.length - length : length);
    if (limit < 1) return;
    const size = this.block(limit);
    const from = this.place(partner.length - size);
    const at = this.place(insert ? length : length - size);
    if (insert) this.open(at, size);
    for (let i = 0; i < size; i++) buffer[at + i] = partner[from + i];
  }
}

/** How many mutations `Mutator.step` knows. */
export const MUTATIONS: number = Op.COUNT;
