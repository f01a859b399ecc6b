/** A disk as a guest's controller sees it: bytes from 0 to its size. */
import { DiskError, hex } from "./error.ts";

/** How a part of a disk can be read or written. */
export const ExtentKind = {
  /** It lies in an open file as it is: whoever has the descriptor can read or write it there. */
  FILE: 0,
  /** It reads as zero. */
  ZERO: 1,
  /** Only `read` and `write` can do it. */
  INDIRECT: 2,
} as const;
export type ExtentKind = (typeof ExtentKind)[keyof typeof ExtentKind];

/** A part of a disk, as `locate` found it; the caller's, filled anew each time. */
export interface Extent {
  kind: ExtentKind;
  /** Bytes. */
  length: number;
  /** Of FILE: where it lies. What is beyond the end of the file reads as zero. */
  descriptor: number;
  position: number;
}

/**
 * Everything is synchronous: a disk belongs to one thread. Requests are all done or throw a
 * DiskError; what a failed write left is undefined for its own range only.
 *
 * Who moves data by itself asks `locate` where it lies, and flushes in steps, so that it can wait
 * elsewhere for files to become durable.
 */
export interface Disk {
  /** The file, as the user knows it. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Fills all of `into` from byte `offset` on. @throws DiskError */
  read(offset: number, into: Uint8Array): void;
  /** Writes all of `bytes`; durable after the next flush. @throws DiskError */
  write(offset: number, bytes: Uint8Array): void;
  /** What was written before survives a crash of the host. @throws DiskError */
  flush(): void;
  /**
   * As flush, in steps: at each yield a file of the disk (its descriptor) must become durable. No
   * other method may be called until it has ended. @throws DiskError
   */
  flushing(): Generator<number, void>;
  /**
   * Finds out how the part of the disk from `offset` on, at most `length` bytes, can be read, or for
   * `writing` be written: at once, since the next write may move it. What is located for writing
   * must be written before the next flush. @throws DiskError
   */
  locate(offset: number, length: number, writing: boolean, extent: Extent): void;
  /**
   * Makes bytes read as zero; with `discard` they are needed no more, and may read as anything. At
   * most `length` bytes are looked at; `extent` says how many were, and of which kind they are: ZERO
   * when that is done, FILE when the caller is to do it there, INDIRECT when zeroes are to be written
   * by `write`. Durable after the next flush. @throws DiskError
   */
  clear(offset: number, length: number, discard: boolean, extent: Extent): void;
  /** A file could not be made durable, by whoever did a step of `flushing`: no flush succeeds any more. */
  lost(error: DiskError): void;
  /** Flushes, then closes the file and those it is based on, whatever happens. @throws DiskError */
  close(): void;
  /** Bytes from `offset` on that are known to be zero without reading them; may be 0. */
  zeroes(offset: number): number;
}

export type DiskFormat = "raw" | "qcow2";

/** An extent to be filled. */
export function emptyExtent(): Extent {
  return { kind: ExtentKind.INDIRECT, length: 0, descriptor: -1, position: 0 };
}

/** Throws unless [offset, offset + length) lies on the disk. */
export function checkRange(disk: Disk, offset: number, length: number): void {
  if (Number.isSafeInteger(offset) && offset >= 0 && offset + length <= disk.size) return;
  const range = `${hex(offset)} + ${hex(length)}`;
  throw new DiskError(`${disk.name}: ${range} reaches beyond the end of the disk`);
}

/** Throws unless the disk may be written. */
export function checkWritable(disk: Disk): void {
  if (disk.readOnly) throw new DiskError(`${disk.name}: the disk is read-only`);
}
