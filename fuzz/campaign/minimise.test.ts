import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { minimise } from "./minimise.ts";

const SEED = 20261130;
const bytes = (text: string) => new TextEncoder().encode(text);
const has = (word: string) => (input: Uint8Array, length: number) =>
  new TextDecoder("latin1").decode(input.subarray(0, length)).includes(word);

/** Whether `part` is left of `whole` when some of its bytes are taken out. */
function isWithin(part: Uint8Array, whole: Uint8Array, length: number): boolean {
  let found = 0;
  for (let i = 0; i < length && found < part.length; i++) if (whole[i] === part[found]) found++;
  return found === part.length;
}

describe("minimising", () => {
  test("leaves what matters", () => {
    const input = bytes(`${"a".repeat(300)}BUG${"b".repeat(500)}`);
    let runs = 0;
    const holds = (input: Uint8Array, length: number) => {
      runs++;
      return has("BUG")(input, length);
    };
    expect(minimise(input, { holds, maxRuns: 10_000 })).toEqual(bytes("BUG"));
    expect(runs).toBeLessThan(200);
  });

  test("can leave nothing", () => {
    const input = minimise(bytes("anything"), { holds: () => true, maxRuns: 100 });
    expect(input.length).toBe(0);
  });

  test("makes bytes simple", () => {
    const holds = (input: Uint8Array, length: number) => length === 40 && input[17] >= 0x41;
    const input = new Uint8Array(40).fill(0xee);
    const result = minimise(input, { holds, maxRuns: 10_000, simplify: true });
    expect(holds(result, 40)).toBe(true);
    expect(result.filter((byte) => byte !== 0).length).toBe(1);
    expect(result[17]).toBe(0x41);
  });

  test("takes out pairs that go together only, wherever they begin", () => {
    const holds = (input: Uint8Array, length: number) =>
      length % 2 === 1 && has("BUG")(input, length);
    const input = bytes("(())BUG((");
    expect(minimise(input, { holds, maxRuns: 10_000, simplify: true })).toEqual(bytes("BUG"));
  });

  test("takes out bytes together with their count", () => {
    const holds = (input: Uint8Array, length: number) =>
      length === input[0] + 2 && input[0] >= 3 && input[length - 1] === 7;
    const input = Uint8Array.of(10, ...bytes("0123456789"), 7);
    const result = minimise(input, { holds, maxRuns: 10_000, simplify: true });
    expect(result).toEqual(Uint8Array.of(3, 0, 0, 0, 7));
  });

  test("goes on while simpler bytes let others go", () => {
    // What follows the first byte matters only while that is large.
    const holds = (input: Uint8Array, length: number) =>
      length >= 1 && input[0] >= 5 && (input[0] < 0x40 || length >= 2);
    const input = Uint8Array.of(0x85, 1);
    const result = minimise(input, { holds, maxRuns: 10_000, simplify: true });
    expect(result).toEqual(Uint8Array.of(5));
  });

  test("takes out whole units", () => {
    const lengths: number[] = [];
    const holds = (_: Uint8Array, length: number) => {
      lengths.push(length);
      return length >= 8;
    };
    expect(minimise(new Uint8Array(64), { holds, maxRuns: 1000, unit: 4 }).length).toBe(8);
    for (const length of lengths) expect(length % 4).toBe(0);
  });

  test("ends, holds, and is 1-minimal for any bytes that must stay", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 80 }),
        fc.array(fc.nat(), { maxLength: 10 }),
        fc.constantFrom(5, 40, 100_000),
        (input, places, maxRuns) => {
          const kept = [...new Set(places.map((place) => place % input.length))].sort(
            (a, b) => a - b,
          );
          const part = Uint8Array.from(kept, (place) => input[place]);
          const before = input.slice();
          let runs = 0;
          const holds = (candidate: Uint8Array, length: number) => {
            runs++;
            return isWithin(part, candidate, length);
          };
          const result = minimise(input, { holds, maxRuns });
          expect(runs).toBeLessThanOrEqual(maxRuns);
          expect(input).toEqual(before);
          expect(isWithin(part, result, result.length)).toBe(true);
          if (maxRuns === 100_000) expect(result).toEqual(part);
        },
      ),
      { seed: SEED },
    );
  });
});
