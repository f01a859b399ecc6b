import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { mixSeed, Random } from "./random.ts";

const SEED = 20261130;

describe("random numbers", () => {
  test("are xoshiro128**'s", () => {
    const random = new Random(0);
    Object.assign(random, { a: 1, b: 2, c: 3, d: 4 });
    // Of the authors' C program with this state.
    expect(Array.from({ length: 4 }, () => random.next() >>> 0)).toEqual([
      11520, 0, 5927040, 70819200,
    ]);
  });

  test("below a limit are all there and nearly even", () => {
    const random = new Random(SEED);
    const counts = new Uint32Array(7);
    for (let i = 0; i < 70_000; i++) counts[random.below(7)]++;
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(500);
    expect(random.below(0)).toBe(0);
    expect(random.below(1)).toBe(0);
  });

  test("are those of their seed, and others with another", () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer(), (a, b) => {
        const take = (seed: number) => {
          const random = new Random(seed);
          return Array.from({ length: 8 }, () => random.next());
        };
        expect(take(a)).toEqual(take(a));
        if ((a | 0) !== (b | 0)) expect(take(a)).not.toEqual(take(b));
      }),
      { seed: SEED },
    );
  });

  test("of a mixed seed differ", () => {
    const seeds = new Set(Array.from({ length: 1000 }, (_, i) => mixSeed(SEED, i)));
    expect(seeds.size).toBe(1000);
  });
});
