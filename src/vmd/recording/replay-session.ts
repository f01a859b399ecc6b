/**
 * A recording that is gone through in both directions: backwards by a checkpoint, and running again
 * from there. What stands still can be looked at, and is not to be changed: the run would be another.
 */
import { CPU_LAYOUT } from "../../vmm/cpu-codec.ts";
import type { Breakpoint } from "../../vmm/engine.ts";
import type { MachineImage } from "../../vmm/image.ts";
import type { PageSet } from "../../vmm/snapshot/page-set.ts";
import type { BootFile } from "../boot-files.ts";
import { type LoadedState, loadSnapshots } from "../snapshot/load.ts";
import type { Stop } from "../vcpu.ts";
import type { VmLife } from "../vm-life.ts";
import {
  type Checkpoint,
  type CheckpointLimits,
  Checkpoints,
  firstCheckpoint,
  loadCheckpoint,
  takeCheckpoint,
} from "./checkpoints.ts";
import type { EndRecord } from "./events.ts";
import { Player } from "./player.ts";
import { RecordingReader } from "./recording-reader.ts";
import { ReplayedMachine, type ReplayOutput } from "./replayed-machine.ts";
import { imageHash } from "./state-hash.ts";

/** A place in a run: behind an exit, and before a block of code. */
export interface Position {
  /** Exits that are answered. */
  readonly exits: number;
  /** Blocks of translated code that were entered: what virtual time counts. */
  readonly blocks: number;
}

export function comparePositions(a: Position, b: Position): number {
  return a.exits - b.exits || a.blocks - b.blocks;
}

/** Why a session that ran stands still. */
export type SessionStop =
  /** Before a block that holds a breakpoint. */
  | "breakpoint"
  /** At the beginning of the recording, where it went backwards, or at its end. */
  | "end"
  /** What was asked for is done. */
  | "done";

/** Why `run` returned. */
export type RunStop =
  | SessionStop
  /** An access was made to what is watched. */
  | "watchpoint"
  /** `interrupted` said so. */
  | "interrupted";

/** What `run` stops at, of what a debugger asks for. */
export interface RunLimits {
  /** Default: the end. */
  readonly until?: Position;
  /** Linear addresses: before a block that holds one. */
  readonly breakpoints?: readonly bigint[];
  /** Four at most. The engine's TLB is dropped for them, and the machine is not to go on after one. */
  readonly watchpoints?: readonly Breakpoint[];
}

/** So many exits are run before `interrupted` is asked: polls are exits, one for each ms. */
const SLICE = 64;

// struct vmm_clock
const NS_PER_BLOCK = 28;
// struct kvm_regs
const RIP = 128;
// struct kvm_segment
const CS = CPU_LAYOUT.sregs;
const CS_LONG = 19;

export class ReplaySession implements Disposable {
  readonly #reader: RecordingReader;
  readonly #player: Player;
  readonly #output: ReplayOutput;
  readonly #checkpoints: Checkpoints;
  readonly #first: Checkpoint;
  /** Of the last place of checkpoints that it went by, whether it is kept or not. */
  #last: Checkpoint;
  #machine: ReplayedMachine;
  #end: EndRecord | undefined;
  #breakpoints: readonly bigint[] = [];
  /** What the engine looks for now. */
  #stopsAt: readonly bigint[] = [];
  #watches: readonly Breakpoint[] = [];
  #touched = false;
  /** Asked now and then while `run` and `lastBreak` go on: they end if it is true. */
  interrupted: () => boolean = () => false;
  /** What was printed up to here is not printed again. */
  #farthest: Position = { exits: 0, blocks: 0 };

