/** The qcow2 driver against a model: bytes in an array. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Disk } from "./disk.ts";
import { DiskError } from "./error.ts";
import { diskFromFile } from "./open.ts";
import { readHeader } from "./qcow2/header.ts";
import { RawDisk } from "./raw.ts";
import { emptyImage, MemoryFile, random, RecordingFile } from "./testing.ts";

function readAll(disk: Disk): Uint8Array {
  const bytes = new Uint8Array(disk.size);
  disk.read(0, bytes);
  return bytes;
}

function counting(length: number, seed: number): Uint8Array {
  const next = random(seed);
  return Uint8Array.from({ length }, () => 1 + next(255));
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

interface Setup {
  clusterBits: number;
  size: number;
  /** Of a raw base, bytes; 0 for none. */
  base: number;
}

const setup: fc.Arbitrary<Setup> = fc.oneof(
  fc.record({
    clusterBits: fc.integer({ min: 9, max: 10 }),
    size: fc.integer({ min: 1, max: 300_000 }),
    base: fc.constantFrom(0, 1000, 65536, 400_000),
  }),
  fc.record({
    clusterBits: fc.constantFrom(12, 16),
    size: fc.integer({ min: 1, max: 1_500_000 }),
    base: fc.constantFrom(0, 1000, 100_000, 2_000_000),
  }),
);

type Step =
  | { kind: "write"; at: number; length: number; seed: number }
  | { kind: "read"; at: number; length: number }
  | { kind: "flush" }
  | { kind: "reopen" };

const place = { at: fc.double({ min: 0, max: 1, noNaN: true }), length: fc.nat(70_000) };
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("write" as const),
      ...place,
      seed: fc.integer({ min: 1, max: 1e6 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("read" as const), ...place }) },
  { weight: 1, arbitrary: fc.constant({ kind: "flush" as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: "reopen" as const }) },
);

