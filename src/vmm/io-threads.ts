/**
 * Reads and writes of files for the guest, straight from and into its memory: short ones at once,
 * others by threads while the vCPU goes on; native/io.c. One set a process.
 */
import { check, hostBuffer, ioLibrary, NativeError } from "./native.ts";

/** enum vmm_io_operation. */
export const IoOperation = {
  READ: 0,
  WRITE: 1,
  /** What was written to the file is durable afterwards. */
  SYNC: 2,
  /** A range is needed no more: a hint. */
  DISCARD: 3,
  /** A range reads as zero, without storage where that can be. */
  ZERO: 4,
  /** ... with storage. */
  ZERO_ALLOCATED: 5,
} as const;
export type IoOperation = (typeof IoOperation)[keyof typeof IoOperation];

// struct vmm_io_shared, in 64-bit and 32-bit words.
const SLOTS = 256;
export const SEGMENTS_MAX = 128;
const DONE_TAIL = 0;
const TOLD = 1;
const DONE = 2;
const FIRST_SLOT = (4 * (DONE + SLOTS)) / 8;
const OPERATION = 0;
const DESCRIPTOR = 1;
const OFFSET = 2;
const LENGTH = 3;
const COUNT = 4;
const RESULT = 5;
const SEGMENTS = 6;
const SLOT_WORDS = SEGMENTS + 2 * SEGMENTS_MAX;
const SIZE = 8 * (FIRST_SLOT + SLOTS * SLOT_WORDS);

/** Who asks for I/O. */
export interface IoOwner {
  /** A request is done. @param result bytes, 0, or a negative errno. */
  ioDone(tag: number, result: number): void;
}

export class IoThreads {
  static #only: IoThreads | undefined;
  readonly #words: Uint32Array;
  readonly #numbers: Float64Array;
  readonly #free: number[] = [];
  readonly #owners: (IoOwner | undefined)[] = Array.from({ length: SLOTS });
  readonly #tags = new Float64Array(SLOTS);
  readonly #library = ioLibrary();
  #seen = 0;
  #synchronous = false;

  private constructor(threads: number) {
    const shared = this.#library.vmm_io_open(threads);
    if (!shared) throw new NativeError("I/O threads", -11);
    const buffer = hostBuffer(shared as unknown as number, SIZE);
    this.#words = new Uint32Array(buffer, 0, DONE + SLOTS);
    this.#numbers = new Float64Array(buffer);
    for (let slot = SLOTS - 1; slot >= 0; slot--) this.#free.push(slot);
  }

  /** The process's threads: started at the first call, before it confines itself. @throws NativeError */
  static open(threads: number): IoThreads {
    return (IoThreads.#only ??= new IoThreads(threads));
  }

  /** Requests are done before `submit` returns, and nobody is kicked: for runs that repeat. */
  set synchronous(on: boolean) {
    this.#synchronous = on;
    Atomics.store(this.#words, TOLD, on ? 1 : 0);
  }

  /**
   * What is aligned goes by another descriptor of a file, past the host's page cache; 0: it doesn't
   * any more, which is to be said before either is closed.
   * @param alignment bytes, a power of two
   */
  direct(descriptor: number, other: number, alignment: number): void {
    check("direct I/O", this.#library.vmm_io_direct(descriptor, other, alignment));
  }

  /** A slot for a request; −1 when all are in use. */
  take(): number {
    return this.#free.pop() ?? -1;
  }

  /** Gives a slot back that was not submitted. */
  giveBack(slot: number): void {
    this.#free.push(slot);
  }

  /** What the request is; segments follow. `length` is for those without segments. */
  prepare(
    slot: number,
    operation: IoOperation,
    descriptor: number,
    offset: number,
    length = 0,
  ): void {
    const at = FIRST_SLOT + slot * SLOT_WORDS;
    const numbers = this.#numbers;
    numbers[at + OPERATION] = operation;
    numbers[at + DESCRIPTOR] = descriptor;
    numbers[at + OFFSET] = offset;
    numbers[at + LENGTH] = length;
    numbers[at + COUNT] = 0;
  }

  /** Memory to read into or write from: a host address. At most SEGMENTS_MAX of them. */
  addSegment(slot: number, address: number, length: number): void {
    const at = FIRST_SLOT + slot * SLOT_WORDS;
    const segment = at + SEGMENTS + 2 * this.#numbers[at + COUNT]++;
    this.#numbers[segment] = address;
    this.#numbers[segment + 1] = length;
  }

  /**
   * `owner` is told when it is done, in `poll`; the slot is free then. It may be done already, and then
   * no kick comes: whoever submits polls before the guest goes on.
   */
  submit(slot: number, owner: IoOwner, tag: number): void {
    this.#owners[slot] = owner;
    this.#tags[slot] = tag;
    this.#library.vmm_io_submit(slot);
    if (this.#synchronous) this.#library.vmm_io_wait();
  }

  /** Tells owners of what is done. */
  poll(): void {
    const words = this.#words;
    // What it tells of may have been seen already: it must be cleared all the same, or nobody is
    // told of the next.
    const told = Atomics.load(words, TOLD) !== 0;
    if (!told && Atomics.load(words, DONE_TAIL) === this.#seen) return;
    if (told && !this.#synchronous) Atomics.store(words, TOLD, 0);
    while (Atomics.load(this.#words, DONE_TAIL) !== this.#seen) {
      const slot = this.#words[DONE + (this.#seen % SLOTS)];
      this.#seen = (this.#seen + 1) >>> 0;
      const owner = this.#owners[slot];
      const result = this.#numbers[FIRST_SLOT + slot * SLOT_WORDS + RESULT];
      this.#owners[slot] = undefined;
      this.#free.push(slot);
      owner?.ioDone(this.#tags[slot], result);
    }
  }

  /** Waits until all is done; nobody is told. */
  wait(): void {
    this.#library.vmm_io_wait();
  }
}
