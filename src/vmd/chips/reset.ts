/**
 * What a guest resets a PC with.
 *
 *   0x60, 0x64  keyboard controller (8042): no keyboard is there, the reset pulse is
 *   0x92        system control port A (PS/2): fast reset, A20
 *   0xcf9       reset control register (82371AB data sheet § 4.2.6)
 *
 * Of the 8042 only its way to the CPU's reset pin is built. Its status reads as a floating bus, all
 * ones: kernels that probe for it see an input buffer that never empties, and give up. (With that
 * bit clear OpenBSD takes the endless data in the output buffer for a keyboard's, and stays.) A20 is
 * always open.
 */
import { declareRegisters, u8, type Registers } from "../../vmm/registers.ts";
import type { MachineEvent, PortDevice, Resettable, Size } from "../device.ts";

const FLOATING = 0xff;
const WRITE_OUTPUT_PORT = 0xd1;
/** 8042 output port bit 0 and the same bit of a pulse command: the reset pin, active low. */
const RESET_PIN = 0x01;
const A20 = 0x02;
const FAST_RESET = 0x01;
const SYSTEM_RESET = 0x02;
const RESET_CPU = 0x04;

const declaration = {
  /** The byte that comes at 0x60 goes to the 8042's output port. */
  outputPortNext: u8(0),
  port92: u8(0),
  cf9: u8(0),
};

export const ResetRegisters = declareRegisters("reset", declaration);

export class Reset implements PortDevice, Resettable {
  readonly #r: Registers<typeof declaration>;
  readonly #emit: (event: MachineEvent) => void;

  constructor(registers: Registers<typeof declaration>, emit: (event: MachineEvent) => void) {
    this.#r = registers;
    this.#emit = emit;
  }

  reset(): void {
    this.#r.resetAll();
  }

  read(port: number, _size: Size): number {
    switch (port) {
      case 0x64:
        return FLOATING;
      case 0x92:
        return this.#r.port92 | A20;
      case 0xcf9:
        return this.#r.cf9;
      default:
        return 0xff;
    }
  }

  write(port: number, _size: Size, value: number): void {
    const r = this.#r;
    const byte = value & 0xff;
    switch (port) {
      case 0x60:
        if (r.outputPortNext !== 0 && (byte & RESET_PIN) === 0) this.#resetByKeyboard();
        r.outputPortNext = 0;
        break;
      case 0x64:
        r.outputPortNext = byte === WRITE_OUTPUT_PORT ? 1 : 0;
        // 0xf0–0xff pulse the output port's bits that are clear.
        if (byte >= 0xf0 && (byte & RESET_PIN) === 0) this.#resetByKeyboard();
        break;
      case 0x92: {
        const rises = (byte & ~r.port92 & FAST_RESET) !== 0;
        r.port92 = byte;
        if (rises) this.#emit({ kind: "reset", by: "port 0x92" });
        break;
      }
      case 0xcf9: {
        const rises = (byte & ~r.cf9 & RESET_CPU) !== 0;
        r.cf9 = byte & (SYSTEM_RESET | RESET_CPU);
        if (rises) this.#emit({ kind: "reset", by: "port 0xcf9" });
        break;
      }
    }
  }

  #resetByKeyboard(): void {
    this.#emit({ kind: "reset", by: "keyboard controller" });
  }
}
