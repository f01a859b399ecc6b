/**
 * The port by which test kernels end their machine, as QEMU's isa-debug-exit: a write of `value`
 * (1, 2 or 4 bytes, by convention at 0xf4, of which the device takes 4 ports) ends it with exit
 * code value × 2 + 1, so that no guest can claim 0.
 *
 * It has no registers.
 */
import type { MachineEvent, PortDevice, Size } from "../device.ts";

/** Where test kernels expect it, and how many ports it takes. */
export const ISA_DEBUG_EXIT = { port: 0xf4, count: 4 } as const;

export class IsaDebugExit implements PortDevice {
  readonly #emit: (event: MachineEvent) => void;

  constructor(emit: (event: MachineEvent) => void) {
    this.#emit = emit;
  }

  read(_port: number, _size: Size): number {
    return 0;
  }

  write(_port: number, _size: Size, value: number): void {
    this.#emit({ kind: "exit", code: ((value << 1) | 1) >>> 0 });
  }
}