describe("qcow2", () => {
  test("reads what was written, whatever the order, sizes and base", () => {
    fc.assert(
      fc.property(setup, fc.array(step, { maxLength: 30 }), (options, steps) => {
        const { clusterBits, size } = options;
        const content = counting(options.base, 7);
        const backing = options.base === 0 ? undefined : { name: "base", format: "raw" };
        const file = new MemoryFile("test", emptyImage(size, clusterBits, backing));
        const open = () => {
          const base = backing && new RawDisk(new MemoryFile("base", content), true);
          return diskFromFile(file, "qcow2", base, false);
        };
        const model = new Uint8Array(size);
        model.set(content.subarray(0, size));
        let disk = open();
        for (const s of steps) {
          if (s.kind === "flush") disk.flush();
          else if (s.kind === "reopen") {
            disk.close();
            disk = open();
          } else {
            const at = Math.min(Math.floor(s.at * size), size - 1);
            const length = Math.min(s.length, size - at);
            const into = new Uint8Array(length);
            if (s.kind === "write") {
              const bytes = counting(length, s.seed);
              disk.write(at, bytes);
              model.set(bytes, at);
            }
            disk.read(at, into);
            expect(same(into, model.subarray(at, at + length))).toBe(true);
          }
        }
        disk.close();
        expect(same(readAll(open()), model)).toBe(true);
      }),
      { seed: 3, numRuns: 300 },
    );
  });

  test("grows its refcount table, twice", () => {
    // A table of one 512-byte cluster counts 8 MiB.
    const size = 24 * 2 ** 20;
    const file = new MemoryFile("test", emptyImage(size, 9));
    const before = readHeader(file);
    const disk = diskFromFile(file, "qcow2", undefined, false);
    const bytes = counting(size, 5);
    for (let at = 0; at < size; at += 2 ** 20) disk.write(at, bytes.subarray(at, at + 2 ** 20));
    disk.close();
    const after = readHeader(file);
    expect(before.refcountTableClusters).toBe(1);
    expect(after.refcountTableClusters).toBeGreaterThan(4);
    expect(same(readAll(diskFromFile(file, "qcow2", undefined, true)), bytes)).toBe(true);
  });

  test("takes no more of the file than it needs", () => {
    const file = new MemoryFile("test", emptyImage(2 ** 30, 16));
    const disk = diskFromFile(file, "qcow2", undefined, false);
    const before = file.size;
    disk.write(5 * 65536 + 100, counting(10, 1));
    disk.write(5 * 65536 + 200, counting(10, 1));
    disk.flush();
    // An L2 table and a cluster.
    expect(file.size - before).toBe(2 * 65536);
  });

  test("knows zeroes without reading", () => {
    const content = new Uint8Array(3 * 65536);
    const base = new RawDisk(new MemoryFile("base", content), true);
    const image = emptyImage(2 ** 30, 16, { name: "base", format: "raw" });
    const disk = diskFromFile(new MemoryFile("test", image), "qcow2", base, false);
    expect(disk.zeroes(0)).toBe(0);
    expect(disk.zeroes(content.length)).toBe(2 ** 30 - content.length);
    disk.write(10 * 65536, counting(65536, 1));
    expect(disk.zeroes(9 * 65536 + 1)).toBe(65535);
    expect(disk.zeroes(10 * 65536)).toBe(0);
    expect(disk.zeroes(2 ** 29)).toBe(2 ** 29);
    expect(disk.zeroes(2 ** 30)).toBe(0);
  });

  test("writes nothing but data until a flush", () => {
    const file = new RecordingFile("test", emptyImage(2 ** 30, 16));
    const disk = diskFromFile(file, "qcow2", undefined, false);
    disk.write(0, counting(65536, 1));
    disk.write(0, counting(65536, 2));
    expect(file.operations.map(({ kind }) => kind)).toEqual(["resize", "write", "resize", "write"]);
    disk.flush();
    const kinds = file.operations.slice(4).map(({ kind }) => kind);
    // Reference counts; the L2 table; the L1 table.
    expect(kinds).toEqual(["write", "sync", "write", "sync", "write", "sync"]);
    disk.flush();
    expect(file.operations.slice(10).map(({ kind }) => kind)).toEqual(["sync"]);
  });

  test("a request beyond the end, or to a read-only disk, is refused", () => {
    const file = new MemoryFile("x.qcow2", emptyImage(100_000, 16));
    const disk = diskFromFile(file, "qcow2", undefined, false);
    const beyond = new DiskError("x.qcow2: 0x1869f + 0x2 reaches beyond the end of the disk");
    expect(() => disk.read(99_999, new Uint8Array(2))).toThrow(beyond);
    expect(() => disk.write(99_999, new Uint8Array(2))).toThrow(beyond);
    expect(() => disk.read(-1, new Uint8Array(1))).toThrow(DiskError);
    expect(() => disk.read(Number.NaN, new Uint8Array(1))).toThrow(DiskError);
    expect(() => disk.read(0.5, new Uint8Array(1))).toThrow(DiskError);
    const readOnly = diskFromFile(file, "qcow2", undefined, true);
    expect(() => readOnly.write(0, new Uint8Array(1))).toThrow(
      new DiskError("x.qcow2: the disk is read-only"),
    );
  });

  test("a full host fails the write, and what was there stays", () => {
    const file = new (class extends MemoryFile {
      full = false;
      override resize(size: number): void {
        if (this.full) throw new DiskError("test: No space left on device", "ENOSPC");
        super.resize(size);
      }
    })("test", emptyImage(2 ** 24, 16));
    const disk = diskFromFile(file, "qcow2", undefined, false);
    const bytes = counting(65536, 1);
    disk.write(0, bytes);
    file.full = true;
    expect(() => disk.write(65536, bytes)).toThrow(/No space left/);
    disk.write(100, bytes.subarray(100));
    disk.flush();
    file.full = false;
    disk.write(65536 + 5, bytes.subarray(0, 10));
    disk.close();
    const model = new Uint8Array(2 ** 24);
    model.set(bytes);
    model.set(bytes.subarray(0, 10), 65536 + 5);
    expect(same(readAll(diskFromFile(file, "qcow2", undefined, true)), model)).toBe(true);
  });
});

