/**
 * Single instructions of a recorded run, in both directions. A step translates its instruction by
 * itself, which the guest's time would count as a block of its own: so each begins at a block of the
 * run itself, from which nothing goes on afterwards, and the session is brought there again.
 */
import { ExitReason } from "../../vmm/exit.ts";
import type { VmLife } from "../vm-life.ts";
import type { Position, ReplaySession, SessionStop } from "./replay-session.ts";

/** An engine that runs one instruction for each `enter`, to a DEBUG exit. */
export interface SteppingEngine {
  debug(breakpoints: readonly [], step: boolean): number;
}

/** A place between two instructions. */
export interface InstructionPosition extends Position {
  /** Instructions that were run since the block began. */
  readonly steps: number;
}

/** Of struct vmm_cpu: general and special registers, which name an instruction's place in its block. */
const COMPARED = 456;
const RFLAGS = 136;
/** Bits of RFLAGS: the engine sets it for itself. */
const RF = 0x10000;
/** No block has more instructions. */
const BLOCK_MAX = 4096;
// struct kvm_run, and its KVM_EXIT_DEBUG
const IMMEDIATE_EXIT = 1;
const DEBUG = 4;
// struct vmm_clock
const BLOCKS = 16;
const INSIDE: readonly number[] = [
  ExitReason.IO,
  ExitReason.MMIO,
  ExitReason.RDMSR,
  ExitReason.WRMSR,
];

export class InstructionCursor {
  readonly #session: ReplaySession;
  #base: Position;
  #steps = 0;

  /** @throws RangeError where the engine has no steps */
  constructor(session: ReplaySession) {
    if (!isStepping(session.life.engine)) throw new RangeError("the engine has no single steps");
    this.#session = session;
    this.#base = session.position;
  }

  get position(): InstructionPosition {
    return { ...this.#base, steps: this.#steps };
  }

  /** Goes to a place where `position` once was, or wherever the session may be. */
  seek({ exits, blocks, steps }: InstructionPosition): void {
    const session = this.#session;
    session.seek({ exits, blocks });
    this.#base = session.position;
    this.#steps = 0;
    while (this.#steps < steps && this.#one()) this.#steps++;
  }

  /** Runs one instruction; one that exits is done with its exit. */
  step(): SessionStop {
    const session = this.#session;
    session.seek(this.#base);
    const here = registers(session.life);
    if (session.stepBlock() === "end") return "end";
    const next = session.position;
    const there = registers(session.life);
    if (this.#steps === 0 && next.blocks === this.#base.blocks && isSame(here, there)) {
      // The guest was stopped for a timer, or slept: no instruction was run.
      this.#base = next;
      return this.step();
    }
    this.seek(this.position);
    const exits = !this.#one();
    this.#steps++;
    if (exits || (next.exits === this.#base.exits && isSame(registers(session.life), there))) {
      this.seek({ ...next, steps: 0 });
    }
    return "done";
  }

  /** Goes back by one. */
  stepBack(): SessionStop {
    if (this.#steps > 0) {
      this.seek({ ...this.#base, steps: this.#steps - 1 });
      return "done";
    }
    const session = this.#session;
    session.seek(this.#base);
    const here = registers(session.life);
    const { exits: same, blocks } = this.#base;
    if (session.stepBlockBack() === "end") return "end";
    this.#base = session.position;
    if (this.#base.blocks === blocks && isSame(registers(session.life), here)) {
      return this.stepBack();
    }
    let steps = 0;
    while (steps < BLOCK_MAX && this.#one()) {
      if (this.#base.exits === same && isSame(registers(session.life), here)) break;
      steps++;
    }
    this.seek({ ...this.#base, steps });
    return "done";
  }

  get steps(): number {
    return this.#steps;
  }

  /** Runs one instruction of the block. @returns false where it can't be done without an exit */
  #one(): boolean {
    const { engine, image, machine, vcpu } = this.#session.life;
    const { run } = engine;
    this.#session.touch();
    const inside = !vcpu.stoppedEarly && INSIDE.includes(run.reason);
    // As the vCPU's loop does before an entry.
    if (!vcpu.stoppedEarly && machine.interrupts.pending && run.readyForInterrupt) {
      engine.interrupt(machine.interrupts.acknowledge());
    }
    run.requestInterruptWindow = false;
    engine.setDeadline(Infinity);
    // All instructions of a block see the same time.
    image.clock.setBigUint64(BLOCKS, BigInt(this.#base.blocks), true);
    run.u8[IMMEDIATE_EXIT] = inside ? 1 : 0;
    (engine as unknown as SteppingEngine).debug([], !inside);
    const result = engine.enter();
    run.u8[IMMEDIATE_EXIT] = 0;
    return result === 0 && run.reason === (inside ? ExitReason.INTR : DEBUG);
  }
}

function isStepping(engine: object): boolean {
  return typeof (engine as Partial<SteppingEngine>).debug === "function";
}

function registers({ engine, image }: VmLife): Uint8Array {
  engine.saveCpu();
  const { cpu } = image;
  const copy = new Uint8Array(cpu.buffer, cpu.byteOffset, COMPARED).slice();
  const view = new DataView(copy.buffer);
  view.setUint32(RFLAGS, view.getUint32(RFLAGS, true) & ~RF, true);
  return copy;
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
