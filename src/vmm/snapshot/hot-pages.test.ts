/** The record of hot pages: there and back, and what can't be one. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { encodeRuns, PAGE, type Run, RecordType, SnapshotError } from "./format.ts";
import { decodeHotPages, encodeHotPages } from "./hot-pages.ts";
import { PageSet } from "./page-set.ts";
import { SnapshotReader } from "./reader.ts";
import { BytesSource } from "./sources.ts";
import { SnapshotWriter } from "./writer.ts";

/** Two that touch, and one whose addresses lie below the last one's. */
const ranges = [
  { base: 0, size: 100 * PAGE, readonly: false, host: 0 },
  { base: 100 * PAGE, size: 50 * PAGE, readonly: false, host: 0 },
  { base: 400 * PAGE, size: 70 * PAGE, readonly: false, host: 0 },
  { base: 200 * PAGE, size: 10 * PAGE, readonly: true, host: 0 },
];

const pagesOf = (runs: Iterable<Run>) =>
  [...runs].flatMap(({ page, count }) => Array.from({ length: count }, (_, i) => page + i));

function payload(...runs: Run[]): Uint8Array {
  const bytes = new Uint8Array(16 * runs.length);
  encodeRuns(bytes, runs);
  return bytes;
}

/** A snapshot's records, each of its type with its payload. */
function stream(...records: [RecordType, Uint8Array?][]): Uint8Array {
  const parts: Uint8Array[] = [];
  const writer = new SnapshotWriter((bytes) => void parts.push(bytes.slice()));
  for (const [type, bytes = new Uint8Array(0)] of records) writer.bytes(type, bytes);
  return Buffer.concat(parts);
}

function readAll(bytes: Uint8Array): Uint8Array | undefined {
  const reader = new SnapshotReader(new BytesSource(bytes));
  let hot: Uint8Array | undefined;
  for (let record = reader.next(); record !== undefined; record = reader.next()) {
    if (record.head.type === RecordType.HOT) hot = record.payload.slice();
  }
  return hot;
}

const { CONFIG, STATE, CPU, HOST, END, HOT, ZERO } = RecordType;

describe("hot pages", () => {
  test("are the same when they are read, in order", () => {
    const some = fc.array(fc.record({ page: fc.nat(500), count: fc.integer({ min: 1, max: 90 }) }));
    fc.assert(
      fc.property(some, (added) => {
        const set = new PageSet(ranges);
        for (const { page, count } of added) set.add(page * PAGE, count * PAGE);
        const pages = pagesOf(decodeHotPages(encodeHotPages(set), ranges));
        expect(pages).toEqual(pagesOf(set.runs()).sort((a, b) => a - b));
      }),
      { seed: 5 },
    );
  });

  test("of too many runs become fewer, and none is left out", () => {
    const set = new PageSet(ranges);
    for (let page = 0; page < 470; page += 3) set.add(page * PAGE, PAGE);
    expect([...set.runs()].length).toBeGreaterThan(70);
    const bytes = encodeHotPages(set, 8);
    expect(bytes.length).toBeLessThanOrEqual(8 * 16);
    const pages = new Set(pagesOf(decodeHotPages(bytes, ranges)));
    for (const page of pagesOf(set.runs())) expect(pages.has(page)).toBe(true);
  });

  test("that can't be are refused, each in a sentence", () => {
    const refuse = (bytes: Uint8Array) => expect(() => decodeHotPages(bytes, ranges));
    const order = new SnapshotError("its hot pages are not in their order");
    const nowhere = new SnapshotError("it has hot pages where the machine has no memory");
    const none = new SnapshotError("pages that no machine has");
    refuse(payload({ page: 5, count: 1 }, { page: 3, count: 1 })).toThrow(order);
    refuse(payload({ page: 5, count: 3 }, { page: 7, count: 1 })).toThrow(order);
    refuse(payload({ page: 5, count: 1 }, { page: 5, count: 1 })).toThrow(order);
    refuse(payload({ page: 150, count: 1 })).toThrow(nowhere);
    refuse(payload({ page: 149, count: 2 })).toThrow(nowhere);
    refuse(payload({ page: 99, count: 2 })).toThrow(nowhere);
    refuse(payload({ page: 2 ** 39, count: 1 })).toThrow(nowhere);
    refuse(payload({ page: 1, count: 0 })).toThrow(none);
    refuse(payload({ page: 2 ** 40, count: 1 })).toThrow(none);
    refuse(payload({ page: 1, count: 2 ** 32 })).toThrow(none);
  });
});

describe("a record of hot pages", () => {
  const state: [RecordType][] = [[STATE], [CPU], [HOST]];
  const hot = payload({ page: 1, count: 2 }, { page: 9, count: 1 });

  test("stands behind the pages, once, and may be missing", () => {
    expect(readAll(stream([CONFIG], ...state, [END]))).toBeUndefined();
    for (let place = 0; place <= 3; place++) {
      const records: [RecordType, Uint8Array?][] = [...state];
      records.splice(place, 0, [HOT, hot]);
      expect(readAll(stream([CONFIG], ...records, [END]))).toEqual(hot);
    }
    const misplaced = /^record \d is not what belongs there$/;
    const wrong = (...records: [RecordType, Uint8Array?][]) =>
      expect(() => readAll(stream(...records))).toThrow(misplaced);
    wrong([CONFIG], [HOT, hot], [HOT, hot], ...state, [END]);
    wrong([CONFIG], [HOT, hot], [ZERO, payload({ page: 1, count: 1 })], ...state, [END]);
    expect(() => readAll(stream([HOT, hot], ...state, [END]))).toThrow("it is no snapshot");
  });

  test("is of whole runs, and of no more than there may be", () => {
    const size = /^record \d has an impossible size$/;
    const of = (bytes: number) => stream([CONFIG], [HOT, new Uint8Array(bytes)], ...state, [END]);
    expect(() => readAll(of(24))).toThrow(size);
    expect(() => readAll(of(16 * 65_537))).toThrow(size);
    expect(readAll(of(0))?.length).toBe(0);
  });

  test("says that it is of version 2, and no other record does", () => {
    const bytes = stream([CONFIG], [HOT, hot], ...state, [END]);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const versions = Array.from({ length: 6 }, (_, i) => view.getUint16(4096 * i + 4, true));
    expect(versions).toEqual([1, 2, 1, 1, 1, 1]);
  });
});
