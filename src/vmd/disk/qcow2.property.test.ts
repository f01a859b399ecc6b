/**
 * Damaged images: whatever bytes stand in headers and tables, opening, reading and writing end soon,
 * with their work done or with a DiskError. Images of several kinds are changed where it hurts.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import fc from "fast-check";
import { deflateRawSync, zstdCompressSync } from "node:zlib";
import type { Disk } from "./disk.ts";
import { DiskError } from "./error.ts";
import { diskFromFile } from "./open.ts";
import { readHeader } from "./qcow2/header.ts";
import { RawDisk } from "./raw.ts";
import { emptyImage, MemoryFile } from "./testing.ts";

// More cases, or others, by hand: DISK_CASES=1000000 DISK_SEED=7 bun test src/vmd/disk/qcow2.prop
const CASES = Number(process.env.DISK_CASES ?? 10_000);
const SEED = Number(process.env.DISK_SEED ?? 5);
/** A case that takes longer has found work that isn't bounded; most take far below 1 ms. */
const SLOWEST_MS = 2000;
/** No image here is larger; a test that grows by more has found an allocation that isn't bounded. */
const MEMORY = 600 * 2 ** 20;

interface Seed {
  file: MemoryFile;
  /** Where its structures are: changes go there. */
  places: number[];
}

const BACKING = { name: "base", format: "raw" };
const base = () => new RawDisk(new MemoryFile("base", new Uint8Array(50_000).fill(9)), true);

/** An image with some data, whose cluster 0 is compressed if it says how. */
function seed(clusterBits: number, based: boolean, pack?: "zlib" | "zstd"): Seed {
  const image = emptyImage(2 ** (clusterBits + 4), clusterBits, based ? BACKING : undefined);
  const file = new MemoryFile("x", image);
  const disk = diskFromFile(file, "qcow2", based ? base() : undefined, false);
  const cluster = 2 ** clusterBits;
  disk.write(cluster, new Uint8Array(2 * cluster).fill(5));
  disk.write(cluster * 9 + 7, new Uint8Array(100).fill(6));
  disk.close();
  const { l1Offset, refcountTableOffset } = readHeader(file);
  const at = (offset: number) => {
    const entry = new Uint8Array(8);
    file.read(offset, entry, 0, 8);
    return Number(new DataView(entry.buffer).getBigUint64(0) & 0xfffffffffffe00n);
  };
  const l2 = at(l1Offset);
  if (pack !== undefined) compress(file, cluster, l2, pack);
  return { file, places: [0, 64, l1Offset, l2, refcountTableOffset, at(refcountTableOffset)] };
}

/** Compresses cluster 0 to the file's end, 100 bytes into the last cluster. */
function compress(file: MemoryFile, cluster: number, l2: number, pack: "zlib" | "zstd"): void {
  const content = new Uint8Array(cluster).fill(3);
  const packed = pack === "zlib" ? deflateRawSync(content) : zstdCompressSync(content);
  const at = file.size + 100;
  file.write(at, packed, 0, packed.length);
  file.resize(Math.ceil(file.size / cluster) * cluster);
  const entry = new DataView(new ArrayBuffer(8));
  entry.setBigUint64(0, (1n << 62n) | BigInt(at));
  file.write(l2, new Uint8Array(entry.buffer), 0, 8);
  if (pack === "zlib") return;
  file.write(79, Uint8Array.of(8), 0, 1);
  file.write(103, Uint8Array.of(112), 0, 1);
  file.write(104, Uint8Array.of(1), 0, 1);
}

const seeds: Seed[] = [
  seed(9, false),
  seed(9, true),
  seed(9, false, "zlib"),
  seed(12, false, "zstd"),
  seed(12, true, "zlib"),
  seed(16, false),
  seed(16, false, "zstd"),
];

/** What checks of fields and entries get wrong: limits of widths, flags, other clusters, the end. */
const EXTREMES = `
  0 1 2 3 4 8 9 15 16 21 22 63 64 72 104 112 0x1ff 0x200 0x400 0x600 0x800 0x1000 0x10000 0x20000
  0x30000 0x40000 0x50000 0x7fffffff 0x80000000 0xffffffff 0x100000000 0xfffffffffffe00
  0x1fffffffffffff 0x20000000000000 0x3fffffffffffffff 0x4000000000000000 0x4000000000000200
  0x7fffffffffffffff 0x8000000000000000 0x8000000000000200 0x8000000000001000 0x8000000000010000
  0x8000000000020000 0x8000000000030000 0xc000000000000000 0xffffffffffffffff`
  .trim()
  .split(/\s+/)
  .map(BigInt);

