/** Snapshots that are read while they are written. */
import { describe, expect, test } from "bun:test";
import { closeSync, openSync, readdirSync, writeSync } from "node:fs";
import { check, hostLibrary } from "../native.ts";
import { openCounter, ProgressSink, ProgressSource } from "./progress.ts";
import { descriptorSink } from "./sources.ts";

/** A file in memory with a writer and a reader, which find nothing to wait for. */
class Pair implements Disposable {
  readonly file = check("a file", hostLibrary().vmm_memory_file(0));
  readonly again = openSync(`/proc/self/fd/${this.file}`, "r");
  readonly counter = openCounter();
  readonly sink = new ProgressSink(
    descriptorSink(this.file, () => false),
    this.file,
    this.counter,
  );
  readonly source = new ProgressSource(this.again, this.counter, () => this.wait());
  wait = (): void => {
    throw new Error("waits");
  };

  [Symbol.dispose](): void {
    for (const one of [this.file, this.again, this.counter]) closeSync(one);
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
    writeSync(pair.counter, new BigUint64Array([2n ** 62n]));
    expect(() => read(pair, 1)).toThrow("it ends too early");
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
  const open = readdirSync("/proc/self/fd").length;
  const plain = openSync(import.meta.path, "r");
  const counter = openCounter();
  const sink = new ProgressSink(() => {}, plain, counter);
  expect(() => sink.done()).toThrow("sealing it");
  closeSync(plain);
  closeSync(counter);
  expect(readdirSync("/proc/self/fd").length).toBe(open);
});
