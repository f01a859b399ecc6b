/**
 * A point that a machine goes back to, as often as is wanted, and runs from there: struct vmm_fuzz of
 * native/vmm_fuzz.h.
 */
import type { MachineImage } from "./image.ts";
import { check, type EngineLibrary, type Pointer, ptr, Sentence } from "./native.ts";

/** How a run ended; enum vmm_fuzz_reason. */
export const RunEnd = {
  /** An exit that somebody is to answer is in the run page. */
  EXIT: 0,
  /** OUT to `port`; `value` is what was written. */
  PORT: 1,
  /** A breakpoint of Engine.debug; `value` is its linear address. */
  STOP: 2,
  /** The budget is used up. */
  BUDGET: 3,
  /** A triple fault. */
  SHUTDOWN: 4,
  /** The engine can't go on. */
  FAILED: 5,
} as const;

// struct vmm_fuzz
const FLAGS = 0;
const REASON = 4;
const VALUE = 8;
const BUDGET = 16;
const SPENT = 24;
const PAGES = 32;
const CHECK = 36;
const PORT = 40;
const LENGTH = 44;
const INPUT = 48;
const LENGTH_GPA = 56;
const LENGTH_SIZE = 64;
const LENGTH_REGISTER = 68;
const SEGMENTS = 72;
const SEGMENT = 80;
const SEGMENT_SIZE = 16;
const MAX_SEGMENTS = 256;
const SIZE = SEGMENT + MAX_SEGMENTS * SEGMENT_SIZE;

const Flag = { CONTINUE: 1, CHECK: 2, BEGIN: 4, LIGHT: 8, SPENT: 16 } as const;
const NO_PORT = 0x10000;
const PAGES_LISTED = 65536;

/** Where a run's input goes. */
export interface InputPlace {
  /** Guest-physical, in turn; at most 256. */
  readonly segments: readonly { readonly address: number; readonly length: number }[];
  /** Where the input's length is written besides, as 4 or 8 bytes. */
  readonly length?: { readonly address: number; readonly size: 4 | 8 };
  /** A register that gets the length: its number as instructions encode it, RAX 0 to R15 15. */
  readonly lengthRegister?: number;
}

export class Point implements Disposable {
  readonly #library: EngineLibrary;
  readonly #vmm: Pointer;
  readonly #u32 = new Uint32Array(SIZE / 4);
  readonly #view = new DataView(this.#u32.buffer);
  readonly #pointer = ptr(this.#u32);
  readonly #run: (vmm: Pointer, fuzz: Pointer) => number;
  readonly #why = new Sentence();
  #input: Uint8Array = new Uint8Array(1);
  #pages: BigUint64Array | undefined;
  #open = true;

  /** @throws NativeError: -EBUSY inside an instruction, -ENOTSUP where there is no such thing */
  constructor(library: EngineLibrary, vmm: Pointer, image: MachineImage) {
    this.#library = library;
    this.#vmm = vmm;
    this.#run = library.vmm_fuzz_run as (vmm: Pointer, fuzz: Pointer) => number;
    const { length } = image.state;
    check("a point to go back to", library.vmm_point_take(vmm, image.address, length));
    this.#view.setInt32(LENGTH_REGISTER, -1, true);
    this.#u32[PORT / 4] = NO_PORT;
    this.budget = Infinity;
  }

  /** What a run may take: translated blocks with virtual time, else ns. */
  get budget(): number {
    return this.#view.getFloat64(BUDGET, true);
  }

  set budget(blocks: number) {
    this.#view.setFloat64(BUDGET, Math.min(blocks, Number.MAX_VALUE), true);
  }

  /** An OUT to this port ends a run. */
  set port(port: number | undefined) {
    this.#u32[PORT / 4] = port ?? NO_PORT;
  }

