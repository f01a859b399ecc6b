/**
 * A snapshot in a file in memory that is read while it is written: on a socket between them its writer
 * tells how many bytes are there. Once it is whole, nobody can change it.
 *
 * A guest may have taken its writer over: whoever reads it believes nothing, and waits for nobody for ever.
 */
import { check, hostLibrary, NativeError, processLibrary, ptr, socketPair } from "../native.ts";
import { SnapshotError } from "./format.ts";
import type { Source } from "./reader.ts";
import { readAt } from "./sources.ts";
import type { Sink } from "./writer.ts";

const AGAIN = -11;
const TOO_LONG = -90;

/** @returns the reader's end and the writer's. @throws NativeError */
export function openProgress(): readonly [hears: number, tells: number] {
  return socketPair();
}

/** Tells who reads it how far a snapshot is. */
export class ProgressSink {
  readonly #file: number;
  readonly #tells: number;
  readonly #sink: Sink;
  #written = 0;
  #holds = false;

  /** @param sink which writes to `file`, in memory; both descriptors are the caller's */
  constructor(sink: Sink, file: number, tells: number) {
    this.#sink = sink;
    this.#file = file;
    this.#tells = tells;
  }

  readonly write: Sink = (bytes) => {
    this.#sink(bytes);
    this.#written += bytes.length;
    if (!this.#holds) tellProgress(this.#tells, this.#written);
  };

  /** What is written from now on isn't told before `done`. */
  hold(): void {
    this.#holds = true;
  }

  /** It is whole: what is left is told. @throws NativeError */
  done(): void {
    check("sealing it", hostLibrary().vmm_memory_seal(this.#file));
    tellProgress(this.#tells, this.#written);
  }
}

/** Bytes that are there. Where there is no room the next time says it, or whoever asked for the snapshot. */
export function tellProgress(tells: number, bytes: number): void {
  const message = Float64Array.of(bytes);
  processLibrary().vmm_send(tells, ptr(message), message.byteLength, null, 0);
}

export interface ProgressOptions {
  /**
   * Waits for a moment, or throws.
   * @param hears for the socket as well; without, its writer has gone
   * @returns whether all is there that will be
   */
  readonly wait: (hears: boolean) => boolean;
  /** It has no more bytes than that. */
  readonly most: number;
}

/** Reads what was told, and waits for more. */
export class ProgressSource implements Source {
  readonly descriptor: number;
  readonly #hears: number;
  readonly #options: ProgressOptions;
  readonly #message = new Float64Array(1);
  /** Bytes that are there, as its writer says. */
  #there = 0;
  #gone = false;
  position = 0;

  /** @param hears of which nobody else reads */
  constructor(descriptor: number, hears: number, options: ProgressOptions) {
    this.descriptor = descriptor;
    this.#hears = hears;
    this.#options = options;
  }

  /** @throws SnapshotError where its writer could still change it */
  get ended(): boolean {
    if (hostLibrary().vmm_memory_sealed(this.descriptor) !== 1) {
      throw new SnapshotError("it could still change");
    }
    const size = check("reading it", hostLibrary().vmm_file_size(this.descriptor));
    return this.position === size;
  }

  read(into: Uint8Array): void {
    this.#await(into.length);
    readAt(this.descriptor, into, this.position);
    this.position += into.length;
  }

  /** Whether so many were written at all, `ended` finds out. */
  skip(bytes: number): void {
    this.#await(bytes);
    this.position += bytes;
  }

  #await(bytes: number): void {
    const end = this.position + bytes;
    const { wait, most } = this.#options;
    if (end > most) throw new SnapshotError("it has no end");
    // Who tells nothing new is waited for: whatever else comes is looked at meanwhile.
    while (!(this.#there >= end)) if (!this.#hear() && wait(!this.#gone)) this.#there = Infinity;
  }

  /** @returns whether more is there than before */
  #hear(): boolean {
    const message = this.#message;
    const { vmm_receive } = processLibrary();
    const length = Number(vmm_receive(this.#hears, ptr(message), message.byteLength, null, 0));
    if (length === AGAIN || length === TOO_LONG) return false;
    if (length < 0) throw new NativeError("hearing how far it is", length);
    // Whether it has left all, whoever asked for the snapshot knows.
    if (length === 0) this.#gone = true;
    const [there] = message;
    if (length !== message.byteLength || !(there > this.#there)) return false;
    this.#there = there;
    return true;
  }
}
