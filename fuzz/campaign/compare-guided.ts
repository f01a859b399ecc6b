/**
 * What a run compared tells which bytes it wants: where one side of a comparison is found in the input,
 * the other side is put there (Aschermann and others: "REDQUEEN: Fuzzing with input-to-state
 * correspondence").
 */
import type { Compare } from "../executor.ts";

/** Bytes `width` at `at` of an input, to be replaced. */
export interface Substitution {
  readonly at: number;
  readonly width: number;
  readonly bytes: Uint8Array;
}

/** Larger operands are byte strings. */
const MAX_NUMBER = 8;
/** Of one comparison's. */
const MAX_PLACES = 16;

function same(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, i) => byte === other[i]);
}

function* places(input: Uint8Array, wanted: Uint8Array): Generator<number> {
  let found = 0;
  const last = input.length - wanted.length;
  for (let at = 0; at <= last && found < MAX_PLACES; at++) {
    let i = 0;
    while (i < wanted.length && input[at + i] === wanted[i]) i++;
    if (i < wanted.length) continue;
    found++;
    yield at;
  }
}

/** Whether a number is that of its first `width` bytes, extended by zeros or by its sign. */
function fits(number: Uint8Array, width: number): boolean {
  const filling = number.subarray(width);
  const negative = (number[width - 1] & 0x80) !== 0;
  return (
    filling.every((byte) => byte === 0) || (negative && filling.every((byte) => byte === 0xff))
  );
}

function valueOf(number: Uint8Array): bigint {
  let value = 0n;
  for (let i = number.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(number[i]);
  return value;
}

function plus(number: Uint8Array, delta: number): Uint8Array {
  const sum = number.slice();
  let carry = delta;
  for (let i = 0; i < sum.length; i++) {
    carry += sum[i];
    sum[i] = carry;
    carry >>= 8;
  }
  return sum;
}

function* numbers(input: Uint8Array, from: Uint8Array, to: Uint8Array): Generator<Substitution> {
  for (let width = from.length; width >= 1; width--) {
    const natural = width === from.length || width === 4 || width === 2 || width === 1;
    if (!natural || !fits(from, width) || !fits(to, width)) continue;
    for (const big of [false, true]) {
      if (big && width === 1) continue;
      const encode = (number: Uint8Array) => {
        const bytes = number.slice(0, width);
        return big ? bytes.reverse() : bytes;
      };
      // For <, <= and their like, the values beside it matter too.
      const wanted = [encode(to), encode(plus(to, 1)), encode(plus(to, -1))];
      for (const at of places(input, encode(from)))
        for (const bytes of wanted) yield { at, width, bytes };
    }
  }
}

/** How numbers are written. */
const WRITINGS = [
  (value: bigint) => value.toString(),
  (value: bigint) => value.toString(16),
  (value: bigint) => value.toString(16).toUpperCase(),
];
/** In so many digits, with zeros before them; 0: as many as there are. */
const DIGITS = [0, 2, 4, 8];

/** Numbers that are written in digits. */
function* digits(input: Uint8Array, from: Uint8Array, to: Uint8Array): Generator<Substitution> {
  const encoder = new TextEncoder();
  const values = [to, plus(to, 1), plus(to, -1)].map(valueOf);
  for (const write of WRITINGS) {
    for (const width of DIGITS) {
      const written = write(valueOf(from)).padStart(width, "0");
      // One digit is anywhere.
      if (written.length < 2 || (width > 0 && written.length > width)) continue;
      const wanted = values.map((value) => encoder.encode(write(value).padStart(width, "0")));
      for (const at of places(input, encoder.encode(written)))
        for (const bytes of wanted) yield { at, width: written.length, bytes };
    }
  }
}

function* strings(input: Uint8Array, from: Uint8Array, to: Uint8Array): Generator<Substitution> {
  for (const at of places(input, from)) yield { at, width: from.length, bytes: to };
}

function* oneSide(input: Uint8Array, from: Uint8Array, to: Uint8Array): Generator<Substitution> {
  if (from.length <= MAX_NUMBER) {
    yield* numbers(input, from, to);
    yield* digits(input, from, to);
  }
  if (from.length > MAX_NUMBER || from.length === 3) yield* strings(input, from, to);
}

/** Of one place in the target, that count: a loop's counter is compared with all it can be. */
const MAX_PAIRS = 16;

/** The comparisons without those that say nothing, or the same as others. */
function distinct(compares: readonly Compare[]): Compare[] {
  const seen = new Map<number, Set<string>>();
  return compares.filter(({ at, left, right }) => {
    if (same(left, right)) return false;
    const pairs = seen.get(at) ?? new Set();
    seen.set(at, pairs);
    const pair = `${left.toHex()}:${right.toHex()}`;
    if (pairs.has(pair) || pairs.size >= MAX_PAIRS) return false;
    pairs.add(pair);
    return true;
  });
}

/** What to try, given the comparisons that `input` leads to. Each once, in the comparisons' order. */
export function* substitutions(
  input: Uint8Array,
  compares: readonly Compare[],
): Generator<Substitution> {
  const done = new Set<string>();
  for (const { left, right } of distinct(compares)) {
    for (const [from, to] of [
      [left, right],
      [right, left],
    ]) {
      for (const substitution of oneSide(input, from, to)) {
        const { at, width, bytes } = substitution;
        if (same(input.subarray(at, at + width), bytes)) continue;
        const key = `${at}+${width}:${bytes.toHex()}`;
        if (done.has(key)) continue;
        done.add(key);
        yield substitution;
      }
    }
  }
}

/** Operands that look like words of a target's language: no small numbers, no single bytes. */
export function* tokensOf(compares: readonly Compare[]): Generator<Uint8Array> {
  for (const { left, right } of distinct(compares)) {
    for (const side of [left, right]) {
      let width = side.length;
      if (width <= MAX_NUMBER) while (width > 1 && side[width - 1] === 0) width--;
      if (width < 2 || side.subarray(0, width).every((byte) => byte === 0xff)) continue;
      yield side.slice(0, width);
      if (width > MAX_NUMBER) continue;
      yield side.slice(0, width).reverse();
    }
  }
}
