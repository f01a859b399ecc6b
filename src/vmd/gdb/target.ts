/**
 * What a GDB stub debugs: a VM that runs on an engine (engine-target.ts), or anything else that has
 * registers and memory and can be made to run and stop.
 */
import type { Breakpoint } from "../../vmm/engine.ts";

/** Why a target that ran stands still. */
export type StopReason =
  /** It was interrupted. */
  | { kind: "interrupt" }
  /** One instruction is done. */
  | { kind: "step" }
  /** It is about to run the instruction there. */
  | { kind: "breakpoint"; breakpoint: Breakpoint }
  /** It did so. */
  | { kind: "watchpoint"; breakpoint: Breakpoint }
  /** A recording has no more in this direction. */
  | { kind: "history"; at: "begin" | "end" };

/** Whether what was asked for is done, can't be done ever, or not with so many. */
export type Outcome = "done" | "unsupported" | "full" | "invalid";

/** Every method is for a target that stands still. */
export interface DebugTarget {
  /**
   * The registers, as struct vmm_cpu of native/vmm.h. What is written there is the target's once
   * `writeRegisters` is called. Valid until it runs.
   */
  readRegisters(): DataView;
  writeRegisters(): void;
  /** @returns what can be read from the start of the range on, in full or less. */
  readMemory(address: bigint, length: number, physical: boolean): Uint8Array;
  /** All or nothing. @returns whether it was written */
  writeMemory(address: bigint, bytes: Uint8Array, physical: boolean): boolean;
  /** Takes the place of what was there before; watchpoints come first. */
  setBreakpoints(breakpoints: readonly Breakpoint[]): Outcome;
  /** It runs from now on; with `step`, for one instruction. */
  resume(step: boolean): void;
  /** The same backwards. Only where the target is a recording. */
  resumeBack?(step: boolean): void;
  /** Starts again as after power-on, and stands still there. */
  reset(): void;
  /** Ends. */
  kill(): void;
  /** For people. */
  describe(): string;
}
