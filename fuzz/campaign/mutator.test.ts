import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Dictionary } from "./dictionary.ts";
import { Mutator, MUTATIONS } from "./mutator.ts";
import { Random } from "./random.ts";

const SEED = 20261130;

function mutator(capacity: number, tokens: Uint8Array[] = [], unit = 1): Mutator {
  return new Mutator(new Uint8Array(capacity), new Random(SEED), new Dictionary(tokens), unit);
}

/** What all mutations, done once each in many ways, make of an input. */
function made(input: Uint8Array, capacity: number, times: number, tokens: Uint8Array[] = []) {
  const m = mutator(capacity, tokens);
  m.partner = Uint8Array.of(0xaa, 0xbb, 0xcc);
  const results = Array.from({ length: MUTATIONS }, () => new Set<string>());
  for (let i = 0; i < times; i++) {
    for (let op = 0; op < MUTATIONS; op++) {
      m.load(input);
      m.step(op);
      results[op].add(m.buffer.toHex().slice(0, 2 * m.length));
    }
  }
  return results;
}

describe("mutations", () => {
  const input = Uint8Array.of(0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90);
  const results = made(input, 12, 4000, [Uint8Array.of(0xf0, 0x0d)]);

  test("flip each single bit, and nothing else", () => {
    expect(results[0].size).toBe(72);
  });

  test("change each byte into each other", () => {
    // Of 9 × 255, nearly all.
    expect(results[1].size).toBeGreaterThan(1800);
    expect(results[1].has(input.toHex())).toBe(false);
  });

  test("add to numbers of each size in both orders", () => {
    expect(results[3].has("112030405060708090")).toBe(true);
    expect(results[3].has("10203040506070808f")).toBe(true);
    const m = mutator(8);
    const seen = new Set<string>();
    for (let i = 0; i < 4000; i++) {
      m.load(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0));
      m.step(5);
      seen.add(m.buffer.toHex());
    }
    expect(seen.has("ffffffffffffffff")).toBe(true);
    expect(seen.has("0000000000000001")).toBe(true);
    expect(seen.has("0100000000000000")).toBe(true);
    expect(seen.has("ddffffffffffffff")).toBe(true);
    expect(seen.size).toBe(139);
  });

  test("put interesting values, sign-extended", () => {
    expect(results[7].has("102030405060707fff")).toBe(true);
    expect(results[8].has("000000805060708090")).toBe(true);
    expect(results[9].has("ffffffffffffffff90")).toBe(true);
    expect(results[9].has("10ffffffff80000000")).toBe(true);
  });

  test("delete, insert, duplicate and overwrite blocks", () => {
    expect(results[10].has("1090")).toBe(true);
    expect(results[11].has("1020102030405060708090")).toBe(true);
    // A copy of a block that lies around the place where it goes.
    expect(results[11].has("1010202030405060708090")).toBe(true);
    expect(results[13].has("102010205060708090")).toBe(true);
  });

  test("use tokens and other inputs", () => {
    expect(results[16]).toContain("f00d30405060708090");
    expect(results[16].size).toBe(8);
    expect(results[17]).toContain("102030405060708090f00d");
    expect(results[17].size).toBe(10);
    expect(results[18]).toContain("aabbcc405060708090");
    expect(results[19]).toContain("aabbcc102030405060708090");
  });

  test("never leave the buffer, and are those of their seed", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 40 }),
        fc.nat(8),
        fc.integer(),
        fc.constantFrom(1, 4),
        (input, room, seed, unit) => {
          const run = () => {
            const m = new Mutator(
              new Uint8Array(input.length + room),
              new Random(seed),
              new Dictionary([Uint8Array.of(1, 2, 3)]),
              unit,
            );
            m.partner = input;
            const all: string[] = [];
            for (let i = 0; i < 30; i++) {
              m.load(input);
              m.havoc();
              expect(m.length).toBeGreaterThanOrEqual(0);
              expect(m.length).toBeLessThanOrEqual(m.buffer.length);
              if (input.length > 0) expect(m.length).toBeGreaterThan(0);
              all.push(m.buffer.toHex().slice(0, 2 * m.length));
            }
            return all;
          };
          expect(run()).toEqual(run());
        },
      ),
      { seed: SEED },
    );
  });

  test("of an empty input let it grow", () => {
    const m = mutator(16);
    let grown = 0;
    for (let op = 0; op < MUTATIONS; op++) {
      m.load(new Uint8Array(0));
      m.step(op);
      if (m.length > 0) grown++;
    }
    expect(grown).toBe(MUTATIONS / 2);
  });

  test("replace bytes by more or fewer, where there is room", () => {
    const m = mutator(6);
    const now = () => [...m.buffer.subarray(0, m.length)];
    m.load(Uint8Array.of(1, 2, 3, 4));
    expect(m.replace(1, 2, Uint8Array.of(7, 8, 9, 10))).toBe(true);
    expect(now()).toEqual([1, 7, 8, 9, 10, 4]);
    expect(m.replace(0, 1, Uint8Array.of(1, 2))).toBe(false);
    expect(m.replace(1, 4, Uint8Array.of(5))).toBe(true);
    expect(now()).toEqual([1, 5, 4]);
  });
});
