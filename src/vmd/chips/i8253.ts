/**
 * The Intel 8253 programmable interval timer, in its 82C54 version: three 16-bit counters, fed
 * with 1.193182 MHz.
 *
 *   0x40–0x42  counters 0–2      0x43  control word
 *
 * Counter 0's OUT is IRQ 0, counter 1 once refreshed DRAM, counter 2's gate and OUT are at port
 * 0x61. Source: 82C54 data sheet (231244); what a counter does at each CLK is on its mode pages.
 *
 * No counter ticks here. A counter's registers hold its state as of one tick; an access moves
 * them to the tick of the current guest time, whatever lies between, in constant time.
 *
 * Counts of 1, which modes 2 and 3 don't allow, leave OUT high.
 */
import type { Clock, Timer } from "../../vmm/clock.ts";
import { declareRegisters, f64, u16, u32, u8, type Registers } from "../../vmm/registers.ts";
import type { InterruptLine, PortDevice, Resettable, Size } from "../device.ts";

/** Ticks a second. */
export const PIT_HZ = 1_193_182;

/**
 * Least guest time between two interrupts of counter 0, ns. A guest may program a period of two
 * ticks; edges closer than this become one, so that it can't keep the host busy.
 */
export const MIN_PERIOD = 50_000;

/** Whole ticks from guest time 0 to `ns`, exactly, whatever `ns` is. */
export function ticksAt(ns: number): number {
  const seconds = Math.floor(ns / 1e9);
  const rest = Math.floor(ns - seconds * 1e9);
  return seconds * PIT_HZ + Math.floor((rest * PIT_HZ) / 1e9);
}

/** The first nanosecond at which `ticksAt` gives `ticks`. */
export function nsAt(ticks: number): number {
  const seconds = Math.floor(ticks / PIT_HZ);
  return seconds * 1e9 + Math.ceil(((ticks - seconds * PIT_HZ) * 1e9) / PIT_HZ);
}

/** Mode by the control word's M2–M0: 6 and 7 are 2 and 3. */
const MODE = new Uint8Array([0, 1, 2, 3, 4, 5, 2, 3]);
// Control word, access bits
const LOW_ONLY = 1;
const HIGH_ONLY = 2;
const LOW_THEN_HIGH = 3;
const READ_BACK = 3;
/** What a BIOS leaves behind: mode 3, binary, low byte then high byte, full count. */
const AFTER_RESET = 0x36;
const FULL = 0x10000;

const declaration = {
  /** Low six bits of the control word: access, mode, BCD. */
  control: u8.array(3, AFTER_RESET),
  /** Tick for which the rest of the counter's registers hold. */
  at: f64.array(3),
  /** CR, 1 to 65536 (BCD: 10000). */
  reload: u32.array(3, FULL),
  /** CE, 0 to 65536. */
  count: u32.array(3, FULL),
  out: u8.array(3, 1),
  gate: u8.array(3, 1),
  /** CR goes to CE at the next tick. */
  loading: u8.array(3),
  /** CE was loaded since the control word. */
  running: u8.array(3, 1),
  /** A count was written since the control word. */
  written: u8.array(3, 1),
  /** The one-shot or strobe of modes 0, 1, 4 and 5 is still to come. */
  armed: u8.array(3),
  /** Mode 3: the count that CE was loaded with is odd. */
  odd: u8.array(3),
  /** Mode 0: half a count is written, which stops counting. */
  held: u8.array(3),
  /** Status bit 6: CR has a count that CE hasn't. */
  nullCount: u8.array(3),
  /** First byte of a two-byte count, and whether the second is next. */
  lowByte: u8.array(3),
  writeHigh: u8.array(3),
  readHigh: u8.array(3),
  /** The output latch; bits 0 and 1 of `latched` say which of its bytes are to be read. */
  latch: u16.array(3),
  latched: u8.array(3),
  status: u8.array(3),
  statusLatched: u8.array(3),
  /** Counter 0's OUT rose since its last interrupt. */
  rose: u8(0),
  /** Guest time of its last interrupt, ns. */
  interrupted: f64(-MIN_PERIOD),
};

export const I8253Registers = declareRegisters("i8253", declaration);

