/**
 * Runs inputs in a guest, each from the same point. Where nothing but memory, registers and the
 * fuzzer's port is touched, a run is one call of the engine; else the machine's devices are at work,
 * and go back to the point, too.
 */
import type { Coverage, GuestBlock } from "../../src/vmm/coverage.ts";
import { BreakKind, Capability } from "../../src/vmm/engine.ts";
import { type Point, RunEnd } from "../../src/vmm/point.ts";
import type { Stop } from "../../src/vmd/vcpu.ts";
import {
  type Compare,
  type CrashReport,
  type Executor,
  type Novelty,
  Verdict,
} from "../executor.ts";
import { readBlocks } from "./blocks.ts";
import { type Channel, channelOf } from "./channels.ts";
import { FuzzError, type FuzzMachine, openMachine } from "./machine.ts";
import { type GuestOptions, parseAddress, parseCrash, parseRange } from "./options.ts";
import { Command, FUZZ_PORT } from "./port.ts";
import { panicLine, type Place, printedStack, stackOf } from "./stack.ts";
import { runToStart } from "./start.ts";
import { CHOICES_MAX } from "./structure.ts";
import { Symbols } from "./symbols.ts";
import { GuestView } from "./view.ts";

/** Places of the coverage map. */
const PLACES = 65_536;
/** Blocks of a run; where time is real, ns. */
const BUDGET = 1_000_000;
const REAL_BUDGET = 1e9;
/**
 * A comparison reads all memory. So that it takes about a tenth of the time, one is due when runs have
 * taken a block for every so many bytes; what a run takes besides its blocks counts as some more.
 */
const VERIFY_BYTES = 16;
const RUN_BLOCKS = 100;
/** Of a block, about; at most 128. */
const BLOCK_INSTRUCTIONS = 8;
/** Guest time that a run may take however little it does, ns. */
const TIME = 10e9;
/** What Linux prints when it has said why it is lost. */
const ENDS = ["---[ end ", "Rebooting in "];

/** A crash or hang; what more there is to it is found out when it is asked for. */
interface Ending {
  readonly kind: string;
  readonly text: string;
  /** Where it is to be looked for, if not in the registers. */
  readonly place?: Place;
}

/** Where the engine tells none. */
const NO_EDGES = new Uint32Array(0);

/** Where blocks begin, for an engine that has to be told. */
interface Blocks {
  readonly file: string;
  readonly addresses: readonly bigint[];
  /** What tells that one is entered. */
  readonly trap: "INT3" | "HLT";
}

type Encode = (input: Uint8Array, length: number) => Uint8Array;

export class GuestExecutor implements Executor {
  readonly maxInput: number;
  readonly mapSize = PLACES;
  readonly fidelity = { checked: 0, equal: 0 };
  failure: string | undefined;
  readonly machine: FuzzMachine;
  readonly symbols: Symbols;
  readonly #point: Point;
  /** Absent: the engine can't tell. */
  readonly #coverage: Coverage | undefined;
  readonly #channel: Channel;
  readonly #ends = new Set<bigint>();
  readonly #crashes = new Map<bigint, Ending>();
  readonly #printed: string[] = [];
  /** Every so many runs; absent: as VERIFY_BYTES says. */
  readonly #verify: number | undefined;
  readonly #encode: Encode | undefined;
  readonly #encoded: Uint8Array;
  #haltIsCrash = false;
  /** Runs, or their blocks, since the last comparison. */
  #unverified = 0;
  /** Devices were at work since the point. */
  #touched = false;
  /** The image's copy of the CPU's registers was used. */
  #looked = true;
  #ending: Ending | undefined;

