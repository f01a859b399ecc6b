/**
 * Breakpoints and watchpoints in a recorded run, in both directions. Blocks that hold a breakpoint are
 * found by running; within them it goes by instructions. What is watched is found by the engine, on a
 * machine from which nothing goes on; backwards, its last access by halves of the way.
 */
import { type Breakpoint, BreakKind } from "../../vmm/engine.ts";
import {
  InstructionCursor,
  type InstructionPosition,
  isInside,
  isSame,
  registers,
} from "./instruction-cursor.ts";
import { comparePositions, type Position, type ReplaySession } from "./replay-session.ts";

/** Why a debugged replay stands still. */
export type ReplayStop =
  | { readonly kind: "step" }
  | { readonly kind: "interrupt" }
  /** About to run the instruction there. */
  | { readonly kind: "breakpoint"; readonly breakpoint: Breakpoint }
  /** Forwards: behind the instruction. Backwards: before it. */
  | { readonly kind: "watchpoint"; readonly breakpoint: Breakpoint }
  /** There is no more of the run in this direction. */
  | { readonly kind: "history"; readonly at: "begin" | "end" };

/** How far behind the block of an access a machine may stand that was stopped for it, blocks. */
const BEHIND = 3;
/** What is no longer, in blocks, is gone by instructions. */
const SHORT = 2;

interface Met {
  readonly place: InstructionPosition;
  readonly stop: ReplayStop;
}

export class ReplayDebugger {
  readonly #session: ReplaySession;
  readonly #cursor: InstructionCursor;
  #executed: readonly Breakpoint[] = [];
  #watched: readonly Breakpoint[] = [];
  /** What the last step met. */
  #access: Breakpoint | undefined;

  /** @throws RangeError where the engine has no steps */
  constructor(session: ReplaySession) {
    this.#session = session;
    this.#cursor = new InstructionCursor(session);
  }

  get position(): InstructionPosition {
    return this.#cursor.position;
  }

  /** @param breakpoints at most 4 watchpoints, and 64 others */
  set breakpoints(breakpoints: readonly Breakpoint[]) {
    const isExecuted = ({ kind }: Breakpoint) => kind === BreakKind.EXECUTE;
    this.#executed = breakpoints.filter(isExecuted);
    this.#watched = breakpoints.filter((one) => !isExecuted(one));
    this.#cursor.watchpoints = this.#watched;
    this.#session.breakpoints = this.#executed.map(({ address }) => address);
  }

  seek(place: InstructionPosition): void {
    this.#cursor.seek(place);
  }

