/**
 * A limit on what a device moves: bytes and operations in a second of guest time, and how much of
 * either at once. Whoever asks before a request, and charges what it took afterwards, may overdraw by
 * that one request, and then waits until it is paid.
 */
import { declareRegisters, f64, type Registers } from "../../vmm/registers.ts";
import type { Clock, Timer } from "../../vmm/clock.ts";

const SECOND = 1e9;
/** Of a second's worth: what may go at once, unless it is said. */
const BURST = 0.1;

/** Absent: without a limit. */
export interface RateLimits {
  /** Bytes a second, and bytes at once. */
  readonly bytes?: number;
  readonly burst?: number;
  /** Requests or frames a second. */
  readonly operations?: number;
}

const declaration = {
  /** What may go now; negative while it is overdrawn. Infinity: there is no limit. */
  bytes: f64(Infinity),
  operations: f64(Infinity),
  /** Guest time of the last look, ns. */
  looked: f64(0),
};

export const RateLimitRegisters = declareRegisters("rate-limit", declaration);

export class RateLimit {
  readonly #r: Registers<typeof declaration>;
  readonly #clock: Clock;
  readonly #timer: Timer;
  readonly #bytes: number;
  readonly #burst: number;
  readonly #operations: number;
  readonly #operationBurst: number;

  /** @param open told when there is room again, after `isOpen` said that there is none. */
  constructor(
    registers: Registers<typeof declaration>,
    clock: Clock,
    { bytes = Infinity, operations = Infinity, burst }: RateLimits,
    open: () => void,
  ) {
    this.#r = registers;
    this.#clock = clock;
    this.#bytes = bytes;
    this.#burst = burst ?? bytes * BURST;
    this.#operations = operations;
    this.#operationBurst = Math.max(1, operations * BURST);
    this.#timer = clock.timer(open);
  }

  /** As after power-on: a burst may go. */
  reset(): void {
    this.#timer.disarm();
    this.#r.bytes = this.#burst;
    this.#r.operations = this.#operationBurst;
    this.#r.looked = this.#clock.now;
  }

  /** Whether a request may begin now. */
  get isOpen(): boolean {
    const r = this.#r;
    const { now } = this.#clock;
    const passed = (now - r.looked) / SECOND;
    r.looked = now;
    // Infinity times nothing is no number.
    if (this.#bytes !== Infinity) {
      r.bytes = Math.min(this.#burst, r.bytes + passed * this.#bytes);
    }
    if (this.#operations !== Infinity) {
      r.operations = Math.min(this.#operationBurst, r.operations + passed * this.#operations);
    }
    const noBytes = this.#bytes !== Infinity && r.bytes <= 0;
    const noOperations = this.#operations !== Infinity && r.operations < 1;
    if (!noBytes && !noOperations) return true;
    const wait = Math.max(
      noBytes ? -r.bytes / this.#bytes : 0,
      noOperations ? (1 - r.operations) / this.#operations : 0,
    );
    // A little more, so that it is surely open then.
    if (this.#timer.due === Infinity) this.#timer.arm(now + wait * SECOND + 1000);
    return false;
  }

  /** What a request took. */
  charge(bytes: number): void {
    this.#r.bytes -= bytes;
    this.#r.operations -= 1;
  }
}