  /**
   * @param encode from a campaign's bytes to the guest's
   * @param opened called before the guest runs: nothing is opened after that
   * @throws FuzzError, and what openMachine throws
   */
  constructor(options: GuestOptions, encode?: Encode, opened: () => void = () => {}) {
    using stack = new DisposableStack();
    this.machine = stack.use(openMachine({ ...options, path: options.file }));
    this.symbols = Symbols.all(options.symbols ?? []);
    const blocks = options.blocks === undefined ? undefined : this.#blocks(options.blocks);
    opened();
    const ready = runToStart(this.machine, options, this.symbols);
    const { engine } = this.machine.life;
    const view = new GuestView(this.machine.life);
    this.#channel = channelOf(options, ready, view, this.machine, this.symbols);
    this.#encode = encode;
    this.maxInput = encode === undefined ? this.#channel.size : CHOICES_MAX;
    this.#encoded = new Uint8Array(encode === undefined ? 0 : this.#channel.size);
    for (const end of options.end ?? []) this.#ends.add(parseAddress(end, this.symbols));
    for (const text of options.crash ?? []) this.#expect(text, view);
    this.machine.last = ENDS;
    this.#stepOff(view);
    this.#stopAt([...new Set([...this.#ends, ...this.#crashes.keys()])]);
    this.#verify = options.verify;
    // The first one is due with the second run, which has something to compare.
    const { size } = this.machine.life.image.memory;
    if (this.#verify === undefined) this.#unverified = size / VERIFY_BYTES - RUN_BLOCKS - 1;
    this.machine.takePoint();
    this.#point = this.machine.point;
    this.#point.port = FUZZ_PORT;
    const virtual = engine.can(Capability.COVERAGE);
    this.#point.budget = options.budget ?? (virtual ? BUDGET : REAL_BUDGET);
    if (this.#channel.place !== undefined) this.#point.place = this.#channel.place;
    if (virtual) this.#coverage = engine.openCoverage(PLACES);
    else if (blocks !== undefined) this.#coverage = this.#trap(blocks, view);
    this.#coverage?.limit((options.coverage ?? []).map((text) => parseRange(text, this.symbols)));
    stack.move();
  }

  /** Whether runs tell what is new. */
  get hasCoverage(): boolean {
    return this.#coverage !== undefined;
  }

  #blocks(file: string): Blocks | undefined {
    const { engine } = this.machine.life;
    if (engine.can(Capability.COVERAGE)) return undefined;
    const trap = engine.coverageTrap;
    if (trap === undefined) throw new FuzzError(`${file}: this host's KVM has no trap for blocks`);
    return { file, addresses: readBlocks(file), trap };
  }

  #trap({ file, addresses, trap }: Blocks, view: GuestView): Coverage {
    const places = addresses.flatMap((address) => {
      const physical = view.physical(address);
      return physical === undefined ? [] : [{ address, physical }];
    });
    if (places.length > PLACES) throw new FuzzError(`${file}: more than ${PLACES} blocks`);
    if (places.length === 0) throw new FuzzError(`${file}: none of its blocks is in memory`);
    const ofProcess = places.find(({ address }) => view.isUser(address));
    if (trap === "HLT" && ofProcess !== undefined) {
      throw new FuzzError(
        `${file}: 0x${ofProcess.address.toString(16)} is code of a process; this host's KVM has no trap for that, but HLT for a kernel's`,
      );
    }
    const coverage = this.machine.life.engine.openCoverage(PLACES);
    coverage.trap(places);
    return coverage;
  }