  step(): ReplayStop {
    if (!this.#step()) return { kind: "history", at: "end" };
    return this.#met() ?? { kind: "step" };
  }

  stepBack(): ReplayStop {
    do {
      if (this.#cursor.stepBack() === "end") return { kind: "history", at: "begin" };
    } while (isInside(this.#session.life));
    return this.#executedNext() ?? { kind: "step" };
  }

  // --- forwards

  continue(): ReplayStop {
    const session = this.#session;
    const begin = this.position;
    const met = () => this.#met();
    let stop = this.#walkBlock(met);
    while (stop === undefined) {
      session.seek(this.position);
      session.finishBlock();
      const why = session.run({ breakpoints: session.breakpoints, watchpoints: this.#watched });
      const { exits, blocks } = session.position;
      if (why === "breakpoint") {
        this.#seekBlock();
        stop = this.#executedNext() ?? this.#walkBlock(met);
      } else if (why === "watchpoint") {
        // What stopped it is an exit that the run hasn't.
        stop = this.#walkToAccess({ exits: exits - 1, blocks }, begin) ?? this.#walkBlock(met);
      } else {
        this.seek({ exits, blocks, steps: 0 });
        stop = why === "end" ? { kind: "history", at: "end" } : { kind: "interrupt" };
      }
    }
    return stop;
  }

  /** From a little before a place to the first access that isn't before `begin`. */
  #walkToAccess({ exits, blocks }: Position, begin: InstructionPosition): ReplayStop | undefined {
    this.seek({ exits, blocks: blocks - BEHIND, steps: 0 });
    for (;;) {
      const before = this.position;
      if (before.exits > exits + 1 || before.blocks > blocks) return undefined;
      if (!this.#step()) return { kind: "history", at: "end" };
      if (this.#access !== undefined && comparePlaces(before, begin) >= 0) return this.#met();
    }
  }

  // --- backwards

  continueBack(): ReplayStop {
    const begin = this.position;
    const executed = this.#lastExecuted(begin);
    const access = executed === "interrupted" ? executed : this.#lastAccess(begin, executed?.place);
    if (executed === "interrupted" || access === "interrupted") {
      this.seek(begin);
      return { kind: "interrupt" };
    }
    const isAccess = comparePlaces(access?.place ?? START, executed?.place ?? START) > 0;
    const met = isAccess ? access : (executed ?? access);
    this.seek(met?.place ?? START);
    return met?.stop ?? { kind: "history", at: "begin" };
  }

  #lastExecuted(before: InstructionPosition): Met | "interrupted" | undefined {
    if (this.#executed.length === 0) return undefined;
    const session = this.#session;
    let until: Position = before.steps > 0 ? { ...before, blocks: before.blocks + 1 } : before;
    for (;;) {
      const block = session.lastBreak(until);
      if (block === undefined || block === "interrupted") return block;
      session.seek(block);
      session.finishBlock();
      this.#seekBlock();
      let met: Met | undefined;
      const note = () => {
        const place = this.position;
        if (comparePlaces(place, before) >= 0) return true;
        const stop = this.#executedNext();
        if (stop !== undefined) met = { place, stop };
        return undefined;
      };
      if (note() === undefined) this.#walkBlock(note);
      if (met !== undefined) return met;
      until = block;
    }
  }

  /** @param after what lies before it is of no interest */
  #lastAccess(before: InstructionPosition, after = START): Met | "interrupted" | undefined {
    if (this.#watched.length === 0) return undefined;
    const near = this.#lastAccessBetween({ ...before, steps: 0 }, before);
    if (near !== undefined) return near;
    let until: Position = before;
    for (;;) {
      const session = this.#session;
      const isFirst = session.seekCheckpoint(until);
      const from = session.position;
      const found = this.#halve(until);
      if (found === "interrupted") return found;
      if (found !== undefined) {
        const { from: start, to } = found;
        const met = this.#lastAccessBetween({ ...start, steps: 0 }, { ...until, steps: 0 }, to);
        if (met !== undefined) return met;
      }
      if (isFirst || comparePositions(from, after) < 0) return undefined;
      until = from;
    }
  }

  /**
   * Looks for the last access between a checkpoint and a place.
   * @returns where it is, from a place to a number of blocks; undefined: there is none
   */
  #halve(until: Position): { from: Position; to: number } | "interrupted" | undefined {
    const session = this.#session;
    let from = session.position;
    let to = until.blocks;
    let found = session.run({ until, watchpoints: this.#watched });
    if (found === "interrupted") return found;
    if (found !== "watchpoint") return undefined;
    while (to - from.blocks > SHORT) {
      session.seekCheckpoint(until);
      const middle = Math.floor((from.blocks + to) / 2);
      session.passBlocks(middle);
      const place = session.position;
      session.finishBlock();
      found = session.run({ until, watchpoints: this.#watched });
      if (found === "interrupted") return found;
      if (found === "watchpoint") from = place;
      else to = middle;
    }
    // The rest of a block that was passed, too.
    return { from, to: to + 1 };
  }

  /** @param blocks no further than where so many were entered */
  #lastAccessBetween(
    from: InstructionPosition,
    before: InstructionPosition,
    blocks = Infinity,
  ): Met | undefined {
    let met: Met | undefined;
    this.seek(from);
    for (;;) {
      const place = this.position;
      if (comparePlaces(place, before) >= 0 || place.blocks > blocks || !this.#step()) return met;
      const breakpoint = this.#access;
      if (breakpoint !== undefined && comparePlaces(this.position, before) <= 0) {
        met = { place, stop: { kind: "watchpoint", breakpoint } };
      }
    }
  }

  // --- instructions

  /** One whole instruction. @returns false at the end */
  #step(): boolean {
    this.#access = undefined;
    do {
      if (this.#cursor.step() === "end") return false;
      this.#access ??= this.#cursor.watched;
    } while (isInside(this.#session.life));
    return true;
  }

  #met(): ReplayStop | undefined {
    const breakpoint = this.#access;
    return breakpoint === undefined ? this.#executedNext() : { kind: "watchpoint", breakpoint };
  }

  #executedNext(): ReplayStop | undefined {
    if (this.#executed.length === 0) return undefined;
    const pc = this.#session.linearPc;
    const breakpoint = this.#executed.find(({ address }) => address === pc);
    return breakpoint && { kind: "breakpoint", breakpoint };
  }

  /** Goes by instructions to where the session stands, at the beginning of a block. */
  #seekBlock(): void {
    const { position } = this.#session;
    const there = registers(this.#session.life);
    this.seek({ ...position, steps: 0 });
    // A place is the same behind an exit, and before the next block.
    while (comparePositions(this.position, position) === 0) {
      if (isSame(registers(this.#session.life), there) || !this.#step()) return;
    }
  }

  /**
   * Steps, once at least, to the beginning of a block.
   * @param visit asked behind each instruction; what it returns ends the way
   */
  #walkBlock<T>(visit: () => T | undefined): T | undefined {
    for (let isFirst = true; ; isFirst = false) {
      const base = this.position;
      const block = this.#blockBehind(base);
      if (!isFirst && block === "here") return undefined;
      do {
        if (!this.#step()) return undefined;
        const result = visit();
        if (result !== undefined) return result;
        const isThere = block instanceof Uint8Array && isSame(registers(this.#session.life), block);
        if (isThere) return undefined;
      } while (comparePositions(this.position, base) === 0);
    }
  }

  /** The registers at the next beginning of a block; undefined when an exit comes before it. */
  #blockBehind(place: InstructionPosition): Uint8Array | "here" | undefined {
    const session = this.#session;
    session.seek(place);
    const here = registers(session.life);
    session.finishBlock();
    const there = registers(session.life);
    const isExit = session.position.exits !== place.exits;
    this.seek(place);
    if (isExit) return undefined;
    return isSame(here, there) ? "here" : there;
  }
}

const START: InstructionPosition = { exits: 0, blocks: 0, steps: 0 };

function comparePlaces(a: InstructionPosition, b: InstructionPosition): number {
  return comparePositions(a, b) || a.steps - b.steps;
}
