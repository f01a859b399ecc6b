/**
 * A snapshot in a file in memory that is read while it is written: by a counter (eventfd(2)) beside it
 * its writer tells how many bytes more are there. Once it is whole, nobody can change it.
 */
import { readSync } from "node:fs";
import { check, hostLibrary, NativeError, processLibrary, ptr } from "../native.ts";
import { SnapshotError, TruncatedError } from "./format.ts";
import type { Source } from "./reader.ts";
import type { Sink } from "./writer.ts";

const AGAIN = -11;

/** @returns a descriptor. @throws NativeError */
export function openCounter(): number {
  return check("a counter", hostLibrary().vmm_count_open());
}

/** Tells who reads it how far a snapshot is. */
export class ProgressSink {
  readonly #file: number;
  readonly #counter: number;
  readonly #sink: Sink;
  readonly #message = new BigUint64Array(1);
  #held = 0;
  #holds = false;

  /** @param sink which writes to `file`, in memory; both descriptors are the caller's */
  constructor(sink: Sink, file: number, counter: number) {
    this.#sink = sink;
    this.#file = file;
    this.#counter = counter;
  }

  readonly write: Sink = (bytes) => {
    this.#sink(bytes);
    this.#held += bytes.length;
    if (!this.#holds) this.#tell();
  };

  /** What is written from now on isn't told before `done`. */
  hold(): void {
    this.#holds = true;
  }

  /** It is whole: what is left is told. @throws NativeError */
  done(): void {
    check("sealing it", hostLibrary().vmm_memory_seal(this.#file));
    this.#tell();
  }

  #tell(): void {
    this.#message[0] = BigInt(this.#held);
    this.#held = 0;
    const told = Number(processLibrary().vmm_write(this.#counter, ptr(this.#message), 8));
    if (told < 0) throw new NativeError("telling how far it is", told);
  }
}

/** Reads what was told, and waits for more. */
export class ProgressSource implements Source {
  readonly descriptor: number;
  readonly #counter: number;
  readonly #wait: () => void;
  readonly #message = new BigUint64Array(1);
  /** Bytes that are there. */
  #there = 0;
  position = 0;

  /**
   * @param counter of which nobody else reads
   * @param wait until the counter has something, or throws
   */
  constructor(descriptor: number, counter: number, wait: () => void) {
    this.descriptor = descriptor;
    this.#counter = counter;
    this.#wait = wait;
  }

  /** @throws SnapshotError where its writer didn't keep to the end of it */
  get ended(): boolean {
    if (hostLibrary().vmm_memory_sealed(this.descriptor) !== 1) {
      throw new SnapshotError("it could still change");
    }
    const size = check("reading it", hostLibrary().vmm_file_size(this.descriptor));
    return this.position === size;
  }

  read(into: Uint8Array): void {
    this.#await(into.length);
    for (let at = 0; at < into.length;) {
      const read = readSync(this.descriptor, into, at, into.length - at, this.position + at);
      if (read === 0) throw new TruncatedError();
      at += read;
    }
    this.position += into.length;
  }

  skip(bytes: number): void {
    this.#await(bytes);
    this.position += bytes;
  }

  #await(bytes: number): void {
    while (this.#there < this.position + bytes) {
      const read = Number(processLibrary().vmm_read(this.#counter, ptr(this.#message), 8));
      if (read === 8) this.#there += Number(this.#message[0]);
      else if (read === AGAIN) this.#wait();
      else throw new NativeError("reading how far it is", read);
    }
  }
}