  #expect(text: string, view: GuestView): void {
    const source = parseCrash(text, this.symbols);
    switch (source.kind) {
      case "address": {
        const { address, name } = source;
        this.#crashes.set(address, { kind: "address", text: `the guest reached ${name}` });
        break;
      }
      case "exception": {
        const { vector } = source;
        const handler = view.handler(vector);
        if (handler === undefined) {
          throw new FuzzError(`${text}: the guest has no handler for it at the start`);
        }
        this.#crashes.set(handler, {
          kind: "exception",
          text: `exception ${vector}`,
          place: { vector },
        });
        break;
      }
      case "printed":
        this.#printed.push(source.text);
        break;
      case "halt":
        this.#haltIsCrash = true;
    }
  }

  /** A run that begins where another ends would end at once. */
  #stepOff(view: GuestView): void {
    if (!this.#ends.has(view.rip)) return;
    const { engine, vcpu } = this.machine.life;
    engine.debug([], true);
    vcpu.step();
  }

  #stopAt(addresses: readonly bigint[]): void {
    const { engine } = this.machine.life;
    const list = addresses.map((address) => ({ address, kind: BreakKind.EXECUTE, length: 1 }));
    if (engine.debug(list) < 0) {
      throw new FuzzError(`engine ${engine.name} can't stop at ${addresses.length} addresses`);
    }
  }

  run(input: Uint8Array, length: number): Verdict {
    this.#ending = undefined;
    const verify = this.#isDue();
    if (this.#encode !== undefined) {
      const bytes = this.#encode(input, length).subarray(0, this.#encoded.length);
      this.#encoded.set(bytes);
      return this.#start(this.#encoded, bytes.length, verify);
    }
    return this.#start(input, length, verify);
  }

  #start(input: Uint8Array, length: number, verify: boolean): Verdict {
    const { insert } = this.#channel;
    // A run without a device's help was none.
    if (this.#touched || insert !== undefined) this.machine.rewind();
    this.#touched = false;
    if (insert === undefined) return this.#runFromMemory(input, length, verify);
    return this.#runFromDevice(insert, input.subarray(0, length), verify);
  }

  /** Whether what the last run left is to be compared with the point. */
  #isDue(): boolean {
    const every = this.#verify;
    if (every === 0) return false;
    const { memory } = this.machine.life.image;
    this.#unverified += every === undefined ? RUN_BLOCKS + this.#point.spent : 1;
    if (this.#unverified < (every ?? memory.size / VERIFY_BYTES)) return false;
    this.#unverified = 0;
    return true;
  }

  #runFromMemory(input: Uint8Array, length: number, verify: boolean): Verdict {
    const point = this.#point;
    point.input = input;
    const end = point.run(length, verify, !this.#looked);
    this.#looked = false;
    if (verify) this.#count(!point.differs);
    switch (end) {
      case RunEnd.PORT:
        return this.#said(point.code);
      case RunEnd.STOP:
        return this.#stoppedAt(point.value);
      case RunEnd.BUDGET:
        return this.#end(Verdict.TIMEOUT, "timeout", "the budget is used up");
      case RunEnd.SHUTDOWN:
        return this.#end(Verdict.CRASH, "triple fault", "triple fault");
      case RunEnd.EXIT:
        this.#touched = true;
        return this.#goOn(true);
      default:
        return this.#end(Verdict.CRASH, "engine", "the engine can't go on");
    }
  }

  #runFromDevice(insert: (input: Uint8Array) => void, input: Uint8Array, verify: boolean): Verdict {
    if (verify) this.#count(this.#point.difference() === undefined);
    this.#touched = true;
    insert(input);
    this.#point.begin();
    return this.#goOn(false);
  }

  /** The machine runs with its devices. @param pending the last exit isn't answered yet */
  #goOn(pending: boolean): Verdict {
    let stop = this.machine.run(TIME, pending);
    this.#point.measure();
    // Its last words may take longer than a run.
    if (stop.kind === "attention" && panicLine(this.machine.printed, this.#printed) !== undefined) {
      this.#point.begin();
      stop = this.machine.run(TIME);
    }
    return this.#judge(stop);
  }

  #look(): GuestView {
    this.#looked = true;
    return new GuestView(this.machine.life);
  }

  #count(equal: boolean): void {
    this.fidelity.checked++;
    if (equal) this.fidelity.equal++;
  }

  #end(verdict: Verdict, kind: string, text: string): Verdict {
    this.#ending = { kind, text };
    return verdict;
  }

  /** What the guest wrote to the fuzzer's port. */
  #said(command: number): Verdict {
    if (command !== Command.CRASH && command !== Command.CRASH_AT) return Verdict.DONE;
    // Behind the instruction, on all engines.
    this.machine.settle();
    const view = this.#look();
    const text = `the guest reports 0x${view.register("rbx").toString(16)}`;
    const named = { rip: view.register("rsi"), rbp: view.register("rdi") };
    const place = command === Command.CRASH_AT ? named : undefined;
    this.#ending = { kind: "hypercall", text, place };
    return Verdict.CRASH;
  }

  #stoppedAt(address: bigint): Verdict {
    const crash = this.#crashes.get(address);
    if (crash === undefined) return Verdict.DONE;
    this.#ending = crash;
    return Verdict.CRASH;
  }

  /** How a run ended in which devices had a part. */
  #judge(stop: Stop): Verdict {
    const { machine } = this;
    const line = panicLine(machine.printed, this.#printed);
    if (line !== undefined) return this.#end(Verdict.CRASH, "panic", line);
    switch (stop.kind) {
      case "exit":
        return this.#said(machine.port.take());
      case "debug":
        return this.#stoppedAt(machine.life.engine.run.debugPc);
      case "attention":
        return this.#end(Verdict.TIMEOUT, "timeout", "the budget or the time is used up");
      case "reset": {
        // The same words, whether a device was at work or not.
        if (stop.by === "triple fault") return this.#end(Verdict.CRASH, stop.by, stop.by);
        return this.#end(Verdict.CRASH, "reset", `the guest reset its machine (${stop.by})`);
      }
      case "halt":
        if (!this.#haltIsCrash) return Verdict.DONE;
        return this.#end(Verdict.CRASH, "halt", "the guest sleeps, and nothing can wake it");
      case "crash":
        return this.#end(Verdict.CRASH, "engine", stop.why);
      default:
        return Verdict.DONE;
    }
  }

  novelty(): Novelty {
    return (this.#coverage?.novelty() ?? 0) as Novelty;
  }

  get once(): boolean {
    return !this.machine.life.engine.can(Capability.COVERAGE);
  }

  get edgesSeen(): number {
    return this.#coverage?.seen ?? 0;
  }

  edges(): Uint32Array {
    return this.#coverage?.edges().slice().sort() ?? NO_EDGES;
  }

  coverageHash(): number {
    return this.#coverage?.hash() ?? 0;
  }

  cost(): number {
    return this.#point.spent;
  }

  crash(): CrashReport | undefined {
    const ending = this.#ending;
    if (ending === undefined) return undefined;
    const { kind, text, place } = ending;
    const printed = printedStack(this.machine.printed);
    if (printed.length > 0) return { kind, text, stack: printed };
    return { kind, text, stack: stackOf(this.#look(), this.symbols, place) };
  }

  compares(input: Uint8Array, length: number): readonly Compare[] {
    const coverage = this.#coverage;
    if (coverage === undefined) return [];
    coverage.note({ compares: true });
    const point = this.#point;
    const { budget } = point;
    // Each instruction is a block then.
    point.budget = budget * BLOCK_INSTRUCTIONS;
    this.run(input, length);
    point.budget = budget;
    coverage.note({});
    return coverage.compares().map(({ at, left, right, size }) => ({
      at: Number(at & 0xffff_ffff_ffffn),
      size,
      left: bytesOf(left, size),
      right: bytesOf(right, size),
    }));
  }

  /** Runs an input, and tells the blocks of code that were entered, in turn: the first 65,536. */
  blocks(input: Uint8Array, length: number): readonly GuestBlock[] {
    const coverage = this.#coverage;
    if (coverage === undefined) return [];
    coverage.note({ blocks: true });
    this.run(input, length);
    coverage.note({});
    return coverage.blocks();
  }

  /** What the last run wrote: names of guest-physical pages. */
  writtenPages(): number[] {
    return this.#point.writtenPages();
  }

  close(): void {
    this.machine[Symbol.dispose]();
  }
}

function bytesOf(value: bigint, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 0, rest = value; i < size; i++, rest >>= 8n) bytes[i] = Number(rest & 0xffn);
  return bytes;
}
