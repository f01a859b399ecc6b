/**
 * One engine of a comparison: a guest's exits cut into items, which are the same on every engine
 * whatever one exit holds, and its registers, compared under masks for what is left open.
 */
import { type CpuState, GENERAL_REGISTERS, type Segment } from "../vmm/cpu.ts";
import { decodeCpu } from "../vmm/cpu-codec.ts";
import { Capability, Engine, EngineError, type EngineName, type TimeMode } from "../vmm/engine.ts";
import { ExitReason, exitName, fatalExit, IO_OUT, RunPage, SYNC_REGS } from "../vmm/exit.ts";
import { MachineImage, type RangeRequest } from "../vmm/image.ts";

/** How long a guest may run without an exit, ns: by its time, and by the host's. */
const PATIENCE = 2e9;
const HOST_PATIENCE = 30e9;
/** Guest time, ns, after which a guest that runs is looked at. */
const LOOK = 1e7;
/** The longest x86 instruction, bytes. */
export const LONGEST_INSTRUCTION = 15;
// What an instruction that is not done yet may have changed or not: a string instruction counts.
const STEPS: Record<string, number> = { rip: LONGEST_INSTRUCTION, rcx: 1, rsi: 8, rdi: 8 };
// RFLAGS: TF 8, IF 9, DF 10, IOPL 12 13, NT 14, VM 17, AC 18.
const SYSTEM_FLAGS = 0x67700;
const CONTROL = ["cr0", "cr3", "cr4", "efer"] as const;
const SEGMENT_NAMES = ["cs", "ss", "ds", "es", "fs", "gs", "tr"] as const;

/** One item of an exit, as both engines must show it. */
export interface Item {
  what: string;
  reason: number;
  /** Data that the guest gave; compared. */
  out: string;
}

export class Side implements Disposable {
  readonly image: MachineImage;
  readonly engine: Engine;
  #item = 0;
  #items = 0;

  constructor(name: EngineName, ranges: readonly RangeRequest[], time: TimeMode = {}) {
    this.image = new MachineImage(ranges);
    this.engine = Engine.open(name, this.image, time);
    if (!this.engine.can(Capability.SYNC_REGS)) {
      throw new EngineError(`engine ${name} brings no registers with exits, so can't be compared`);
    }
    this.engine.run.syncRegisters = SYNC_REGS.REGS | SYNC_REGS.SREGS;
  }

  /**
   * The next item; enters the guest when the exit at hand has no more.
   * @param stop guest time, ns, at which the guest is to be stopped: that is an exit then.
   * @param latest guest time, ns, at which an exit must have been.
   * @returns a failure.
   */
  next(stop = Infinity, latest = Infinity): string | undefined {
    if (++this.#item < this.#items) return undefined;
    const { engine } = this;
    const { run } = engine;
    const started = Bun.nanoseconds();
    const limit = engine.now() + PATIENCE;
    for (;;) {
      engine.setDeadline(Math.min(stop, engine.now() + LOOK));
      const result = engine.enter();
      if (result < 0) return `engine ${engine.name} failed with errno ${-result}`;
      const now = engine.now();
      if (run.reason !== ExitReason.INTR || now >= stop) break;
      if (now > latest)
        return `the guest made no exit on engine ${engine.name} when it should have`;
      if (now > limit || Bun.nanoseconds() - started > HOST_PATIENCE) {
        const seconds = (now > limit ? PATIENCE : HOST_PATIENCE) / 1e9;
        return `the guest ran ${seconds} s on engine ${engine.name} without an exit`;
      }
    }
    this.#item = 0;
    this.#items = 1;
    if (run.reason === ExitReason.IO) this.#items = run.ioCount;
    if (run.reason === ExitReason.MMIO && run.mmioLength === 8) this.#items = 2;
    const fatal = fatalExit(run);
    return fatal === undefined ? undefined : `engine ${engine.name}: ${fatal}`;
  }

  /** All of the exit is at hand, so its registers can be compared. */
  get whole(): boolean {
    return this.#items === 1;
  }

  /** The last item of the exit is at hand: an interrupt may come next. */
  get last(): boolean {
    return this.#item + 1 >= this.#items;
  }

  /** Where the item's data is in the run page. */
  get at(): number {
    const { run } = this.engine;
    if (run.reason === ExitReason.IO) return run.ioData + this.#item * run.ioSize;
    return RunPage.MMIO_DATA + this.#item * 4;
  }

  get size(): number {
    const { run } = this.engine;
    if (run.reason === ExitReason.IO) return run.ioSize;
    return Math.min(run.mmioLength, this.#items === 2 ? 4 : 8);
  }

  get address(): number {
    return this.engine.run.mmioAddress + this.#item * 4;
  }

  get data(): Uint8Array {
    return this.engine.run.u8.subarray(this.at, this.at + this.size);
  }

  get item(): Item {
    const { run } = this.engine;
    const { reason } = run;
    const name = exitName(reason);
    if (reason === ExitReason.IO) {
      const out = run.ioDirection === IO_OUT;
      const what = `${out ? "out" : "in"} 0x${run.ioPort.toString(16)}/${run.ioSize}`;
      return { what, reason, out: out ? this.data.toHex() : "" };
    }
    if (reason === ExitReason.MMIO) {
      const write = run.mmioIsWrite;
      const what = `${write ? "write" : "read"} 0x${this.address.toString(16)}/${this.size}`;
      return { what, reason, out: write ? this.data.toHex() : "" };
    }
    if (reason === ExitReason.RDMSR || reason === ExitReason.WRMSR) {
      return { what: `${name} 0x${run.msrIndex.toString(16)}`, reason, out: "" };
    }
    return { what: name, reason, out: "" };
  }

  get registers(): CpuState {
    return decodeCpu(this.engine.run.registers);
  }

  [Symbol.dispose](): void {
    this.engine[Symbol.dispose]();
    this.image[Symbol.dispose]();
  }
}

/** Exits at which RIP may be at the instruction or behind it. */
export function lateRip(run: RunPage): boolean {
  if (run.reason === ExitReason.IO) return run.ioDirection === IO_OUT;
  return run.reason === ExitReason.MMIO && run.mmioIsWrite;
}

/** Names of the registers that differ. */
export function compareRegisters(a: CpuState, b: CpuState, late: boolean): string[] {
  const different: string[] = [];
  for (const name of GENERAL_REGISTERS) {
    if (name === "rflags") {
      if (((a.rflags ^ b.rflags) & SYSTEM_FLAGS) !== 0) different.push(name);
    } else if (late && name in STEPS) {
      if (Math.abs(a[name] - b[name]) > STEPS[name]) different.push(name);
    } else if (a[name] !== b[name]) {
      different.push(name);
    }
  }
  for (const name of CONTROL) if (a[name] !== b[name]) different.push(name);
  for (const name of SEGMENT_NAMES) if (!sameSegment(a[name], b[name])) different.push(name);
  return different;
}

function sameSegment(a: Segment, b: Segment): boolean {
  if (a.selector !== b.selector) return false;
  if (a.unusable || b.unusable || a.selector === 0) return true;
  return (
    a.base === b.base && a.limit === b.limit && a.dpl === b.dpl && a.l === b.l && a.db === b.db
  );
}
