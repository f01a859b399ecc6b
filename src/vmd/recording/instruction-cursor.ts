/**
 * Single instructions of a recorded run, in both directions. A step translates its instruction by
 * itself, which the guest's time would count as a block of its own: so each begins at a block of the
 * run itself, from which nothing goes on afterwards, and the session is brought there again.
 */
import type { Breakpoint } from "../../vmm/engine.ts";
import { ExitReason } from "../../vmm/exit.ts";
import type { VmLife } from "../vm-life.ts";
import {
  comparePositions,
  type Position,
  type ReplaySession,
  type SessionStop,
} from "./replay-session.ts";

/** An engine that runs one instruction for each `enter`, to a DEBUG exit. */
export interface SteppingEngine {
  debug(breakpoints: readonly Breakpoint[], step: boolean): number;
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

/** What comes behind a block. */
interface Ahead {
  readonly next: Position;
  /** The registers there. */
  readonly there: Uint8Array;
  /** There is no instruction in between. */
  readonly empty: boolean;
  /** It is in the middle of an instruction, which exits. */
  readonly inside: boolean;
}

export class InstructionCursor {
  readonly #session: ReplaySession;
  #base: Position;
  #steps = 0;
  /** Whether the session stands at `position`. */
  #isThere = true;
  #ahead: Ahead | undefined;
  /** Looked for by `step`, besides: four at most. */
  watchpoints: readonly Breakpoint[] = [];
  /** Which of them the last step's instruction met. */
  watched: Breakpoint | undefined;

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
    if (comparePositions(session.position, this.#base) !== 0) this.#move(session.position);
    this.#steps = 0;
    this.#isThere = true;
    while (this.#steps < steps && this.#one()) this.#steps++;
  }

  /** Runs one instruction; one that exits is done with its exit. */
  step(): SessionStop {
    this.watched = undefined;
    const ahead = (this.#ahead ??= this.#look());
    if (ahead === undefined) return "end";
    const { next, empty, inside, there } = ahead;
    if (empty && this.#steps === 0) {
      // The guest was stopped for a timer, or slept: no instruction was run.
      this.#move(next);
      return this.step();
    }
    if (!this.#isThere) this.seek(this.position);
    const exits = !this.#one(this.watchpoints);
    this.#steps++;
    const { life } = this.#session;
    const { run } = life.engine;
    if (!exits && run.reason === DEBUG) {
      this.watched = this.watchpoints.find((_, i) => (run.debugDr6 & (1 << i)) !== 0);
    }
    if (exits || (!inside && isSame(registers(life), there))) {
      this.seek({ ...next, steps: 0 });
    }
    return "done";
  }

  /** What comes behind the block; undefined at the end. The session stands there afterwards. */
  #look(): Ahead | undefined {
    const session = this.#session;
    session.seek(this.#base);
    this.#isThere = false;
    const here = registers(session.life);
    if (session.stepBlock() === "end") return undefined;
    const next = session.position;
    const there = registers(session.life);
    const empty = next.blocks === this.#base.blocks && isSame(here, there);
    return { next, there, empty, inside: isInside(session.life) };
  }

  #move(base: Position): void {
    this.#base = base;
    this.#steps = 0;
    this.#isThere = false;
    this.#ahead = undefined;
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
    const inside = isInside(session.life);
    const { blocks } = this.#base;
    this.#isThere = false;
    if (session.stepBlockBack() === "end") return "end";
    this.#move(session.position);
    if (this.#base.blocks === blocks && isSame(registers(session.life), here)) {
      return this.stepBack();
    }
    let steps = 0;
    while (steps < BLOCK_MAX && this.#one()) {
      if (!inside && isSame(registers(session.life), here)) break;
      steps++;
    }
    this.seek({ ...this.#base, steps });
    return "done";
  }

  get steps(): number {
    return this.#steps;
  }

  /** Runs one instruction of the block. @returns false where it can't be done without an exit */
  #one(watchpoints: readonly Breakpoint[] = []): boolean {
    const { engine, image, machine, vcpu } = this.#session.life;
    const { run } = engine;
    this.#session.touch();
    const inside = isInside(this.#session.life);
    // As the vCPU's loop does before an entry.
    if (!vcpu.stoppedEarly && machine.interrupts.pending && run.readyForInterrupt) {
      engine.interrupt(machine.interrupts.acknowledge());
    }
    run.requestInterruptWindow = false;
    engine.setDeadline(Infinity);
    // All instructions of a block see the same time.
    const blocks = this.#base.blocks - this.#session.blocksBefore;
    image.clock.setBigUint64(BLOCKS, BigInt(blocks), true);
    run.u8[IMMEDIATE_EXIT] = inside ? 1 : 0;
    (engine as unknown as SteppingEngine).debug(watchpoints, !inside);
    const result = engine.enter();
    run.u8[IMMEDIATE_EXIT] = 0;
    return result === 0 && run.reason === (inside ? ExitReason.INTR : DEBUG);
  }
}

/** It stands within an instruction, whose exit is answered. */
export function isInside({ vcpu, engine }: VmLife): boolean {
  return !vcpu.stoppedEarly && INSIDE.includes(engine.run.reason);
}

function isStepping(engine: object): boolean {
  return typeof (engine as Partial<SteppingEngine>).debug === "function";
}

/** What names an instruction's place in its block: the registers, without what the engine sets. */
export function registers({ engine, image }: VmLife): Uint8Array {
  engine.saveCpu();
  const { cpu } = image;
  const copy = new Uint8Array(cpu.buffer, cpu.byteOffset, COMPARED).slice();
  const view = new DataView(copy.buffer);
  view.setUint32(RFLAGS, view.getUint32(RFLAGS, true) & ~RF, true);
  return copy;
}

export function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
