/** A VM on an engine, as a debugger sees it. */
import { CPU_LAYOUT, formatCpu } from "../../vmm/cpu-codec.ts";
import { type Breakpoint, BreakKind } from "../../vmm/engine.ts";
import { ExitReason } from "../../vmm/exit.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import { type PagingRegisters, translate } from "../../vmm/paging.ts";
import type { Stop } from "../vcpu.ts";
import type { VmLife } from "../vm-life.ts";
import type { DebugTarget, Outcome, StopReason } from "./target.ts";

const PAGE = 4096;
const RIP = 128;
const CR0 = CPU_LAYOUT.sregs + 224;
const EFER = CPU_LAYOUT.sregs + 264;
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
    const { memory } = this.#life.image;
    const bytes = new Uint8Array(length);
    let done = 0;
    this.#pieces(address, length, physical, (at, offset, count) => {
      const got = readPhysical(memory, at, bytes.subarray(offset, offset + count));
      done = offset + got;
      return got === count;
    });
    return bytes.subarray(0, done);
  }

  writeMemory(address: bigint, bytes: Uint8Array, physical: boolean): boolean {
    const { memory } = this.#life.image;
    const parts: { at: number; offset: number; count: number }[] = [];
    const all = this.#pieces(address, bytes.length, physical, (at, offset, count) => {
      if (!memory.contains(at, count)) return false;
      parts.push({ at, offset, count });
      return true;
    });
    if (!all) return false;
    for (const { at, offset, count } of parts) {
      memory.write(at, bytes.subarray(offset, offset + count));
    }
    return true;
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

  /** @returns whether `use` took all of the range, page by page. */
  #pieces(
    address: bigint,
    length: number,
    physical: boolean,
    use: (at: number, offset: number, count: number) => boolean,
  ): boolean {
    const { image } = this.#life;
    const { memory } = image;
    if (!physical) this.#life.engine.saveCpu();
    const registers = pagingRegisters(image.cpu);
    for (let offset = 0; offset < length;) {
      const linear = BigInt.asUintN(64, address + BigInt(offset));
      const count = Math.min(length - offset, PAGE - Number(linear % BigInt(PAGE)));
      const at = physical
        ? Number(linear)
        : translate(registers, linear, (entry, size) => readEntry(memory, entry, size));
      if (at === undefined || !use(at, offset, count)) return false;
      offset += count;
    }
    return true;
  }
}

function pagingRegisters(cpu: DataView): PagingRegisters {
  return {
    cr0: cpu.getUint32(CR0, true),
    cr3: cpu.getBigUint64(CR0 + 16, true),
    cr4: cpu.getUint32(CR0 + 24, true),
    efer: cpu.getUint32(EFER, true),
  };
}

function readEntry(memory: GuestMemory, address: number, size: 4 | 8): bigint | undefined {
  const bytes = new Uint8Array(size);
  if (readPhysical(memory, address, bytes) !== size) return undefined;
  const view = new DataView(bytes.buffer);
  return size === 4 ? BigInt(view.getUint32(0, true)) : view.getBigUint64(0, true);
}

/** RAM or ROM. @returns how many bytes there are. */
function readPhysical(memory: GuestMemory, address: number, into: Uint8Array): number {
  if (memory.contains(address, into.length)) {
    memory.read(address, into);
    return into.length;
  }
  const has = (at: number) =>
    memory.ranges.some(({ base, size }) => at >= base && at < base + size);
  let done = 0;
  while (done < into.length && has(address + done)) into[done] = memory.read8(address + done++);
  return done;
}
