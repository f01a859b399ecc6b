import { deflateRawSync, zstdCompressSync } from "node:zlib";
import type { Disk } from "../../src/vmd/disk/disk.ts";
import { DiskError } from "../../src/vmd/disk/error.ts";
import { diskFromFile } from "../../src/vmd/disk/open.ts";
import { readHeader } from "../../src/vmd/disk/qcow2/header.ts";
import { RawDisk } from "../../src/vmd/disk/raw.ts";
import { emptyImage, MemoryFile } from "../../src/vmd/disk/testing.ts";
import { must, type Target } from "../own/target.ts";

const BACKING = { name: "base", format: "raw" };
const base = () => new RawDisk(new MemoryFile("base", new Uint8Array(5000).fill(9)), true);
/** Bytes of a cluster: small ones, so that an image has all its structures in few bytes. */
const CLUSTER_BITS = 9;
const READ_MAX = 2 ** 16;

/** An image with some data; cluster 0 is compressed, if it is said how. */
function image(based: boolean, pack?: "zlib" | "zstd"): Uint8Array {
  const cluster = 2 ** CLUSTER_BITS;
  const file = new MemoryFile(
    "x",
    emptyImage(16 * cluster, CLUSTER_BITS, based ? BACKING : undefined),
  );
  const disk = diskFromFile(file, "qcow2", based ? base() : undefined, false);
  disk.write(cluster, new Uint8Array(2 * cluster).fill(5));
  disk.write(cluster * 9 + 7, new Uint8Array(100).fill(6));
  disk.close();
  if (pack !== undefined) compress(file, cluster, pack);
  return file.content();
}

/** Compresses cluster 0 to the file's end. */
function compress(file: MemoryFile, cluster: number, pack: "zlib" | "zstd"): void {
  const entry = new Uint8Array(8);
  file.read(readHeader(file).l1Offset, entry, 0, 8);
  const l2 = Number(new DataView(entry.buffer).getBigUint64(0) & 0xfffffffffffe00n);
  const content = new Uint8Array(cluster).fill(3);
  const packed = pack === "zlib" ? deflateRawSync(content) : zstdCompressSync(content);
  const at = file.size + 100;
  file.write(at, packed, 0, packed.length);
  file.resize(Math.ceil(file.size / cluster) * cluster);
  new DataView(entry.buffer).setBigUint64(0, (1n << 62n) | BigInt(at));
  file.write(l2, entry, 0, 8);
  if (pack === "zlib") return;
  file.write(79, Uint8Array.of(8), 0, 1);
  file.write(103, Uint8Array.of(112), 0, 1);
  file.write(104, Uint8Array.of(1), 0, 1);
}

/** Only a DiskError may come out: a sentence. */
function attempt(work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    must(error.message.length < 300, `a message of ${error.message.length} characters`);
  }
}

function use(disk: Disk, readOnly: boolean): void {
  const piece = new Uint8Array(700);
  const places = [0, 512, 4096, disk.size - piece.length, Math.floor(disk.size / 2)];
  for (const at of places.filter((at) => at >= 0 && at + piece.length <= disk.size)) {
    attempt(() => disk.read(at, piece));
    attempt(() => {
      const zeroes = disk.zeroes(at);
      must(zeroes >= 0 && at + zeroes <= disk.size, `${zeroes} zeroes at ${at}`);
    });
    if (readOnly) continue;
    // Whether it is then read is no question: in such an image two clusters may be one.
    attempt(() => disk.write(at, piece.fill(at)));
  }
  attempt(() => disk.read(0, new Uint8Array(Math.min(disk.size, READ_MAX))));
  attempt(() => disk.close());
}

export const target: Target = {
  name: "qcow2",
  about: "images whose headers and tables say anything: a disk, or a sentence",
  maxInput: 8192,
  steps: 1_000_000,
  *seeds() {
    for (const readOnly of [0, 1]) {
      for (const one of [image(false), image(true), image(false, "zlib"), image(true, "zstd")]) {
        yield Uint8Array.from([...one, readOnly]);
      }
    }
  },
  run(input) {
    const end = Math.max(0, input.length - 1);
    const readOnly = ((input[end] ?? 0) & 1) !== 0;
    const file = new MemoryFile("x", input.subarray(0, end));
    attempt(() => {
      const { backing } = readHeader(file);
      use(diskFromFile(file, "qcow2", backing && base(), readOnly), readOnly);
    });
  },
};