describe("a hostile table", () => {
  const CLUSTER = 65536;
  // The layout of emptyImage: header, refcount table, a block, the L1 table; then what is added.
  const L1 = 3 * CLUSTER;
  // The data's cluster comes first, as the table is made after the data are written.
  const L2 = 5 * CLUSTER;

  /** An image with data in its first cluster, and one 64-bit number in it changed. */
  function changed(at: number, value: bigint): MemoryFile {
    const file = new MemoryFile("x", emptyImage(2 ** 24, 16));
    const disk = diskFromFile(file, "qcow2", undefined, false);
    disk.write(0, new Uint8Array(100).fill(1));
    disk.close();
    const bytes = new DataView(new ArrayBuffer(8));
    bytes.setBigUint64(0, value);
    expect(file.size).toBe(6 * CLUSTER);
    file.write(at, new Uint8Array(bytes.buffer), 0, 8);
    return file;
  }

  const table = BigInt(L2);
  const cases: [string, number, bigint, RegExp][] = [
    ["L1 unaligned", L1, table + 512n, /L1 entry 0: 0x50200 is no multiple of the cluster size/],
    ["L1 beyond the file", L1, 1n << 40n, /L1 entry 0: 0x10000000000 lies beyond the end/],
    ["L1 reserved", L1, table | (1n << 60n), /L1 entry 0: reserved bits are set/],
    ["L2 unaligned", L2, 513n << 9n, /L2 entry 0 at 0x50000: 0x40200 is no multiple/],
    ["L2 beyond the file", L2, 1n << 50n, /L2 entry 0 at 0x50000: .* lies beyond/],
    ["L2 reserved", L2, 4n, /L2 entry 0 at 0x50000: reserved bits are set/],
    ["L2 names the header", L2, 1n << 63n, /offset 0 is the header/],
    ["compressed beyond", L2, (1n << 62n) | (1n << 45n), /lies beyond the end/],
    ["compressed once", L2, (3n << 62n) | 0x40000n, /compressed cluster marked/],
    ["compressed rubbish", L2, (1n << 62n) | 0x40001n, /at 0x40001 is damaged/],
  ];
  test.each(cases)("%s is an error of the request", (_, at, value, message) => {
    const file = changed(at, value);
    const disk = diskFromFile(file, "qcow2", undefined, false);
    expect(() => disk.read(0, new Uint8Array(10))).toThrow(message);
    expect(() => disk.read(0, new Uint8Array(10))).toThrow(DiskError);
    expect(() => disk.write(0, new Uint8Array(10))).toThrow(DiskError);
  });

  test("that maps data to a table: the table can't be written", () => {
    for (const cluster of [1, 2, 3, 5]) {
      const value = (1n << 63n) | BigInt(cluster * CLUSTER);
      const disk = diskFromFile(changed(L2, value), "qcow2", undefined, false);
      expect(() => disk.write(8, new Uint8Array(10))).toThrow(/is data and a table at once/);
    }
  });

  test("of reference counts that frees a table: it isn't handed out", () => {
    const disk = diskFromFile(changed(2 * CLUSTER, 0n), "qcow2", undefined, false);
    expect(() => disk.write(CLUSTER, new Uint8Array(10))).toThrow(/counted as free: corrupt/);
  });

  test("of reference counts that leaves no cluster free ends soon", () => {
    const file = new MemoryFile("x", emptyImage(2 ** 24, 16));
    file.write(2 * CLUSTER, new Uint8Array(CLUSTER).fill(0xff), 0, CLUSTER);
    const entries = new DataView(new ArrayBuffer(CLUSTER));
    for (let i = 0; i < CLUSTER; i += 8) entries.setBigUint64(i, BigInt(2 * CLUSTER));
    file.write(CLUSTER, new Uint8Array(entries.buffer), 0, CLUSTER);
    const disk = diskFromFile(file, "qcow2", undefined, false);
    expect(() => disk.write(CLUSTER, new Uint8Array(10))).toThrow(/no cluster is free: corrupt/);
  });
});
