/**
 * Port 0x61 of a PC, system control port B:
 *
 *   bit 0  GATE of timer counter 2       bit 1  speaker data enable
 *   bit 2  parity check disable          bit 3  I/O channel check disable      (kept, no more)
 *   bit 4  toggles with every DRAM refresh request, 15.085 µs
 *   bit 5  OUT of timer counter 2        bits 6, 7  channel and parity errors: none
 *
 * Source: 82371AB (PIIX4) data sheet § 4.2.5.
 */
import type { Clock } from "../../vmm/clock.ts";
import { declareRegisters, u8, type Registers } from "../../vmm/registers.ts";
import type { PortDevice, Resettable, Size } from "../device.ts";

/** Time between refresh requests: 18 ticks of the interval timer, ns. */
const REFRESH = 15_085;

const declaration = {
  /** Bits 1–3 as written; bit 0 lies in the timer. */
  control: u8(0),
};

export const Port61Registers = declareRegisters("port61", declaration);

/** The side of the interval timer that port 0x61 sees. */
export interface Speaker {
  gate2: boolean;
  readonly out2: boolean;
}

export class Port61 implements PortDevice, Resettable {
  readonly #r: Registers<typeof declaration>;
  readonly #clock: Clock;
  readonly #timer: Speaker;

  constructor(registers: Registers<typeof declaration>, clock: Clock, timer: Speaker) {
    this.#r = registers;
    this.#clock = clock;
    this.#timer = timer;
  }

  reset(): void {
    this.#r.resetAll();
  }

  read(_port: number, _size: Size): number {
    let value = this.#r.control;
    if (this.#timer.gate2) value |= 0x01;
    if (Math.floor(this.#clock.now / REFRESH) % 2 === 1) value |= 0x10;
    if (this.#timer.out2) value |= 0x20;
    return value;
  }

  write(_port: number, _size: Size, value: number): void {
    this.#r.control = value & 0x0e;
    this.#timer.gate2 = (value & 0x01) !== 0;
  }
}
