/** A recorded run, as a debugger sees it: in both directions, and not to be changed. */
import { formatCpu } from "../../vmm/cpu-codec.ts";
import { type Breakpoint, BreakKind } from "../../vmm/engine.ts";
import { ReplayDebugger } from "../recording/replay-debugger.ts";
import type { ReplaySession } from "../recording/replay-session.ts";
import { readMemory } from "./guest-memory.ts";
import type { DebugTarget, Outcome, StopReason } from "./target.ts";

/** Those of the engine: vmm_break_blocks, and x86's debug registers. */
const EXECUTED_MAX = 64;
const WATCHED_MAX = 4;

export class ReplayTarget implements DebugTarget {
  readonly #session: ReplaySession;
  readonly #debugger: ReplayDebugger;
  #next: (() => StopReason) | undefined;
  /** The client ended the replay. */
  killed = false;

  /** @throws RangeError where the engine has no steps */
  constructor(session: ReplaySession) {
    this.#session = session;
    this.#debugger = new ReplayDebugger(session);
  }

  /** Does what it was resumed for. @param interrupted asked now and then, and ends it */
  run(interrupted: () => boolean): StopReason {
    this.#session.interrupted = interrupted;
    const next = this.#next;
    this.#next = undefined;
    return next === undefined ? { kind: "interrupt" } : next();
  }

  readRegisters(): DataView {
    return this.#session.registers;
  }

  writeRegisters(): void {
    // From what `readRegisters` gave, the changes go with the next reading.
    throw new RangeError("a recorded run is what it was");
  }

  readMemory(address: bigint, length: number, physical: boolean): Uint8Array {
    return readMemory(this.#session.life, address, length, physical);
  }

  writeMemory(): boolean {
    return false;
  }

  setBreakpoints(breakpoints: readonly Breakpoint[]): Outcome {
    const executed = breakpoints.filter(({ kind }) => kind === BreakKind.EXECUTE).length;
    if (executed > EXECUTED_MAX || breakpoints.length - executed > WATCHED_MAX) return "full";
    for (const { address, length } of breakpoints) {
      if (![1, 2, 4, 8].includes(length) || address % BigInt(length) !== 0n) return "invalid";
    }
    this.#debugger.breakpoints = breakpoints;
    return "done";
  }

  resume(step: boolean): void {
    this.#next = () => (step ? this.#debugger.step() : this.#debugger.continue());
  }

  resumeBack(step: boolean): void {
    this.#next = () => (step ? this.#debugger.stepBack() : this.#debugger.continueBack());
  }

  /** To the beginning. */
  reset(): void {
    this.#debugger.seek({ exits: 0, blocks: 0, steps: 0 });
  }

  kill(): void {
    this.killed = true;
  }

  describe(): string {
    const { exits } = this.#session.position;
    const time = `${exits} exits, ${(this.#session.now / 1e9).toFixed(9)} s of the guest's time`;
    return `${formatCpu(this.#session.life.engine.getCpu())}\n${time}`;
  }
}
