import { describe, expect, test } from "bun:test";
import { Novelty, Verdict } from "../executor.ts";
import { allocate, eq, hit, tracing } from "./counters.ts";
import { FunctionExecutor, stackOf } from "./executor.ts";
import { must, type Target } from "./target.ts";

class Answer extends Error {}

function executor(run: (input: Uint8Array) => void, more: Partial<Target> = {}): FunctionExecutor {
  return new FunctionExecutor({
    name: "t",
    about: "",
    maxInput: 16,
    seeds: () => [],
    run,
    ...more,
  });
}

const bytes = (...values: number[]) => Uint8Array.from(values);
const run = (one: FunctionExecutor, ...values: number[]) =>
  one.run(bytes(...values), values.length);

describe("coverage", () => {
  const counting = executor((input) => {
    for (const byte of input) hit(byte);
  });

  test("new edges, new counts in AFL's buckets, nothing new", () => {
    const novelties = [[3, 5], [3, 5], [5, 5], [5, 5, 5, 5], [5, 5, 5, 5, 5], [4]].map((input) => {
      expect(run(counting, ...input)).toBe(Verdict.DONE);
      return counting.novelty();
    });
    const { NONE, COUNTS, EDGES } = Novelty;
    expect(novelties).toEqual([EDGES, NONE, COUNTS, COUNTS, NONE, EDGES]);
    expect(counting.edgesSeen).toBe(3);
  });

  test("edges ascend; equal runs have equal hashes, others have not", () => {
    run(counting, 9, 2, 9);
    expect([...counting.edges()]).toEqual([2, 9]);
    const hash = counting.coverageHash();
    run(counting, 9, 2);
    expect(counting.coverageHash()).not.toBe(hash);
    run(counting, 2, 9, 9);
    expect(counting.coverageHash()).toBe(hash);
    expect(counting.cost()).toBe(3);
  });
});

describe("ends", () => {
  test("an error that is an answer, and one that isn't", () => {
    const one = executor(
      ([first]) => {
        if (first === 1) throw new Answer("a sentence");
        if (first === 2) throw new TypeError("a mistake");
        if (first === 3) must(false, "it holds");
      },
      { answers: [Answer] },
    );
    expect([0, 1, 2, 3].map((value) => run(one, value))).toEqual([
      Verdict.DONE,
      Verdict.DONE,
      Verdict.CRASH,
      Verdict.CRASH,
    ]);
    expect(one.crash()).toMatchObject({ kind: "exception", text: "Wrong: it holds" });
    run(one, 0);
    expect(one.crash()).toBeUndefined();
  });

  test("a loop without an end, also where everything is caught", () => {
    const one = executor(
      ([first]) => {
        for (let turns = 0; turns < (first === 0 ? Infinity : 3); turns++) {
          try {
            hit(7);
          } catch {
            if (turns > 5000) return;
          }
        }
      },
      { steps: 1000 },
    );
    expect(run(one, 0)).toBe(Verdict.TIMEOUT);
    expect(one.crash()?.kind).toBe("timeout");
    expect(run(one, 1)).toBe(Verdict.DONE);
  });

  test("memory without a bound", () => {
    const one = executor((input) => void new Uint8Array(Number(allocate(1, input[0] * 100))), {
      memory: 1000,
    });
    expect([run(one, 10), run(one, 11)]).toEqual([Verdict.DONE, Verdict.CRASH]);
    expect(one.crash()?.kind).toBe("memory");
  });

  test("its input is its own", () => {
    const given = bytes(1, 2);
    executor((input) => void input.fill(9)).run(given, 2);
    expect([...given]).toEqual([1, 2]);
  });
});

test("comparisons as bytes, little-endian, no wider than they need be", () => {
  const one = executor((input) => {
    expect(tracing).toBe(true);
    eq(1, input[0], 7);
    eq(2, -2, 0x1234);
    eq(3, "word", "worth");
    eq(4, 5n, 2n ** 40n);
    eq(5, 0.5, 1);
  });
  const found = one.compares(bytes(3), 1);
  expect(found.map(({ at, size }) => [at, size])).toEqual([
    [1, 1],
    [2, 2],
    [3, 4],
    [4, 8],
  ]);
  expect([...found[1].left, ...found[1].right]).toEqual([0xfe, 0xff, 0x34, 0x12]);
  expect(Buffer.from(found[2].right).toString()).toBe("wort");
});

test("a stack is names of functions, and files of ours", () => {
  function innermost(): Error {
    return new Error("here");
  }
  const [first] = stackOf(innermost());
  // This file lies beside the executor, whose frames say nothing.
  expect(first).toBeUndefined();
  const error = new Error("there");
  error.stack = "Error: there\n    at new Queue (/a/b/src/vmd/queue.ts:10:5)\n    at native:1:1";
  expect(stackOf(error)).toEqual(["Queue (src/vmd/queue.ts)"]);
});
