/** A disk as a guest's controller sees it: bytes from 0 to its size. */
import { DiskError, hex } from "./error.ts";

/**
 * Everything is synchronous: a disk belongs to one I/O thread. Requests are all done or throw a
 * DiskError; what a failed write left is undefined for its own range only.
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
  /** Flushes, then closes the file and those it is based on, whatever happens. @throws DiskError */
  close(): void;
  /** Bytes from `offset` on that are known to be zero without reading them; may be 0. */
  zeroes(offset: number): number;
}

export type DiskFormat = "raw" | "qcow2";

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
