/** Snapshots that are read while they are written. */
import { describe, expect, test } from "bun:test";
import { closeSync, openSync, writeSync } from "node:fs";
import { check, hostLibrary, processLibrary, ptr } from "../native.ts";
import { openProgress, ProgressSink, ProgressSource, tellProgress } from "./progress.ts";
import { descriptorSink } from "./sources.ts";

const MOST = 2 ** 20;

/** A file in memory with a writer and a reader, which find nothing to wait for. */
class Pair implements Disposable {
  readonly file = check("a file", hostLibrary().vmm_memory_file(0));
  readonly again = openSync(`/proc/self/fd/${this.file}`, "r");
  readonly ends = openProgress();
  readonly sink = new ProgressSink(
    descriptorSink(this.file, () => false),
    this.file,
    this.ends[1],
  );
  readonly source = new ProgressSource(this.again, this.ends[0], {
    wait: (hears) => this.wait(hears),
    most: MOST,
  });
  #left = false;
  wait = (_hears: boolean): boolean => {
    throw new Error("waits");
  };

  /** The writer goes. */
  leave(): void {
    closeSync(this.ends[1]);
    this.#left = true;
  }

  [Symbol.dispose](): void {
    for (const one of [this.file, this.again, this.ends[0]]) closeSync(one);
    if (!this.#left) closeSync(this.ends[1]);
  }
}

const read = ({ source }: Pair, count: number) => {
  const bytes = new Uint8Array(count);
  source.read(bytes);
  return [...bytes];
};

describe("a reader", () => {
  test("has what was told, and waits for the rest", () => {
    using pair = new Pair();
    expect(() => read(pair, 1)).toThrow("waits");
    pair.sink.write(Uint8Array.of(1, 2, 3));
    pair.sink.write(Uint8Array.of(4));
    expect(read(pair, 2)).toEqual([1, 2]);
    expect(read(pair, 2)).toEqual([3, 4]);
    expect(() => read(pair, 1)).toThrow("waits");
    let waited = 0;
    pair.wait = () => {
      waited++;
      pair.sink.write(Uint8Array.of(waited));
      return false;
    };
    expect(read(pair, 3)).toEqual([1, 2, 3]);
    expect(waited).toBe(3);
    expect(pair.source.position).toBe(7);
  });

  test("waits for what it skips, too", () => {
    using pair = new Pair();
    pair.sink.write(new Uint8Array(10));
    pair.source.skip(10);
    expect(() => pair.source.skip(1)).toThrow("waits");
    expect(pair.source.position).toBe(10);
  });

  test("isn't told what is held before it is whole, and then can't be changed", () => {
    using pair = new Pair();
    pair.sink.write(Uint8Array.of(1));
    pair.sink.hold();
    pair.sink.write(Uint8Array.of(2));
    expect(read(pair, 1)).toEqual([1]);
    expect(() => read(pair, 1)).toThrow("waits");
    pair.sink.done();
    expect(read(pair, 1)).toEqual([2]);
    expect(pair.source.ended).toBe(true);
    expect(() => writeSync(pair.file, Uint8Array.of(3))).toThrow("EPERM");
  });

  test("takes nothing for whole that its writer could still change", () => {
    using pair = new Pair();
    pair.sink.write(Uint8Array.of(1));
    expect(read(pair, 1)).toEqual([1]);
    expect(() => pair.source.ended).toThrow("it could still change");
  });

  test("that was told more than there is, finds that it ends too early", () => {
    using pair = new Pair();
    tellProgress(pair.ends[1], 2 ** 62);
    expect(() => read(pair, 1)).toThrow("it ends too early");
  });

  test("believes nothing that is no number, or less than before", () => {
    using pair = new Pair();
    pair.sink.write(Uint8Array.of(1, 2));
    for (const bytes of [-1, NaN, 1]) tellProgress(pair.ends[1], bytes);
    const { vmm_send } = processLibrary();
    for (const length of [1, 100]) {
      vmm_send(pair.ends[1], ptr(new Uint8Array(length).fill(0xff)), length, null, 0);
    }
    let waited = 0;
    pair.wait = () => {
      if (++waited > 10) throw new Error("waits");
      return false;
    };
    expect(read(pair, 2)).toEqual([1, 2]);
    expect(() => read(pair, 1)).toThrow("waits");
  });

  test("takes all for there when that is said, whatever its writer told", () => {
    using pair = new Pair();
    const heard: boolean[] = [];
    pair.sink.hold();
    pair.sink.write(Uint8Array.of(1, 2));
    pair.leave();
    pair.wait = (hears) => {
      heard.push(hears);
      return heard.length === 3;
    };
    expect(read(pair, 2)).toEqual([1, 2]);
    // A writer that has gone isn't listened to.
    expect(heard).toEqual([false, false, false]);
    expect(() => read(pair, 1)).toThrow("it ends too early");
  });

  test("comes to an end, though its writer doesn't", () => {
    using pair = new Pair();
    pair.sink.write(new Uint8Array(MOST + 1));
    pair.source.skip(MOST);
    expect(() => read(pair, 1)).toThrow("it has no end");
  });

  test("finds something behind the end", () => {
    using pair = new Pair();
    pair.sink.write(Uint8Array.of(1, 2));
    pair.sink.done();
    expect(read(pair, 1)).toEqual([1]);
    expect(pair.source.ended).toBe(false);
  });
});

test("a file that isn't one in memory can't be sealed", () => {
  const plain = openSync(import.meta.path, "r");
  const [hears, tells] = openProgress();
  const sink = new ProgressSink(() => {}, plain, tells);
  expect(() => sink.done()).toThrow("sealing it");
  for (const one of [plain, hears, tells]) closeSync(one);
});
