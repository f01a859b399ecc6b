/**
 * Time is a device: everything a guest can see of time comes from one Clock.
 *
 * Guest time is nanoseconds since the machine was made. It is sampled at most once per exit, when
 * the first device asks, so all devices that serve one exit see one time, and a recorded exit
 * replays with the time it had.
 */
import { declareRegisters, f64, u8, type Registers } from "./registers.ts";

/** Timers that one machine can arm. */
const TIMERS = 32;

const declaration = {
  /** Guest time as of the last sample, ns. */
  now: f64(0),
  /** UTC at guest time 0, in ns since 1970. */
  epoch: f64(0),
  /** Guest time at which each timer is due, ns; Infinity when disarmed. */
  due: f64.array(TIMERS, Infinity),
  /** Timers handed out. */
  timers: u8(0),
};

export const ClockRegisters = declareRegisters("clock", declaration);

/** Where guest time comes from: an engine's clock, a test's, or a recording's. */
export interface TimeSource {
  /** Guest time, ns. Must not go backwards. */
  now(): number;
  /** Moves guest time ahead by `ns`; absent where time can't be moved. */
  warp?(ns: number): void;
}

export class Clock {
  readonly #r: Registers<typeof declaration>;
  readonly #source: TimeSource;
  readonly #handlers: (() => void)[] = [];
  #stale = true;
  /** A timer was armed or disarmed since this was last cleared: the engine's deadline is old. */
  rearmed = true;

  constructor(registers: Registers<typeof declaration>, source: TimeSource) {
    this.#r = registers;
    this.#source = source;
  }

  /** Guest time of the current exit, ns. */
  get now(): number {
    return this.#stale ? this.sample() : this.#r.now;
  }

  /** UTC as the guest should see it, in ns since 1970. */
  get utc(): number {
    return this.#r.epoch + this.now;
  }

  /** What UTC it was at guest time 0, in ns since 1970. */
  get epoch(): number {
    return this.#r.epoch;
  }

  set epoch(ns: number) {
    this.#r.epoch = ns;
  }

  /** The guest ran: the next look at the clock reads the source again. */
  invalidate(): void {
    this.#stale = true;
  }

  /** Reads the source. */
  sample(): number {
    this.#stale = false;
    const now = this.#source.now();
    if (now > this.#r.now) this.#r.now = now;
    return this.#r.now;
  }

  /**
   * Moves guest time ahead by `ns` where the source can: an answer that a guest polls for may
   * charge the time that real hardware would have taken.
   */
  warp(ns: number): void {
    this.#source.warp?.(ns);
    this.rearmed = true;
  }

  /**
   * A timer whose `expired` is called by `expire` once guest time reaches what it was armed for.
   * Timers are handed out in the order of construction, which a machine keeps fixed.
   */
  timer(expired: () => void): Timer {
    const index = this.#handlers.length;
    if (index === TIMERS) throw new RangeError(`a clock has ${TIMERS} timers`);
    this.#handlers.push(expired);
    this.#r.timers = this.#handlers.length;
    return new Timer(this, this.#r.due, index);
  }

  /** When the next timer is due, ns; Infinity when none is armed. */
  get deadline(): number {
    const due = this.#r.due;
    let first = Infinity;
    for (let i = 0; i < this.#handlers.length; i++) if (due[i] < first) first = due[i];
    return first;
  }

  /**
   * Runs every timer that is due, each once, earliest first. A handler that rearms for a time
   * already past runs at the next call, so a guest can't hold the host in here.
   */
  expire(): void {
    const due = this.#r.due;
    const now = this.now;
    for (let rounds = this.#handlers.length; rounds > 0; rounds--) {
      let first = -1;
      for (let i = 0; i < this.#handlers.length; i++) {
        if (due[i] <= now && (first < 0 || due[i] < due[first])) first = i;
      }
      if (first < 0) return;
      due[first] = Infinity;
      this.rearmed = true;
      this.#handlers[first]();
    }
  }
}

/** One timer of a clock. */
export class Timer {
  readonly #clock: Clock;
  readonly #due: Float64Array;
  readonly #index: number;

  constructor(clock: Clock, due: Float64Array, index: number) {
    this.#clock = clock;
    this.#due = due;
    this.#index = index;
  }

  /** Due at guest time `at`, ns. */
  arm(at: number): void {
    if (this.#due[this.#index] === at) return;
    this.#due[this.#index] = at;
    this.#clock.rearmed = true;
  }

  disarm(): void {
    this.arm(Infinity);
  }

  /** Guest time it is armed for, ns; Infinity when disarmed. */
  get due(): number {
    return this.#due[this.#index];
  }
}

/** A source that a test or a replay moves by hand. */
export class ManualTime implements TimeSource {
  #time = 0;
  /** The clock to tell when time moves. */
  clock: Clock | undefined;

  /** Guest time, ns. */
  get time(): number {
    return this.#time;
  }

  set time(ns: number) {
    this.#time = ns;
    this.clock?.invalidate();
  }

  now(): number {
    return this.#time;
  }

  warp(ns: number): void {
    this.time += ns;
  }
}

/** A clock in memory of its own, for tests of devices. */
export function manualClock(): { clock: Clock; time: ManualTime } {
  const time = new ManualTime();
  const clock = new Clock(ClockRegisters.standalone(), time);
  time.clock = clock;
  return { clock, time };
}
