/** A VM on an engine, as a debugger sees it. */
import { CPU_LAYOUT, formatCpu } from "../../vmm/cpu-codec.ts";
import { type Breakpoint, BreakKind } from "../../vmm/engine.ts";
import { ExitReason } from "../../vmm/exit.ts";
import type { Stop } from "../vcpu.ts";
import type { VmLife } from "../vm-life.ts";
import { readMemory, writeMemory } from "./guest-memory.ts";
import type { DebugTarget, Outcome, StopReason } from "./target.ts";

const RIP = 128;
const ENOSPC = -28;
const ENOTSUP = -95;

/** What the target asks of whoever runs it. */
export interface TargetHost {
  reset(): void;
  kill(): void;
}

export class EngineTarget implements DebugTarget {
  readonly #host: TargetHost;
  #life: VmLife;
  #breakpoints: readonly Breakpoint[] = [];
  #stepping = false;
  /** Guest time at the stop, ns. */
  #stoppedAt = 0;

  constructor(life: VmLife, host: TargetHost) {
    this.#life = life;
    this.#host = host;
    this.#stoppedAt = life.engine.now();
  }

  /** The machine was made anew. */
  begin(life: VmLife): void {
    this.#life = life;
    this.#stoppedAt = life.engine.now();
    life.engine.debug(this.#breakpoints, this.#stepping);
  }

  /** Runs until something must be decided outside; "debug" when a debugger has waited for that. */
  run(): Stop {
    const { vcpu } = this.#life;
    return this.#stepping ? vcpu.step() : vcpu.run();
  }

  /** It stands still from now on. */
  stop(): void {
    this.#stoppedAt = this.#life.engine.now();
    this.#stepping = false;
  }

  /** Why `run` returned "debug". To be asked before `stop`. */
  get reason(): StopReason {
    const { run } = this.#life.engine;
    if (run.reason === ExitReason.DEBUG) {
      const pc = run.debugPc;
      const met = this.#breakpoints.find(
        ({ kind }, i) => i < 4 && kind !== BreakKind.EXECUTE && (run.debugDr6 & (1 << i)) !== 0,
      );
      if (met !== undefined) return { kind: "watchpoint", breakpoint: met };
      const here = this.#breakpoints.find(
        ({ kind, address }) => kind === BreakKind.EXECUTE && address === pc,
      );
      if (here !== undefined) return { kind: "breakpoint", breakpoint: here };
    }
    return { kind: "step" };
  }

  readRegisters(): DataView {
    const { engine, image } = this.#life;
    this.#holdTime();
    engine.saveCpu();
    return image.cpu;
  }

  writeRegisters(): void {
    const { engine, image, vcpu } = this.#life;
    const rip = image.cpu.getBigUint64(RIP, true);
    const wanted = new Uint8Array(image.cpu.buffer, image.cpu.byteOffset, CPU_LAYOUT.size).slice();
    engine.saveCpu();
    // Who sends a halted processor elsewhere wants it to run there.
    if (image.cpu.getBigUint64(RIP, true) !== rip) vcpu.halted = false;
    new Uint8Array(image.cpu.buffer, image.cpu.byteOffset, CPU_LAYOUT.size).set(wanted);
    engine.loadCpu();
  }

  readMemory(address: bigint, length: number, physical: boolean): Uint8Array {
    return readMemory(this.#life, address, length, physical);
  }

  writeMemory(address: bigint, bytes: Uint8Array, physical: boolean): boolean {
    return writeMemory(this.#life, address, bytes, physical);
  }

  setBreakpoints(breakpoints: readonly Breakpoint[]): Outcome {
    const { engine } = this.#life;
    const result = engine.debug(breakpoints, this.#stepping);
    if (result === 0) {
      this.#breakpoints = breakpoints;
      return "done";
    }
    if (result === ENOTSUP) return "unsupported";
    return result === ENOSPC ? "full" : "invalid";
  }

  resume(step: boolean): void {
    const { engine, machine } = this.#life;
    this.#stepping = step;
    engine.debug(this.#breakpoints, step);
    this.#holdTime();
    machine.clock.invalidate();
    machine.clock.rearmed = true;
  }

  reset(): void {
    this.#host.reset();
  }

  kill(): void {
    this.#host.kill();
  }

  describe(): string {
    return formatCpu(this.#life.engine.getCpu());
  }

  /** The guest's time is what it was at the stop, where the engine can set it back. */
  #holdTime(): void {
    const { engine } = this.#life;
    engine.warp(this.#stoppedAt - engine.now());
  }
}