export interface I8253Options {
  /**
   * Guest time that each latch command for counter 0 takes, ns: guests that calibrate delays by
   * polling it get done sooner. Default 0.
   */
  readonly latchWarp?: number;
}

export class I8253 implements PortDevice, Resettable {
  readonly #r: Registers<typeof declaration>;
  readonly #clock: Clock;
  readonly #irq: InterruptLine;
  readonly #latchWarp: number;
  readonly #timer: Timer;

  constructor(
    registers: Registers<typeof declaration>,
    clock: Clock,
    irq: InterruptLine,
    options: I8253Options = {},
  ) {
    this.#r = registers;
    this.#clock = clock;
    this.#irq = irq;
    this.#latchWarp = options.latchWarp ?? 0;
    this.#timer = clock.timer(() => this.#expired());
  }

  reset(): void {
    this.#r.resetAll();
    this.#r.gate[2] = 0;
    this.#r.at.fill(ticksAt(this.#clock.now));
    this.#irq.set(false);
    this.#schedule();
  }

  /** Counter 2's GATE, which port 0x61 drives. */
  get gate2(): boolean {
    return this.#r.gate[2] !== 0;
  }

  set gate2(level: boolean) {
    this.#advance(2);
    this.#setGate(2, level ? 1 : 0);
  }

  /** Counter 2's OUT. */
  get out2(): boolean {
    this.#advance(2);
    return this.#r.out[2] !== 0;
  }

  read(port: number, _size: Size): number {
    const i = port & 3;
    if (i === 3) return 0xff;
    const r = this.#r;
    if (r.statusLatched[i] !== 0) {
      r.statusLatched[i] = 0;
      return r.status[i];
    }
    if (r.latched[i] !== 0) {
      const low = (r.latched[i] & 1) !== 0;
      r.latched[i] &= low ? 2 : 0;
      return low ? r.latch[i] & 0xff : r.latch[i] >> 8;
    }
    this.#advance(i);
    const value = this.#value(i);
    const access = r.control[i] >> 4;
    let high = access === HIGH_ONLY;
    if (access === LOW_THEN_HIGH) {
      high = r.readHigh[i] !== 0;
      r.readHigh[i] ^= 1;
    }
    return high ? value >> 8 : value & 0xff;
  }

  write(port: number, _size: Size, value: number): void {
    const i = port & 3;
    const byte = value & 0xff;
    if (i < 3) {
      this.#advance(i);
      this.#writeCount(i, byte);
      if (i === 0) this.#schedule();
    } else if (byte >> 6 === READ_BACK) {
      for (let c = 0; c < 3; c++) {
        if ((byte & (2 << c)) === 0) continue;
        if ((byte & 0x20) === 0) this.#latchCount(c);
        if ((byte & 0x10) === 0) this.#latchStatus(c);
      }
    } else if ((byte & 0x30) === 0) {
      this.#latchCount(byte >> 6);
    } else {
      this.#advance(byte >> 6);
      this.#writeControl(byte >> 6, byte & 0x3f);
      if (byte >> 6 === 0) this.#schedule();
    }
  }

  #mode(i: number): number {
    return MODE[(this.#r.control[i] >> 1) & 7];
  }

  #modulus(i: number): number {
    return (this.#r.control[i] & 1) !== 0 ? 10_000 : FULL;
  }

  /** CE as the guest reads it. */
  #value(i: number): number {
    const count = this.#r.count[i];
    if ((this.#r.control[i] & 1) === 0) return count & 0xffff;
    const d = count % 10_000;
    const thousands = Math.floor(d / 1000);
    const hundreds = Math.floor(d / 100) % 10;
    return (thousands << 12) | (hundreds << 8) | ((Math.floor(d / 10) % 10) << 4) | (d % 10);
  }

  #latchCount(i: number): void {
    const r = this.#r;
    if (i === 0 && this.#latchWarp > 0) this.#clock.warp(this.#latchWarp);
    if (r.latched[i] !== 0) return;
    this.#advance(i);
    const access = r.control[i] >> 4;
    r.latch[i] = this.#value(i);
    r.latched[i] = access === LOW_ONLY ? 1 : access === HIGH_ONLY ? 2 : 3;
    r.readHigh[i] = 0;
  }

  #latchStatus(i: number): void {
    const r = this.#r;
    if (r.statusLatched[i] !== 0) return;
    this.#advance(i);
    r.status[i] = (r.out[i] << 7) | (r.nullCount[i] << 6) | r.control[i];
    r.statusLatched[i] = 1;
  }

  #writeControl(i: number, control: number): void {
    const r = this.#r;
    r.control[i] = control;
    r.running[i] = 0;
    r.loading[i] = 0;
    r.written[i] = 0;
    r.armed[i] = 0;
    r.held[i] = 0;
    r.nullCount[i] = 1;
    r.writeHigh[i] = 0;
    r.readHigh[i] = 0;
    r.latched[i] = 0;
    r.statusLatched[i] = 0;
    this.#setOut(i, this.#mode(i) === 0 ? 0 : 1);
  }

