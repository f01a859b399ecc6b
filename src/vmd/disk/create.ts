/** New images: raw ones, qcow2 ones, and copies of others in either format. */
import { closeSync, ftruncateSync, openSync, realpathSync, unlinkSync, writeSync } from "node:fs";
import { basename, dirname, isAbsolute, join, relative } from "node:path";
import type { Disk, DiskFormat } from "./disk.ts";
import { DiskError, hostError } from "./error.ts";
import { checkSize, headerBytes, l1EntriesFor } from "./qcow2/header.ts";
import { openDisk } from "./open.ts";

const CLUSTER_BITS = 16;
/** Bytes that are copied, or skipped as zeroes, at once. */
const BLOCK = 65536;
/** Between two looks at what else the program has to do, bytes. */
const PAUSE = 2 ** 24;

/** Creates a sparse raw image of `size` bytes; the file must not exist. @throws DiskError */
export function createRaw(path: string, size: number): void {
  create(path, (descriptor) => ftruncateSync(descriptor, size));
}

export interface Qcow2Options {
  /** What unwritten clusters are read from; its path counts from the working directory. */
  base?: { path: string; format: DiskFormat };
  /** 9 to 21; 16 if not given. */
  clusterBits?: number;
}

/**
 * Creates a qcow2 image, version 3, of a disk of `size` bytes; the file must not exist. The base
 * isn't opened.
 * @throws DiskError
 */
export function createQcow2(path: string, size: number, options: Qcow2Options = {}): void {
  const { base, clusterBits = CLUSTER_BITS } = options;
  const backing = base && { name: nameFrom(path, base.path), format: base.format };
  const parts = emptyQcow2(path, size, { backing, clusterBits });
  create(path, (descriptor) => {
    ftruncateSync(descriptor, parts.length);
    for (const { at, bytes } of parts.writes) {
      for (let done = 0; done < bytes.length;) {
        done += writeSync(descriptor, bytes, done, bytes.length - done, at + done);
      }
    }
  });
}

/** What an empty image consists of: a file of `length` zeroes, and some writes. */
export function emptyQcow2(
  name: string,
  size: number,
  options: { backing?: { name: string; format: string }; clusterBits: number },
): { length: number; writes: { at: number; bytes: Uint8Array }[] } {
  const clusterSize = 2 ** options.clusterBits;
  checkSize(name, size, clusterSize);
  // The header, the refcount table, its blocks, the L1 table.
  const l1Clusters = Math.ceil((l1EntriesFor(size, clusterSize) * 8) / clusterSize);
  const perBlock = clusterSize / 2;
  let tables = 1;
  let blocks = 1;
  const clusters = () => 1 + tables + blocks + l1Clusters;
  while (blocks * perBlock < clusters() || (tables * clusterSize) / 8 < blocks) {
    if (blocks * perBlock < clusters()) blocks++;
    else tables++;
  }
  const header = headerBytes(name, {
    clusterBits: options.clusterBits,
    size,
    l1Offset: (1 + tables + blocks) * clusterSize,
    refcountTableOffset: clusterSize,
    refcountTableClusters: tables,
    backing: options.backing,
  });
  const table = new DataView(new ArrayBuffer(blocks * 8));
  for (let i = 0; i < blocks; i++) {
    table.setBigUint64(i * 8, BigInt((1 + tables + i) * clusterSize));
  }
  const counts = new DataView(new ArrayBuffer(clusters() * 2));
  for (let i = 0; i < clusters(); i++) counts.setUint16(i * 2, 1);
  return {
    length: clusters() * clusterSize,
    writes: [
      { at: 0, bytes: header },
      { at: clusterSize, bytes: new Uint8Array(table.buffer) },
      { at: (1 + tables) * clusterSize, bytes: new Uint8Array(counts.buffer) },
    ],
  };
}

/** The base's name as the image has it: from the image's folder, whatever links lead there. */
function nameFrom(image: string, base: string): string {
  if (isAbsolute(base)) return base;
  try {
    const name = join(realpathSync(dirname(base)), basename(base));
    return relative(realpathSync(dirname(image)), name);
  } catch (error) {
    throw hostError(base, error);
  }
}

/** Creates a file for its owner alone; it is removed again if `fill` fails. */
function create(path: string, fill: (descriptor: number) => void): void {
  let descriptor: number;
  try {
    descriptor = openSync(path, "wx", 0o600);
  } catch (error) {
    throw hostError(path, error);
  }
  try {
    fill(descriptor);
    closeSync(descriptor);
  } catch (error) {
    unlinkSync(path);
    throw hostError(path, error);
  }
}

export interface ConvertOptions {
  format: DiskFormat;
  /** Of the new disk, bytes; at least the source's. */
  size: number;
  /** Ends the copy; the new file is removed. */
  signal?: AbortSignal;
}

/**
 * Copies a disk to a new image, but for blocks of zeroes; the file must not exist. Whatever fails,
 * no partial file stays. The source stays open.
 * @throws DiskError
 */
export async function convertDisk(
  source: Disk,
  path: string,
  { format, size, signal }: ConvertOptions,
): Promise<void> {
  if (size < source.size) throw new DiskError(`${path}: smaller than ${source.name}`);
  if (format === "raw") createRaw(path, size);
  else createQcow2(path, size);
  let copy: Disk | undefined;
  try {
    copy = openDisk(path, { format });
    await copyBlocks(source, copy, signal);
    copy.flush();
  } catch (error) {
    unlinkSync(path);
    discard(copy);
    throw error;
  }
  copy.close();
}

/** Closes a disk whose file is gone; what else goes wrong with it doesn't matter. */
function discard(disk: Disk | undefined): void {
  try {
    disk?.close();
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
  }
}

async function copyBlocks(from: Disk, to: Disk, signal: AbortSignal | undefined): Promise<void> {
  const block = new Uint8Array(BLOCK);
  const zeroes = Buffer.alloc(BLOCK);
  let pause = PAUSE;
  for (let at = 0; at < from.size;) {
    if (at >= pause) {
      await new Promise((done) => setImmediate(done));
      if (signal?.aborted) throw new DiskError(`${to.name}: Interrupted`, "EINTR");
      pause = at + PAUSE;
    }
    const skip = Math.floor(from.zeroes(at) / BLOCK) * BLOCK;
    if (skip > 0) {
      at += skip;
      continue;
    }
    const bytes = block.subarray(0, Math.min(BLOCK, from.size - at));
    from.read(at, bytes);
    if (zeroes.compare(bytes, 0, bytes.length, 0, bytes.length) !== 0) to.write(at, bytes);
    at += bytes.length;
  }
}
