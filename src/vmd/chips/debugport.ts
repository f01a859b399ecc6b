/**
 * Debug ports: a byte written to one goes to the host's log.
 *
 *   0x402  SeaBIOS and OVMF; reads 0xe9, by which they know that it is there
 *   0xe9   Bochs and its guests; the same
 *
 * It has no registers.
 */
import type { PortDevice, Size } from "../device.ts";

const PRESENT = 0xe9;

export class DebugPort implements PortDevice {
  readonly #sink: (byte: number) => void;

  constructor(sink: (byte: number) => void) {
    this.#sink = sink;
  }

  read(_port: number, _size: Size): number {
    return PRESENT;
  }

  write(_port: number, _size: Size, value: number): void {
    this.#sink(value & 0xff);
  }
}