interface Change {
  place: number;
  at: number;
  bytes: Uint8Array;
}

const number = fc
  .tuple(fc.constantFrom(1, 2, 4, 8), fc.constantFrom(...EXTREMES))
  .map(([width, value]) => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value);
    return bytes.subarray(8 - width);
  });
const change: fc.Arbitrary<Change> = fc.record({
  place: fc.nat(5),
  at: fc.oneof(
    { weight: 3, arbitrary: fc.nat(20).map((n) => n * 4) },
    { weight: 1, arbitrary: fc.nat(300) },
  ),
  bytes: fc.oneof(number, fc.uint8Array({ minLength: 1, maxLength: 16 })),
});

let opened = 0;
let refused = 0;
let failed = 0;
let memory = 0;

/** Only a DiskError may come out. */
function survive<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    expect(error.message).toMatch(/^(x|base): /);
    expect(error.message.length).toBeLessThan(300);
    return undefined;
  }
}

function use(disk: Disk, readOnly: boolean): void {
  const piece = new Uint8Array(1000);
  const places = [0, 512, 4096, 65536, disk.size - 1000, Math.floor(disk.size / 2)];
  for (const at of places.filter((at) => at >= 0 && at + piece.length <= disk.size)) {
    const works = [() => disk.read(at, piece), () => disk.zeroes(at)];
    if (!readOnly) works.push(() => disk.write(at, piece));
    for (const work of works) {
      survive(() => {
        failed++;
        work();
        failed--;
      });
    }
  }
  const whole = new Uint8Array(Math.min(disk.size, 2 ** 18));
  survive(() => disk.read(0, whole));
  survive(() => disk.close());
}

beforeAll(() => {
  memory = process.memoryUsage.rss();
});
afterAll(() => {
  if (process.env.DISK_CASES !== undefined) {
    console.log(`${opened} images opened, ${refused} refused, ${failed} requests failed`);
  }
});

test("the images that are changed are right", () => {
  for (const { file } of seeds) {
    const header = readHeader(file);
    const disk = diskFromFile(file.clone(), "qcow2", header.backing && base(), false);
    const bytes = new Uint8Array(disk.size);
    disk.read(0, bytes);
    const cluster = header.clusterSize;
    expect([bytes[cluster], bytes[3 * cluster - 1], bytes[9 * cluster + 7]]).toEqual([5, 5, 6]);
    expect([0, 3, 9]).toContain(bytes[0]);
    disk.write(0, bytes);
    disk.close();
  }
});

test(
  "changed headers and tables",
  () => {
    fc.assert(
      fc.property(
        fc.nat(seeds.length - 1),
        fc.array(change, { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        (index, changes, readOnly) => {
          const { file, places } = seeds[index];
          const damaged = file.clone();
          for (const { place, at, bytes } of changes) {
            damaged.write(places[place] + at, bytes, 0, bytes.length);
          }
          const start = performance.now();
          const disk = survive(() => {
            const { backing } = readHeader(damaged);
            return diskFromFile(damaged, "qcow2", backing && base(), readOnly);
          });
          if (disk === undefined) refused++;
          else {
            opened++;
            use(disk, readOnly);
          }
          expect(performance.now() - start).toBeLessThan(SLOWEST_MS);
        },
      ),
      { numRuns: CASES, seed: SEED },
    );
    expect(opened).toBeGreaterThan(CASES / 10);
    expect(refused).toBeGreaterThan(CASES / 10);
    expect(failed).toBeGreaterThan(CASES / 10);
    expect(process.memoryUsage.rss() - memory).toBeLessThan(MEMORY);
  },
  60_000 + CASES,
);

test("random bytes after the magic number", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
      const file = new MemoryFile("x", Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3, ...bytes));
      const disk = survive(() => diskFromFile(file, "qcow2", undefined, false));
      if (disk !== undefined) use(disk, false);
    }),
    { numRuns: CASES, seed: SEED },
  );
});
