/**
 * The port by which a guest's program talks to the fuzzer: a double word says what; vmd-fuzz.h.
 */
import type { MachineEvent, PortDevice, Size } from "../../src/vmd/device.ts";

export const FUZZ_PORT = 0x5f0;

/** What is written there. */
export const Command = {
  /** An input is wanted at RBX, at most RCX bytes: it is there when OUT is done, and RCX is its length. */
  READY: 1,
  /** The input is used up. */
  DONE: 2,
  /** What was to be found: RBX says what. */
  CRASH: 3,
  /** The same, found in a handler: it happened at RSI, and RDI was its frame pointer. */
  CRASH_AT: 4,
} as const;

export class FuzzPort implements PortDevice {
  readonly #emit: (event: MachineEvent) => void;
  /** What was written last. */
  command = 0;

  /** @param emit ends the machine's run */
  constructor(emit: (event: MachineEvent) => void) {
    this.#emit = emit;
  }

  /** What was written, once. */
  take(): number {
    const { command } = this;
    this.command = 0;
    return command;
  }

  read(_port: number, size: Size): number {
    return size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
  }

  write(_port: number, _size: Size, value: number): void {
    this.command = value;
    this.#emit({ kind: "exit", code: value });
  }
}
