/**
 * Keeps a guest's clock with the host's. Guest time counts on by itself from what UTC was at
 * power-on. The host's UTC may get away from that: somebody sets its clock, or it slept. Then UTC as
 * the guest's RTC has it is moved, and the guest asked to read it again.
 *
 * It looks once a second of guest time, while a driver is there to ask.
 */
import type { Clock, Timer } from "../../vmm/clock.ts";

const SECOND = 1e9;
/** What a guest's clock may be wrong by, ns; as vmd has it. */
const DRIFT = 5 * SECOND;

export class TimeSync {
  readonly #clock: Clock;
  readonly #hostTime: () => number;
  readonly #moved: () => void;
  readonly #timer: Timer;
  /** What the host's UTC was ahead of the guest's at power-on, ns: a guest may be given another. */
  #ahead = 0;

  /**
   * @param hostTime UTC of the host, ms since 1970.
   * @param moved told that the guest's UTC was moved.
   */
  constructor(clock: Clock, hostTime: () => number, moved: () => void) {
    this.#clock = clock;
    this.#hostTime = hostTime;
    this.#moved = moved;
    this.#timer = clock.timer(() => {
      this.look();
      this.#timer.arm(clock.now + SECOND);
    });
  }

  /** The machine is powered on: whatever UTC the guest has now is right. */
  reset(): void {
    this.#timer.disarm();
    this.#ahead = this.#difference;
  }

  /** ns. Of a snapshot's machine, it is said again when it goes on. */
  get ahead(): number {
    return this.#ahead;
  }

  set ahead(ns: number) {
    this.#ahead = ns;
  }

  /** Whether to look from now on. */
  watch(on: boolean): void {
    if (!on) this.#timer.disarm();
    else if (this.#timer.due === Infinity) this.#timer.arm(this.#clock.now + SECOND);
  }

  /** Moves the guest's UTC when it is wrong. */
  look(): void {
    const drift = this.#difference - this.#ahead;
    if (Math.abs(drift) <= DRIFT) return;
    // By whole seconds: the RTC's divider chain goes on undisturbed.
    this.#clock.epoch += Math.round(drift / SECOND) * SECOND;
    this.#moved();
  }

  get #difference(): number {
    return this.#hostTime() * 1e6 - this.#clock.utc;
  }
}
