/** Where snapshots are read from and written to: descriptors. */
import { readSync } from "node:fs";
import { check, hostLibrary, NativeError, processLibrary, ptr } from "../native.ts";
import { SnapshotError, TruncatedError } from "./format.ts";
import type { Source } from "./reader.ts";
import type { Sink } from "./writer.ts";

const AGAIN = -11;
const INTERRUPTED = -4;

/** Fills an array with a file's bytes from a position on. @throws TruncatedError */
export function readAt(descriptor: number, into: Uint8Array, position: number): void {
  for (let at = 0; at < into.length;) {
    const read = readSync(descriptor, into, at, into.length - at, position + at);
    if (read === 0) throw new TruncatedError();
    at += read;
  }
}

/** A regular file, or one in memory, from its beginning. */
export class FileSource implements Source {
  readonly descriptor: number;
  /** Bytes. */
  readonly size: number;
  #position = 0;

  constructor(descriptor: number) {
    this.descriptor = descriptor;
    this.size = check("reading it", hostLibrary().vmm_file_size(descriptor));
  }

  get position(): number {
    return this.#position;
  }

  set position(bytes: number) {
    this.#position = bytes;
  }

  get ended(): boolean {
    return this.#position === this.size;
  }

  read(into: Uint8Array): void {
    readAt(this.descriptor, into, this.#position);
    this.#position += into.length;
  }

  skip(bytes: number): void {
    if (this.#position + bytes > this.size) throw new TruncatedError();
    this.#position += bytes;
  }
}

/** Bytes in memory. */
export class BytesSource implements Source {
  readonly #bytes: Uint8Array;
  position = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get ended(): boolean {
    return this.position === this.#bytes.length;
  }

  read(into: Uint8Array): void {
    if (this.position + into.length > this.#bytes.length) {
      throw new TruncatedError();
    }
    into.set(this.#bytes.subarray(this.position, this.position + into.length));
    this.position += into.length;
  }

  skip(bytes: number): void {
    if (this.position + bytes > this.#bytes.length) throw new TruncatedError();
    this.position += bytes;
  }
}

/** What waits for a descriptor that doesn't block: false when it should not wait any longer. */
export type Wait = (descriptor: number, what: "input" | "room") => boolean;

/** A pipe or a socket. */
export class StreamSource implements Source {
  readonly #descriptor: number;
  readonly #wait: Wait;
  #position = 0;
  /** What follows the end is somebody else's. */
  readonly ended = true;

  constructor(descriptor: number, wait: Wait) {
    this.#descriptor = descriptor;
    this.#wait = wait;
  }

  get position(): number {
    return this.#position;
  }

  read(into: Uint8Array): void {
    for (let at = 0; at < into.length;) {
      const left = into.subarray(at);
      const read = Number(processLibrary().vmm_read(this.#descriptor, ptr(left), left.length));
      if (read === 0) throw new TruncatedError();
      if (read > 0) at += read;
      else if (read === AGAIN) {
        if (!this.#wait(this.#descriptor, "input")) throw new SnapshotError("it came too slowly");
      } else if (read !== INTERRUPTED) throw new NativeError("reading it", read);
    }
    this.#position += into.length;
  }

  skip(bytes: number): void {
    const scratch = new Uint8Array(Math.min(bytes, 2 ** 20));
    for (let left = bytes; left > 0; left -= scratch.length) {
      this.read(scratch.subarray(0, Math.min(left, scratch.length)));
    }
  }
}

/** Writes all to a descriptor. @throws NativeError */
export function descriptorSink(descriptor: number, wait: Wait): Sink {
  return (bytes) => {
    for (let at = 0; at < bytes.length;) {
      const left = bytes.subarray(at);
      const written = Number(processLibrary().vmm_write(descriptor, ptr(left), left.length));
      if (written >= 0) at += written;
      else if (written === AGAIN) {
        if (!wait(descriptor, "room")) throw new NativeError("writing it", -110);
      } else if (written !== INTERRUPTED) throw new NativeError("writing it", written);
    }
  };
}