  /** @throws RangeError for more than 256 segments */
  set place({ segments, length, lengthRegister = -1 }: InputPlace) {
    if (segments.length > MAX_SEGMENTS) {
      throw new RangeError(`an input of more than ${MAX_SEGMENTS} pieces`);
    }
    const view = this.#view;
    segments.forEach(({ address, length: bytes }, index) => {
      view.setBigUint64(SEGMENT + index * SEGMENT_SIZE, BigInt(address), true);
      view.setBigUint64(SEGMENT + index * SEGMENT_SIZE + 8, BigInt(bytes), true);
    });
    this.#u32[SEGMENTS / 4] = segments.length;
    view.setBigUint64(LENGTH_GPA, BigInt(length?.address ?? 0), true);
    this.#u32[LENGTH_SIZE / 4] = length?.size ?? 0;
    view.setInt32(LENGTH_REGISTER, lengthRegister, true);
  }

  /** What runs take their input from; the array stays the caller's, who may change its bytes. */
  set input(bytes: Uint8Array) {
    if (bytes === this.#input) return;
    this.#input = bytes;
    // With its own buffer it stays where it is.
    void bytes.buffer;
    this.#view.setBigUint64(INPUT, BigInt(bytes.length > 0 ? (ptr(bytes) as number) : 0), true);
  }

  /**
   * Back to the point, in with the first `length` bytes of the input, and on.
   * @param verify whether everything is compared with the point before that: `differs` tells
   * @param light no device was at work since the point, and nobody looked at the CPU: of the image's
   * registers only the clock has changed
   * @returns of RunEnd
   * @throws NativeError
   */
  run(length: number, verify = false, light = false): number {
    this.#u32[LENGTH / 4] = Math.min(length, this.#input.length);
    this.#u32[FLAGS / 4] = (verify ? Flag.CHECK : 0) | (light ? Flag.LIGHT : 0);
    return this.#enter();
  }

  /** The machine is at the point: a run begins, whose guest somebody else lets go on. */
  begin(): void {
    this.#u32[FLAGS / 4] = Flag.BEGIN;
    check("a run from a point", this.#run(this.#vmm, this.#pointer));
  }

  /** Brings `spent` up to date, after somebody else has let the run's guest go on. */
  measure(): void {
    this.#u32[FLAGS / 4] = Flag.SPENT;
    check("a run from a point", this.#run(this.#vmm, this.#pointer));
  }

  /** The last exit is answered: the run goes on. @returns of RunEnd @throws NativeError */
  proceed(): number {
    this.#u32[FLAGS / 4] = Flag.CONTINUE;
    return this.#enter();
  }

  #enter(): number {
    const result = this.#run(this.#vmm, this.#pointer);
    if (result < 0) check("a run from a point", result);
    return this.#u32[REASON / 4];
  }

  /** What ended the run: a port's data, or a breakpoint's address. */
  get value(): bigint {
    return this.#view.getBigUint64(VALUE, true);
  }

  /** The lower 32 bits of that. */
  get code(): number {
    return this.#u32[VALUE / 4];
  }

  /** Of that, so far. */
  get spent(): number {
    return this.#view.getFloat64(SPENT, true);
  }

  /** Pages that were copied back before this run. */
  get pages(): number {
    return this.#u32[PAGES / 4];
  }

  /** Whether a verified run found the machine unlike the point. */
  get differs(): boolean {
    return this.#u32[CHECK / 4] !== 0;
  }

  /** Back to the point. @returns pages that were copied back */
  reset(): number {
    return check("going back to a point", this.#library.vmm_point_reset(this.#vmm));
  }

  /** What isn't as it was at the point, as a clause; undefined: nothing. It reads all memory. */
  difference(): string | undefined {
    const result = this.#library.vmm_point_check(this.#vmm, this.#why.pointer, this.#why.size);
    return check("comparing with a point", result) === 0 ? undefined : this.#why.toString();
  }

  /**
   * Guest-physical pages that were written since the point, or are by many runs, in the order of their
   * first writes.
   */
  writtenPages(): number[] {
    this.#pages ??= new BigUint64Array(PAGES_LISTED);
    const count = this.#library.vmm_point_pages(this.#vmm, ptr(this.#pages), PAGES_LISTED);
    return Array.from(this.#pages.subarray(0, Math.min(count, PAGES_LISTED)), Number);
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    this.#library.vmm_point_drop(this.#vmm);
  }
}
