/** What the vCPU thread and the rest of the process say to each other. */
import type { EngineName } from "../vmm/engine-library.ts";
import type { VcpuOptions } from "./vm-options.ts";

/** How a VM ended. */
export interface Ending {
  kind: "power-off" | "reset" | "exit" | "stopped" | "crash";
  /** What a process that ran the VM should exit with. */
  code: number;
  /** One sentence, for people. */
  message: string;
  /** The CPU's registers at the end, as text; empty when they could not be had. */
  registers: string;
}

/** What the vCPU thread is told at its start. */
export interface VcpuThreadOptions extends VcpuOptions {
  /** 32-bit words, see SHARED. */
  shared: SharedArrayBuffer;
}

/** Words that both threads change. */
export const SHARED = {
  /** Messages to the vCPU thread that it has not read yet. */
  ATTENTION: 0,
  /** Bytes of output that have not been taken yet, MESSAGE_COST for each message included. */
  OUTPUT: 1,
  /** Kicks under way. */
  KICKS: 2,
  /** Not 0: the engine is about to close, or closed. */
  CLOSED: 3,
  /** Bytes of input that the guest has not taken yet. */
  INPUT: 4,
  WORDS: 5,
} as const;

/** Output that may wait for its reader, in bytes; then the guest has to. */
export const OUTPUT_LIMIT = 2 ** 20;
/** Input that may wait for the guest, in bytes; then who sends it has to. */
export const INPUT_LIMIT = 2 ** 16;
/** What a message costs beside its bytes: a line is one, and may be empty. */
export const MESSAGE_COST = 256;

/** Messages to the vCPU thread. */
export type ToVcpu =
  | { kind: "input"; bytes: Uint8Array }
  | { kind: "pause" }
  | { kind: "unpause" }
  | { kind: "registers" }
  | { kind: "statistics" }
  | { kind: "stop" };

/** Messages from it. */
export type FromVcpu =
  | { kind: "running"; engine: EngineName; handle: number; why: string; boot: string }
  | { kind: "output"; bytes: Uint8Array }
  | { kind: "debug"; bytes: Uint8Array }
  /** The guest took input: there is room for more. */
  | { kind: "room" }
  | { kind: "registers"; text: string }
  | { kind: "statistics"; statistics: VmStatistics }
  | { kind: "ended"; ending: Ending }
  | { kind: "failed"; message: string };

/** What a running VM costs and does. */
export interface VmStatistics {
  /** Guest time, ns. */
  now: number;
  /** Bytes of host memory behind the machine image. */
  resident: number;
  /** Exits since the guest's last reset. */
  exits: number;
}