  #writeCount(i: number, byte: number): void {
    const r = this.#r;
    const access = r.control[i] >> 4;
    const mode = this.#mode(i);
    if (mode === 0) this.#setOut(i, 0);
    if (access === LOW_THEN_HIGH && r.writeHigh[i] === 0) {
      r.lowByte[i] = byte;
      r.writeHigh[i] = 1;
      if (mode === 0) r.held[i] = 1;
      return;
    }
    r.writeHigh[i] = 0;
    r.held[i] = 0;
    let value = byte;
    if (access === HIGH_ONLY) value = byte << 8;
    if (access === LOW_THEN_HIGH) value = (byte << 8) | r.lowByte[i];
    if ((r.control[i] & 1) !== 0) {
      const digits = (value >> 12) * 1000 + ((value >> 8) & 15) * 100;
      value = (digits + ((value >> 4) & 15) * 10 + (value & 15)) % 10_000;
    }
    r.reload[i] = value === 0 ? this.#modulus(i) : value;
    r.nullCount[i] = 1;
    r.written[i] = 1;
    // Modes 1 and 5 wait for a trigger, 2 and 3 for the end of the current cycle if there is one.
    if (mode === 0 || mode === 4) r.loading[i] = 1;
    else if ((mode === 2 || mode === 3) && r.running[i] === 0) r.loading[i] = 1;
  }

  #setGate(i: number, level: number): void {
    const r = this.#r;
    const mode = this.#mode(i);
    if (level === r.gate[i]) return;
    r.gate[i] = level;
    if (mode === 0 || mode === 4) return;
    if (level !== 0) r.loading[i] |= r.written[i];
    else if (mode === 2 || mode === 3) this.#setOut(i, 1);
  }

  #setOut(i: number, level: number): void {
    if (i === 0 && level > this.#r.out[0]) this.#r.rose = 1;
    this.#r.out[i] = level;
  }

  /** Moves a counter to the current guest time. */
  #advance(i: number): void {
    const r = this.#r;
    const tick = ticksAt(this.#clock.now);
    let n = tick - r.at[i];
    if (n <= 0) return;
    r.at[i] = tick;
    const mode = this.#mode(i);
    if (mode >= 4) this.#setOut(i, 1); // a strobe lasts one tick
    if (r.loading[i] !== 0) {
      this.#load(i, mode);
      n--;
    }
    if (n === 0 || r.running[i] === 0) return;
    if (r.gate[i] === 0 && mode !== 1 && mode !== 5) return;
    if (mode === 2) this.#rate(i, n);
    else if (mode === 3) this.#square(i, n);
    else if (r.held[i] === 0) this.#down(i, mode, n);
  }

  #load(i: number, mode: number): void {
    const r = this.#r;
    r.loading[i] = 0;
    r.running[i] = 1;
    r.armed[i] = 1;
    this.#take(i, mode);
    if (mode === 1) this.#setOut(i, 0);
  }

  /** CR to CE. Mode 3 counts by two, from the even number below an odd count. */
  #take(i: number, mode: number): void {
    const r = this.#r;
    r.nullCount[i] = 0;
    r.odd[i] = r.reload[i] & 1;
    r.count[i] = mode === 3 ? r.reload[i] - r.odd[i] : r.reload[i];
  }

  /** Modes 0, 1, 4 and 5: n ticks down, over zero to the top. */
  #down(i: number, mode: number, n: number): void {
    const r = this.#r;
    const count = r.count[i];
    if (r.armed[i] !== 0 && n >= count) {
      r.armed[i] = 0;
      if (mode >= 4) this.#setOut(i, 0);
      if (mode < 4 || n > count) this.#setOut(i, 1);
    }
    const modulus = this.#modulus(i);
    const left = (count - n) % modulus;
    r.count[i] = left < 0 ? left + modulus : left;
  }

  /** Mode 2: OUT is low while CE is 1, then CE is loaded. */
  #rate(i: number, n: number): void {
    const r = this.#r;
    const count = r.count[i];
    if (n < count) {
      r.count[i] = count - n;
      if (r.count[i] === 1) this.#setOut(i, 0);
      return;
    }
    if (count > 1) this.#setOut(i, 0);
    this.#setOut(i, 1);
    this.#take(i, 2);
    const reload = r.reload[i];
    const rest = n - count;
    if (reload === 1) return;
    if (rest >= reload) {
      this.#setOut(i, 0);
      this.#setOut(i, 1);
    }
    r.count[i] = reload - (rest % reload);
    if (r.count[i] === 1) this.#setOut(i, 0);
  }

  /** Mode 3: half a period high, half low, an odd tick going to the high half. */
  #square(i: number, n: number): void {
    const r = this.#r;
    let half = this.#half(i);
    if (n < half) {
      r.count[i] -= 2 * n;
      return;
    }
    let rest = n - half;
    this.#flip(i);
    const reload = r.reload[i];
    if (reload === 1) return;
    if (rest >= reload) {
      this.#setOut(i, r.out[i] ^ 1);
      this.#setOut(i, r.out[i] ^ 1);
      rest %= reload;
    }
    for (half = this.#half(i); rest >= half; half = this.#half(i)) {
      rest -= half;
      this.#flip(i);
    }
    r.count[i] -= 2 * rest;
  }

  /** Ticks left in the current half period. */
  #half(i: number): number {
    const r = this.#r;
    return (r.count[i] >> 1) + (r.odd[i] & r.out[i]);
  }

  #flip(i: number): void {
    this.#take(i, 3);
    this.#setOut(i, this.#r.reload[i] === 1 ? 1 : this.#r.out[i] ^ 1);
  }

  /** Arms the timer for counter 0's next interrupt. */
  #schedule(): void {
    const r = this.#r;
    const rise = r.rose !== 0 ? 0 : this.#nextRise();
    if (rise === Infinity) this.#timer.disarm();
    else this.#timer.arm(Math.max(nsAt(rise), r.interrupted + MIN_PERIOD));
  }

  /** The tick at which counter 0's OUT rises next; Infinity when it won't by itself. */
  #nextRise(): number {
    const r = this.#r;
    const mode = this.#mode(0);
    const loading = r.loading[0] !== 0;
    if (mode >= 4 && r.out[0] === 0) return r.at[0] + 1;
    if (!loading && r.running[0] === 0) return Infinity;
    const from = loading ? r.at[0] + 1 : r.at[0];
    const reload = r.reload[0];
    if (mode === 2) {
      const count = loading ? reload : r.count[0];
      if (count > 1 || r.out[0] === 0) return from + count;
      return reload > 1 ? from + 1 + reload : Infinity;
    }
    if (mode === 3) {
      if (loading) return reload > 1 ? from + reload : Infinity;
      if (r.out[0] === 0) return from + this.#half(0);
      return reload > 1 ? from + this.#half(0) + (reload >> 1) : Infinity;
    }
    if (r.held[0] !== 0 || (!loading && r.armed[0] === 0)) return Infinity;
    return from + (loading ? reload : r.count[0]) + (mode >= 4 ? 1 : 0);
  }

  #expired(): void {
    const r = this.#r;
    this.#advance(0);
    if (r.rose !== 0) {
      r.rose = 0;
      r.interrupted = this.#clock.now;
      this.#irq.set(false);
      this.#irq.set(true);
    }
    this.#schedule();
  }
}