  /** @param file its path; or open, which is closed here. @throws RecordingError, FileError, EngineError */
  constructor(file: string | BootFile, output: ReplayOutput = {}, limits: CheckpointLimits = {}) {
    this.#checkpoints = new Checkpoints(limits);
    this.#output = {
      console: (bytes) => this.#isNew && output.console?.(bytes),
      virtioConsole: (bytes) => this.#isNew && output.virtioConsole?.(bytes),
    };
    this.#reader = new RecordingReader(file);
    this.#player = new Player(this.#reader);
    this.#player.onCheckpoint = (dirty) => this.#keep(dirty);
    let first!: Omit<Checkpoint, "backends">;
    try {
      this.#machine = this.#make((image) => {
        const state = loadSnapshots(image, [this.#reader.snapshot]);
        first = firstCheckpoint(image, state, this.#player.state);
        return state;
      });
    } catch (error) {
      this.#reader[Symbol.dispose]();
      throw error;
    }
    this.#first = { ...first, backends: this.#machine.state };
    this.#last = this.#first;
    this.#checkpoints.add(this.#first);
  }

  // --- what is there now

  /** The machine. It must not be changed, nor run but by this. Another one after each way back. */
  get life(): VmLife {
    return this.#machine.life;
  }

  get position(): Position {
    return { exits: this.life.vcpu.exits, blocks: this.#blocks };
  }

  /** struct vmm_cpu of native/vmm.h, as it is now. */
  get registers(): DataView {
    this.life.engine.saveCpu();
    return this.life.image.cpu;
  }

  get rip(): bigint {
    return this.registers.getBigUint64(RIP, true);
  }

  /** The next instruction's linear address. */
  get linearPc(): bigint {
    const { registers } = this;
    const pc = BigInt.asUintN(64, registers.getBigUint64(CS, true) + this.rip);
    return registers.getUint8(CS + CS_LONG) !== 0 ? pc : pc & 0xffff_ffffn;
  }

  /** Guest time, ns. */
  get now(): number {
    return this.life.engine.now();
  }

  /** SHA-256 of the machine: state-hash.ts. */
  get image(): string {
    return imageHash(this.life);
  }

  /** How the recorded run ended, where this is its end. */
  get end(): EndRecord | undefined {
    return this.#end;
  }

  /** Blocks of machines before the last reset, which `Position.blocks` goes on from. */
  get blocksBefore(): number {
    return this.#machine.blocksBefore;
  }

  /** Bytes of memory that checkpoints hold. */
  get checkpointBytes(): number {
    return this.#checkpoints.bytes;
  }

  // --- ways through it

  /**
   * Goes to a place, forwards or backwards: to the last one before, if there is no such.
   * @throws RecordingError, Divergence
   */
  seek({ exits, blocks }: Position): void {
    const { position } = this;
    const from = this.#checkpoints.before(exits);
    const back = this.#touched || comparePositions({ exits, blocks }, position) < 0;
    if (from !== undefined && (back || from.exits > position.exits)) this.#restore(from);
    this.#breakAt([]);
    if (this.life.vcpu.exits < exits) this.#run(exits);
    if (this.#end === undefined && blocks > this.#blocks) this.#runBlocks(blocks - this.#blocks);
    this.#note();
  }

  /** The machine was changed: it is another one after the next `seek`, which must come first. */
  touch(): void {
    this.#touched = true;
  }

  /** Goes behind an exit. */
  seekExit(exits: number): void {
    this.seek({ exits, blocks: 0 });
  }

  get breakpoints(): readonly bigint[] {
    return this.#breakpoints;
  }

  /** Linear addresses. A block that holds one is stopped at before it runs. */
  set breakpoints(addresses: readonly bigint[]) {
    this.#breakpoints = [...addresses];
  }

  /** Goes on to the next block, or exit if that comes first. */
  stepBlock(): SessionStop {
    if (this.#end !== undefined) return "end";
    this.#breakAt([]);
    this.#runBlocks(1);
    this.#note();
    return this.#end === undefined ? "done" : "end";
  }

  /** Goes back to the block, or exit, before. */
  stepBlockBack(): SessionStop {
    const { exits, blocks } = this.position;
    if (exits === 0 && blocks === this.#firstBlocks) return "end";
    this.seekExit(exits);
    if (blocks > this.#blocks) this.seek({ exits, blocks: blocks - 1 });
    else {
      this.seekExit(exits - 1);
      if (blocks - 1 > this.#blocks) this.seek({ exits: exits - 1, blocks: blocks - 1 });
    }
    return "done";
  }

  /** Goes on to a breakpoint, or the end. */
  continue(): SessionStop {
    if (this.#end !== undefined) return "end";
    const { position } = this;
    this.#breakAt(this.#breakpoints);
    this.#run(Infinity);
    // One that it stands at already.
    if (comparePositions(this.position, position) === 0) this.#run(Infinity);
    this.#note();
    return this.#end === undefined ? "breakpoint" : "end";
  }

  /** Goes back to the last breakpoint before, or the beginning. */
  continueBack(): SessionStop {
    const met = this.lastBreak(this.position);
    if (met === "interrupted") return "done";
    if (met === undefined) {
      this.seekExit(0);
      return "end";
    }
    this.seek(met);
    return "breakpoint";
  }

  /** Where a block that holds a breakpoint was met last before a place. Another `seek` must follow. */
  lastBreak(before: Position): Position | "interrupted" | undefined {
    let until = before;
    for (;;) {
      const first = this.seekCheckpoint(until);
      const start = this.position;
      const met = this.#lastBreak(until);
      if (met !== undefined || first) return met;
      until = start;
    }
  }

  /** Goes to the last checkpoint before a place. @returns whether it is the first */
  seekCheckpoint({ exits }: Position): boolean {
    const from = this.#checkpoints.before(exits) ?? this.#first;
    this.#restore(from);
    return from === this.#first;
  }

  /** Runs on to where so many blocks were entered, or a little behind that. */
  passBlocks(blocks: number): void {
    this.#breakAt([]);
    while (this.#end === undefined && this.#blocks < blocks) this.#runBlocks(blocks - this.#blocks);
  }

  /** Runs on to the next beginning of a block, if this isn't one. */
  finishBlock(): SessionStop {
    if (this.#end !== undefined) return "end";
    this.#breakAt([]);
    do this.#runBlocks(0);
    while (this.#end === undefined && !this.life.vcpu.stoppedEarly);
    this.#note();
    return this.#end === undefined ? "done" : "end";
  }

  /** Runs on, also from before a block with a breakpoint, to the first of what `limits` names. */
  run({ until, breakpoints = [], watchpoints = [] }: RunLimits): RunStop {
    if (this.#end !== undefined) return "end";
    const { exits, blocks } = until ?? { exits: Infinity, blocks: Infinity };
    this.#breakAt(breakpoints);
    if (watchpoints.length > 0) {
      this.touch();
      this.#watch(watchpoints);
    }
    let isSpoilt = false;
    try {
      for (;;) {
        if (comparePositions(this.position, { exits, blocks }) >= 0) return "done";
        let stop: Stop;
        const { vcpu } = this.life;
        if (vcpu.exits < exits) stop = this.#run(Math.min(exits, vcpu.exits + SLICE));
        else stop = this.#runBlocks(blocks - this.#blocks);
        if (stop.kind === "debug") {
          isSpoilt = true;
          return "watchpoint";
        }
        if (this.#end !== undefined) return "end";
        // Whatever else it stops for is at the place itself, or behind an exit.
        const isThere = comparePositions(this.position, { exits, blocks }) >= 0;
        if (this.life.vcpu.stoppedEarly && !isThere) return "breakpoint";
        if (this.interrupted()) return "interrupted";
      }
    } finally {
      this.#breakAt([]);
      if (watchpoints.length > 0) this.#watch([]);
      // What stopped it is an exit that the run hasn't.
      this.#note(isSpoilt ? 1 : 0);
    }
  }

  /** Runs from here to a place. @returns where a breakpoint was met last before it */
  #lastBreak(until: Position): Position | "interrupted" | undefined {
    let met: Position | undefined;
    for (;;) {
      const stop = this.run({ until, breakpoints: this.#breakpoints });
      if (stop === "interrupted") return stop;
      if (stop !== "breakpoint") return met;
      met = this.position;
    }
  }

  #run(exits: number): Stop {
    for (;;) {
      const { vcpu, machine } = this.life;
      vcpu.limit = exits;
      vcpu.stopAfter = Infinity;
      machine.clock.rearmed = true;
      const stop = this.#stopped(vcpu.run(), exits);
      if (stop.kind !== "reset" || this.#end !== undefined || vcpu.exits >= exits) return stop;
    }
  }

  /** No further than the next exit. */
  #runBlocks(count: number): Stop {
    const { vcpu, machine, image } = this.life;
    const { exits } = vcpu;
    vcpu.limit = exits + 1;
    vcpu.stopAfter = count * image.clock.getUint32(NS_PER_BLOCK, true);
    machine.clock.rearmed = true;
    return this.#stopped(vcpu.run(), exits + 1);
  }

  /** Looks at why it stopped. A reset is gone through: the next machine is there then. */
  #stopped(stop: Stop, limit: number): Stop {
    const { kind } = stop;
    const { vcpu, machine } = this.life;
    const done = vcpu.exits >= limit || vcpu.stoppedEarly;
    if (kind === "debug") return stop;
    if (kind === "attention" && done && !this.#player.isOver) return stop;
    if (kind === "reset" && this.#player.isAtReset) {
      this.#reset();
      return stop;
    }
    machine.flush();
    const { isCut } = this.#player;
    this.#end = isCut
      ? { image: this.image, message: this.#reader.cut.message }
      : this.#reader.end(this.#player.end());
    return stop;
  }

  /** The checkpoint at which the next machine begins has all of its pages. */
  #reset(): void {
    let first!: Omit<Checkpoint, "backends">;
    this.#machine.reset(!this.#touched, (image) => {
      const state = loadSnapshots(image, [this.#reader.snapshot]);
      first = firstCheckpoint(image, state, this.#player.state);
      return state;
    });
    const { exits } = this.life.vcpu;
    const there = this.#checkpoints.at(exits);
    this.#last = there ?? { ...first, exits, backends: this.#machine.state };
    if (there === undefined) this.#checkpoints.add(this.#last);
    this.#breakAt(this.#stopsAt);
    if (this.#watches.length > 0) this.#watch(this.#watches);
  }

  #breakAt(addresses: readonly bigint[]): void {
    this.#stopsAt = addresses;
    this.life.engine.breakBlocks(addresses);
  }

  #watch(watchpoints: readonly Breakpoint[]): void {
    this.#watches = watchpoints;
    this.life.engine.debug(watchpoints);
  }

  get #blocks(): number {
    return this.#machine.blocks;
  }

  get #firstBlocks(): number {
    const { cpu } = this.#first;
    return Number(new DataView(cpu.buffer, cpu.byteOffset).getBigUint64(24, true));
  }

  get #isNew(): boolean {
    return comparePositions(this.position, this.#farthest) > 0;
  }

  #note(more = 0): void {
    this.life.machine.flush();
    const { exits, blocks } = this.position;
    const here = { exits: exits - more, blocks };
    if (comparePositions(here, this.#farthest) > 0) this.#farthest = here;
  }

  #keep(dirty: PageSet): void {
    const { life, state } = this.#machine;
    const there = this.#checkpoints.at(life.vcpu.exits);
    // Perhaps it has been here before.
    this.#last = there ?? takeCheckpoint(life, this.#last, dirty, this.#player.state, state);
    if (there === undefined) this.#checkpoints.add(this.#last);
  }

  #restore(checkpoint: Checkpoint): void {
    this.#machine[Symbol.dispose]();
    this.#player.state = checkpoint.player;
    this.#machine = this.#make((image) => loadCheckpoint(image, checkpoint));
    this.#machine.state = checkpoint.backends;
    this.#last = checkpoint;
    this.#touched = false;
    this.life.vcpu.exits = Math.max(0, checkpoint.exits);
    this.#end = undefined;
  }

  #make(inputs: (image: MachineImage) => LoadedState): ReplayedMachine {
    return new ReplayedMachine(this.#reader, this.#player, this.#output, inputs);
  }

  [Symbol.dispose](): void {
    this.#machine[Symbol.dispose]();
    this.#reader[Symbol.dispose]();
  }
}
