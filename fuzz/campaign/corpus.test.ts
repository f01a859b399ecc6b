import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Corpus, type Entry } from "./corpus.ts";
import { inputName } from "./crash.ts";
import { minimiseCorpus, minset } from "./minset.ts";
import { Random } from "./random.ts";
import { tlv, TlvExecutor } from "./testing.ts";

const SEED = 20261130;

interface Facts {
  depth?: number;
  cost?: number;
  stable?: boolean;
}

function put(corpus: Corpus, input: number[], edges: number[], facts: Facts = {}): Entry {
  const bytes = Uint8Array.from(input);
  const { depth = 0, cost = edges.length, stable = true } = facts;
  const entry = { name: inputName(bytes), input: bytes, depth, cost, stable };
  return corpus.add(entry, Uint32Array.from(edges));
}

/** How often each is selected, in so many turns. */
function turns(corpus: Corpus, count: number): Map<Entry, number> {
  const random = new Random(SEED);
  const counts = new Map<Entry, number>();
  for (let i = 0; i < count; i++) {
    const entry = corpus.select(random);
    counts.set(entry, (counts.get(entry) ?? 0) + 1);
  }
  return counts;
}

describe("the favoured", () => {
  test("touch all edges, at a small price", () => {
    const corpus = new Corpus(8);
    const dear = put(corpus, [1, 2, 3, 4, 5, 6], [1, 2]);
    const cheap = put(corpus, [1], [1, 2]);
    const other = put(corpus, [1, 2, 3], [2, 3]);
    turns(corpus, 1);
    expect(corpus.favoured).toBe(2);
    expect([dear, cheap, other].map(({ favoured }) => favoured)).toEqual([false, true, true]);
    // What is the best for no edge keeps no list of its edges.
    expect(dear.edges).toBeUndefined();
    expect([...cheap.edges!]).toEqual([1, 2]);
  });

  test("touch together what all touch", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(fc.uint8Array({ maxLength: 6 }), fc.uniqueArray(fc.nat(15)), fc.nat(100)),
          { minLength: 1, maxLength: 20 },
        ),
        (all) => {
          const corpus = new Corpus(16);
          const union = new Set<number>();
          const edgesOf = new Map<Entry, number[]>();
          for (const [input, edges, cost] of all) {
            const sorted = [...edges].sort((a, b) => a - b);
            edgesOf.set(put(corpus, [...input], sorted, { cost }), sorted);
            for (const edge of sorted) union.add(edge);
          }
          turns(corpus, 1);
          const chosen = corpus.entries.filter((entry) => entry.favoured);
          expect(chosen.length).toBe(corpus.favoured);
          expect(new Set(chosen.flatMap((entry) => edgesOf.get(entry)!))).toEqual(union);
        },
      ),
      { seed: SEED },
    );
  });
});

describe("the schedule", () => {
  test("prefers the favoured, the fresh and the holders of rare edges, and forgets nobody", () => {
    const corpus = new Corpus(64);
    for (let i = 0; i < 20; i++) put(corpus, [9, 9, 9, i], [1, 2]);
    const rare = put(corpus, [1], [1, 7]);
    const common = put(corpus, [2], [1, 2]);
    for (let i = 0; i < 1000; i++) corpus.sample(Uint32Array.of(1, 2));
    const counts = turns(corpus, 20_000);
    expect(counts.size).toBe(22);
    expect(counts.get(rare)!).toBeGreaterThan(2 * counts.get(common)!);
    expect(counts.get(common)!).toBeGreaterThan(5 * counts.get(corpus.entries[0])!);
    expect(corpus.cycles).toBe(Math.floor(20_000 / 22));
  });

  test("gives fewer turns to what had many", () => {
    const corpus = new Corpus(8);
    const old = put(corpus, [1], [1]);
    const fresh = put(corpus, [2], [2]);
    old.selected = 1000;
    const counts = turns(corpus, 4000);
    expect(counts.get(fresh)!).toBeGreaterThan(4 * counts.get(old)!);
  });

  test("gives more runs to cheap, wide, deep and fresh inputs, fewer to unstable ones", () => {
    const corpus = new Corpus(256);
    const many = Array.from({ length: 40 }, (_, i) => i);
    const plain = put(corpus, [1], many.slice(0, 10), { cost: 100 });
    for (let i = 0; i < 20; i++) put(corpus, [2, i], many.slice(10, 20), { cost: 100 });
    const more = [
      put(
        corpus,
        [3],
        [...many.slice(0, 10)].map((edge) => edge + 50),
        { cost: 10 },
      ),
      put(
        corpus,
        [4],
        many.map((edge) => edge + 70),
        { cost: 100 },
      ),
      put(
        corpus,
        [5],
        [...many.slice(0, 10)].map((edge) => edge + 120),
        { cost: 100, depth: 20 },
      ),
    ];
    const unstable = put(
      corpus,
      [6],
      [...many.slice(0, 10)].map((edge) => edge + 140),
      {
        cost: 100,
        stable: false,
      },
    );
    const usual = corpus.energy(plain);
    for (const entry of more) expect(corpus.energy(entry)).toBeGreaterThan(usual);
    expect(corpus.energy(unstable)).toBeLessThan(usual);
    plain.selected = 1;
    expect(corpus.energy(plain)).toBe(usual / 2);
  });
});

describe("the smallest corpus", () => {
  test("touches all edges, and nothing of it can go", () => {
    const candidate = fc.record({
      value: fc.nat(),
      edges: fc.uniqueArray(fc.nat(20)).map((edges) => Uint32Array.from(edges)),
      price: fc.nat(100),
    });
    fc.assert(
      fc.property(fc.array(candidate, { maxLength: 20 }), (drawn) => {
        const candidates = drawn.map((one, value) => ({ ...one, value }));
        const touched = (chosen: readonly number[]) =>
          new Set(chosen.flatMap((value) => [...candidates[value].edges]));
        const chosen = minset(candidates);
        expect(touched(chosen)).toEqual(touched(candidates.map(({ value }) => value)));
        for (const one of chosen) {
          const others = chosen.filter((value) => value !== one);
          expect(touched(others).size).toBeLessThan(touched(chosen).size);
        }
      }),
      { seed: SEED },
    );
  });

  test("is found by running it", () => {
    const inputs = [
      tlv([1, [1]], [3, [0x20]]),
      tlv([1, [1]]),
      tlv([3, [0x20]]),
      // It hangs.
      tlv([4, [0x5a]]),
      tlv([1, [1]], [3, [0x20]], [5, [1]]),
    ].map((input) => ({ input }));
    expect(minimiseCorpus(new TlvExecutor(), inputs)).toEqual([inputs[4]]);
  });
});
