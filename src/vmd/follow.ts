/**
 * A recorded trace against an engine: the guest runs again, gets the recorded answers, and must
 * show the recorded exits.
 *
 * With virtual time, on an engine that has it, everything happens where it was recorded: time moves
 * as the vCPU loop moved it, and the guest is stopped and interrupted at the same instruction.
 * Otherwise interrupts go in where they were recorded, at exits. One that came in while the guest
 * ran can't be placed: the check ends there and says so. Nor is a guest's time the recorded one.
 * Where the machine was reset, its files are booted again on a new one.
 */
import type { EngineName } from "../vmm/engine.ts";
import { ExitReason, exitName } from "../vmm/exit.ts";
import { ignoreMsrWrite, readMsr } from "../vmm/msr.ts";
import type { ExitRecord, Trace } from "../vmm/trace.ts";
import type { BootSet } from "./boot-files.ts";
import { BootFiles } from "./boot-load.ts";
import type { CrossCheckResult } from "./cross-check.ts";
import { memoryRanges } from "./machine.ts";
import { ReplayedDevices, type RunRecord, traceOptions } from "./replay.ts";
import { lateRip, LONGEST_INSTRUCTION, Side } from "./side.ts";
import { EXIT_TIME } from "./vcpu.ts";
import type { VcpuOptions } from "./vm-options.ts";

/** What can't be followed, in one sentence; undefined when everything can. @throws TraceError */
export function followLimits(trace: Trace, engine: EngineName): string | undefined {
  if (repeats(trace, engine)) return undefined;
  const time = traceOptions(trace).virtualTime ? `engine ${engine} has real time` : "real time";
  return `${time}: a guest that reads the TSC, or is interrupted as it runs, can't be followed further`;
}

/**
 * @param files what the guest booted from, open; without them, the files that the trace names are opened
 * @throws TraceError, FileError, BootError, EngineError
 */
export function follow(trace: Trace, engine: EngineName, files?: BootSet): CrossCheckResult {
  using following = new Following(trace, engine, files);
  return following.run();
}

function repeats(trace: Trace, engine: EngineName): boolean {
  return engine === "unicorn" && traceOptions(trace).virtualTime === true;
}

/** The guest from one start of its machine to the next. */
interface Life {
  readonly side: Side;
  readonly devices: ReplayedDevices;
  /** An interrupt waits for the guest to take one. */
  waiting: boolean;
  /** The guest was stopped for the host since its own last exit. */
  kicked: boolean;
}

class Following implements Disposable {
  readonly #trace: Trace;
  readonly #options: VcpuOptions;
  readonly #engine: EngineName;
  readonly #virtual: boolean;
  readonly #files: BootSet | undefined;
  #life: Life;
  #equal = 0;

  constructor(trace: Trace, engine: EngineName, files: BootSet | undefined) {
    this.#files = files;
    this.#trace = trace;
    this.#options = traceOptions(trace);
    this.#engine = engine;
    this.#virtual = repeats(trace, engine);
    this.#life = this.#begin(this.#options.epoch);
  }

