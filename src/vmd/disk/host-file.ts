/** The file an image lies in: what a driver needs of the host, and no more. */
import { closeSync, fdatasyncSync, ftruncateSync, readSync, writeSync } from "node:fs";
import { fileKind } from "./state.ts";
import { DiskError, hostError } from "./error.ts";

/** Positions and lengths are in bytes. All functions throw DiskError when the host fails. */
export interface HostFile {
  /** As the user knows it. */
  readonly name: string;
  /** Present size. */
  readonly size: number;
  /** To reach it by other means than these; undefined where there are none. */
  readonly descriptor: number | undefined;
  /** A block device can't become longer. */
  readonly regular: boolean;
  /** Reads into `into[start .. start + length)`; gives the count, short only at the file's end. */
  read(position: number, into: Uint8Array, start: number, length: number): number;
  /** Writes all of `from[start .. start + length)`. */
  write(position: number, from: Uint8Array, start: number, length: number): void;
  /** Changes the size; what is added reads as zero. */
  resize(size: number): void;
  /** Makes the data, and what is needed to find them, durable: fdatasync(2). */
  sync(): void;
  /** Whoever was to make it durable by the descriptor failed: no `sync` succeeds any more. */
  lost(error: DiskError): void;
  close(): void;
}

/** A regular file or block device by an open descriptor, which `close` closes. */
export class DescriptorFile implements HostFile {
  readonly name: string;
  readonly regular: boolean;
  readonly descriptor: number;
  #size: number;
  #lost: DiskError | undefined;

  /** @throws DiskError unless it is a regular file or a block device. */
  constructor(name: string, descriptor: number) {
    this.name = name;
    this.descriptor = descriptor;
    const { kind, size } = this.#host(() => fileKind(descriptor));
    if (kind === "directory") throw new DiskError(`${name}: Is a directory`, "EISDIR");
    this.regular = kind === "regular";
    if (kind === "other") throw new DiskError(`${name}: neither a regular file nor a block device`);
    this.#size = this.regular ? size : this.#deviceSize();
  }

  get size(): number {
    return this.#size;
  }

  read(position: number, into: Uint8Array, start: number, length: number): number {
    try {
      let done = 0;
      while (done < length) {
        const at = start + done;
        const count = readSync(this.descriptor, into, at, length - done, position + done);
        if (count === 0) break;
        done += count;
      }
      return done;
    } catch (error) {
      throw hostError(this.name, error);
    }
  }

  write(position: number, from: Uint8Array, start: number, length: number): void {
    try {
      for (let done = 0; done < length;) {
        const at = start + done;
        done += writeSync(this.descriptor, from, at, length - done, position + done);
      }
    } catch (error) {
      throw hostError(this.name, error);
    }
    if (position + length > this.#size) this.#size = position + length;
  }

  resize(size: number): void {
    this.#host(() => ftruncateSync(this.descriptor, size));
    this.#size = size;
  }

  /** Linux forgets what it failed to write: after one failure a later success means nothing. */
  sync(): void {
    if (this.#lost !== undefined) throw this.#lost;
    try {
      fdatasyncSync(this.descriptor);
    } catch (error) {
      const lost = hostError(this.name, error);
      if (lost instanceof DiskError) this.#lost = lost;
      throw lost;
    }
  }

  lost(error: DiskError): void {
    this.#lost ??= error;
  }

  close(): void {
    this.#host(() => closeSync(this.descriptor));
  }

  #host<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw hostError(this.name, error);
    }
  }

  /** There is no lseek(2) here: the first byte that can't be read is searched for. */
  #deviceSize(): number {
    const byte = new Uint8Array(1);
    let low = 0;
    let high = 1;
    while (this.read(high - 1, byte, 0, 1) === 1) {
      low = high;
      high *= 2;
      if (high > Number.MAX_SAFE_INTEGER)
        throw new DiskError(`${this.name}: the device has no end`);
    }
    // The bytes [0, low) are there, byte high - 1 is not.
    while (high - low > 1) {
      const middle = low + Math.floor((high - low) / 2);
      if (this.read(middle - 1, byte, 0, 1) === 1) low = middle;
      else high = middle;
    }
    return low;
  }
}

/** Reads `into[start .. start + length)`; zeroes for what lies beyond the file's end. */
export function readPadded(
  file: HostFile,
  position: number,
  into: Uint8Array,
  start: number,
  length: number,
): void {
  const count = position < file.size ? file.read(position, into, start, length) : 0;
  if (count < length) into.fill(0, start + count, start + length);
}