  // As after power-on, booted.
  #begin(epoch: number): Life {
    const virtual = this.#virtual;
    const options = this.#options;
    using files =
      this.#files === undefined ? BootFiles.open(options) : new BootFiles(options, this.#files);
    using stack = new DisposableStack();
    const ranges = memoryRanges(this.#options.memory, files.rom);
    const side = stack.use(new Side(this.#engine, ranges, { virtual }));
    const devices = new ReplayedDevices({ ...this.#options, epoch }, side.image, (ns) => {
      if (virtual) side.engine.warp(ns);
    });
    side.engine.setCpu(files.load(devices.machine).cpu);
    stack.move();
    return { side, devices, waiting: false, kicked: false };
  }

  run(): CrossCheckResult {
    for (const record of this.#trace.records()) {
      if (record.kind === "reset") {
        this.#life.side[Symbol.dispose]();
        this.#life = this.#begin(record.epoch);
        continue;
      }
      const result = this.#follow(record);
      if (result !== undefined) return result;
    }
    return this.#end("the trace ended");
  }

  #follow(record: RunRecord): CrossCheckResult | undefined {
    const life = this.#life;
    const { engine } = life.side;
    if (record.kind === "exit") {
      if (!this.#virtual && isHosts(record)) {
        life.kicked = true;
        return undefined;
      }
      life.kicked = false;
      const result = this.#exit(record);
      if (result !== undefined) return result;
      this.#equal++;
    }
    const difference = life.devices.apply(record);
    if (difference !== undefined) return this.#differs(difference);
    // Ticks are recorded before the exit in which they are.
    if (record.kind !== "tick") life.waiting = life.devices.machine.interrupts.pending;
    if (record.kind === "exit" || record.kind === "interrupt") this.#catchUp(record.now);
    if (record.kind === "interrupt") {
      if (life.kicked || !engine.run.readyForInterrupt) {
        return this.#end(`interrupt ${record.vector} was recorded at no exit of the guest's own`);
      }
      engine.interrupt(record.vector);
    }
    return undefined;
  }

  #end(ending: string): CrossCheckResult {
    return { equal: this.#equal, ending, difference: undefined, failed: false };
  }

  #differs(difference: string): CrossCheckResult {
    return { ...this.#end("a difference"), difference: `exit ${this.#equal}: ${difference}` };
  }

  // A guest that slept goes on at the time at which it was woken.
  #catchUp(now: number): void {
    const { engine } = this.#life.side;
    if (this.#virtual && engine.now() < now) engine.warp(now - engine.now());
  }

  // Runs the guest through all items of a recorded exit, and gives it the recorded answers.
  #exit(record: ExitRecord): CrossCheckResult | undefined {
    const { side, waiting } = this.#life;
    const { engine } = side;
    const { run } = engine;
    const size = itemSize(record);
    const items = Math.max(1, record.data.length / size);
    let stop: number | undefined;
    if (this.#virtual) {
      run.requestInterruptWindow = waiting;
      if (record.reason === ExitReason.INTR) stop = record.now - EXIT_TIME;
    }
    for (let i = 0; i < items; i++) {
      const failure = side.next(stop, this.#virtual ? record.now : undefined);
      if (failure !== undefined) return { ...this.#end(failure), failed: true };
      const difference = compareItem(side, record, i);
      if (difference !== undefined) return this.#differs(difference);
      if (record.direction === 0 && hasItems(record)) {
        side.data.set(record.data.subarray(i * size, (i + 1) * size));
      }
    }
    if (this.#virtual) engine.warp(EXIT_TIME);
    if (record.reason === ExitReason.RDMSR) {
      const { buffer, byteOffset } = record.data;
      run.msrError = readMsr(record.address) === undefined;
      run.msrData = new DataView(buffer, byteOffset, 8).getBigUint64(0, true);
    } else if (record.reason === ExitReason.WRMSR) {
      run.msrError = !ignoreMsrWrite(record.address);
    }
    return undefined;
  }

  [Symbol.dispose](): void {
    this.#life.side[Symbol.dispose]();
  }
}

/** Exits at which the host, not the guest, had something to do. */
function isHosts({ reason }: ExitRecord): boolean {
  return reason === ExitReason.INTR || reason === ExitReason.IRQ_WINDOW_OPEN;
}

function hasItems({ reason }: ExitRecord): boolean {
  return reason === ExitReason.IO || reason === ExitReason.MMIO;
}

// As Side cuts exits into items.
function itemSize({ reason, size }: ExitRecord): number {
  if (reason === ExitReason.IO) return size;
  return reason === ExitReason.MMIO && size === 8 ? 4 : 8;
}

function compareItem(side: Side, record: ExitRecord, i: number): string | undefined {
  const { item, engine } = side;
  const { run } = engine;
  const size = itemSize(record);
  const data = record.data.subarray(i * size, (i + 1) * size);
  const expected = describe(record, hasItems(record) ? data.length : 0, i);
  if (item.what !== expected) return `recorded ${expected}, ${engine.name} ${item.what}`;
  if (hasItems(record) && record.direction === 1 && item.out !== data.toHex()) {
    return `${expected}: recorded ${data.toHex()}, ${engine.name} ${item.out}`;
  }
  if (i > 0 || record.rip === 0n || !side.whole || record.reason === ExitReason.SHUTDOWN) {
    return undefined;
  }
  const distance = Number(run.rip - record.rip);
  if (Math.abs(distance) <= (lateRip(run) ? LONGEST_INSTRUCTION : 0)) return undefined;
  const rips = `recorded 0x${record.rip.toString(16)}, ${engine.name} 0x${run.rip.toString(16)}`;
  return `${expected}: RIP differs: ${rips}`;
}

function describe(record: ExitRecord, size: number, item: number): string {
  const hex = (value: number) => `0x${value.toString(16)}`;
  const isWrite = record.direction === 1;
  switch (record.reason) {
    case ExitReason.IO:
      return `${isWrite ? "out" : "in"} ${hex(record.address)}/${size}`;
    case ExitReason.MMIO:
      return `${isWrite ? "write" : "read"} ${hex(record.address + item * 4)}/${size}`;
    case ExitReason.RDMSR:
    case ExitReason.WRMSR:
      return `${exitName(record.reason)} ${hex(record.address)}`;
    default:
      return exitName(record.reason);
  }
}
