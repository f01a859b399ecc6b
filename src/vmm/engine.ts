/**
 * An engine runs guest code until help is needed. Both engines, KVM and Unicorn, are this one
 * class over two libraries with the same functions (native/vmm.h).
 */
import { type CpuidLeaf, cpuidPolicy, decodeCpuid, encodeCpuid } from "./cpuid.ts";
import { missingFeature } from "./cpuid-compatible.ts";
import { portableCpuid } from "./portable-cpu.ts";
import type { TimeSource } from "./clock.ts";
import { Coverage } from "./coverage.ts";
import type { CpuState } from "./cpu.ts";
import { CPU_LAYOUT, decodeCpu, encodeCpu } from "./cpu-codec.ts";
import { type EngineName, libraryOf } from "./engine-library.ts";
import { RunPage } from "./exit.ts";
import { MachineImage } from "./image.ts";
import { check, type EngineLibrary, type Pointer, ptr, Sentence } from "./native.ts";
import { Point } from "./point.ts";

export { ENGINES, type EngineName, kickEngine } from "./engine-library.ts";

/** What an engine can do beyond the common ground; enum vmm_capability. */
export const Capability = {
  /** Dirty pages can be asked for. */
  DIRTY_LOG: 1,
  /** ... and are the written ones exactly. */
  EXACT_DIRTY: 2,
  /** Time can be virtual, and moved ahead. */
  VIRTUAL_TIME: 4,
  /** MSRs that the engine doesn't know exit. */
  MSR_EXITS: 8,
  /** Exits can bring registers. */
  SYNC_REGS: 16,
  /** AVX and later state. */
  XSAVE: 32,
  /** A debugger's steps and execution breakpoints. */
  DEBUG: 64,
  /** ... and watchpoints, of writes and of accesses. */
  WATCHPOINTS: 128,
  /** ... and of reads alone. */
  READ_WATCHPOINTS: 256,
  /** A point to go back to. */
  POINT: 512,
  /** ... and what code was entered since. */
  COVERAGE: 1024,
  /** Pages that the guest touched, if only to read them. */
  TOUCHED: 2048,
} as const;

/** What a breakpoint stops at; enum vmm_break_kind. */
export const BreakKind = { EXECUTE: 0, WRITE: 1, READ: 2, ACCESS: 3 } as const;

export interface Breakpoint {
  /** Linear. */
  readonly address: bigint;
  /** Of BreakKind. */
  readonly kind: number;
  /** Bytes: 1 for execution, else 1, 2, 4 or 8, of which the address is a multiple. */
  readonly length: number;
}

const BREAKPOINT_SIZE = 16;

/** An engine that can't be had, in one sentence. */
export class EngineError extends Error {
  override name = "EngineError";
}

/** What a probe found. */
export interface Probe {
  engine: EngineName;
  available: boolean;
  /** Why not, as a sentence without its full stop; empty when available. */
  why: string;
  version: string;
}

/** Can the engine be opened on this host? Never throws. */
export function probe(engine: EngineName): Probe {
  try {
    const library = libraryOf(engine);
    const sentence = new Sentence();
    library.vmm_version(sentence.pointer, sentence.size);
    const version = sentence.toString();
    const why = new Sentence();
    const available = library.vmm_probe(why.pointer, why.size) === 0;
    return { engine, available, why: available ? "" : why.toString(), version };
  } catch (error) {
    return { engine, available: false, why: loadFailure(engine, error as Error), version: "" };
  }
}

function loadFailure(engine: EngineName, error: Error): string {
  if (engine === "unicorn" && /libunicorn/.test(error.message)) {
    return "libunicorn 2.0.1 is not installed (Debian package libunicorn2)";
  }
  return error.message;
}

/** How guest time runs. */
export interface TimeMode {
  /** Virtual: by executed blocks, repeatable. Default: real. */
  virtual?: boolean;
  /** Guest ns per executed block of virtual time. Default 10. */
  nsPerBlock?: number;
}

/** What a guest is to see of its processor. Default: what policy allows of the engine's. */
export interface ProcessorWish {
  /** One that other engines and hosts have, too: portable-cpu.ts. */
  portable?: boolean;
  /** What a guest that goes on has seen. */
  cpuid?: readonly CpuidLeaf[];
  /** How fast the TSC of a portable processor, or of a guest that goes on, counts: kHz. */
  tscKhz?: number;
}

/** What counts guest nanoseconds. */
const TSC_KHZ = 1_000_000;
/** Of leaf 0x80000007's EDX. */
const INVARIANT_TSC = 1 << 8;

const CLOCK_ORIGIN = 0;
const CLOCK_WARP = 8;
const CLOCK_MODE = 24;
const CLOCK_NS_PER_BLOCK = 28;

/** One VM with one vCPU. Every method but kick belongs to the thread that opened it. */
export class Engine implements TimeSource, Disposable {
  readonly name: EngineName;
  readonly run: RunPage;
  /** Bits of Capability. */
  readonly capabilities: number;
  /** Address of struct vmm, for a kick from another thread. */
  readonly handle: number;
  readonly #library: EngineLibrary;
  readonly #image: MachineImage;
  readonly #clock: DataView;
  readonly #pointer: Pointer;
  readonly #vmmRun: (vmm: Pointer) => number;
  readonly #vmmNow: (vmm: Pointer) => number;
  #unobserve: (() => void) | undefined;
  #descriptors = new Int32Array(1);
  #descriptorCount = 0;
  #cpuid: readonly CpuidLeaf[] = [];
  #open = true;

  private constructor(
    name: EngineName,
    library: EngineLibrary,
    pointer: Pointer,
    image: MachineImage,
  ) {
    this.name = name;
    this.#library = library;
    this.#pointer = pointer;
    this.#image = image;
    this.#clock = image.clock;
    this.handle = pointer as number;
    this.#vmmRun = library.vmm_run as (vmm: Pointer) => number;
    this.#vmmNow = library.vmm_now as (vmm: Pointer) => number;
    this.capabilities = library.vmm_capabilities(pointer);
    this.run = new RunPage(
      library.vmm_run_page(pointer) as number,
      library.vmm_run_size(pointer) as number,
    );
  }

  /**
   * Opens an engine on a machine image's memory, with the CPUID that policy allows.
   * @throws EngineError when the host can't.
   */
  static open(
    name: EngineName,
    image: MachineImage,
    time: TimeMode = {},
    processor: ProcessorWish = {},
  ): Engine {
    const available = probe(name);
    if (!available.available) throw new EngineError(`engine ${name}: ${available.why}`);
    const library = libraryOf(name);
    const clock = image.clock;
    clock.setUint32(CLOCK_MODE, time.virtual ? 1 : 0, true);
    clock.setUint32(CLOCK_NS_PER_BLOCK, time.nsPerBlock ?? 10, true);
    const config = encodeConfig(image);
    const why = new Sentence();
    const pointer = library.vmm_open(ptr(config), why.pointer, why.size);
    if (!pointer) throw new EngineError(`engine ${name}: ${why}`);
    const engine = new Engine(name, library, pointer as Pointer, image);
    if (time.virtual && !engine.can(Capability.VIRTUAL_TIME)) {
      engine[Symbol.dispose]();
      throw new EngineError(`engine ${name} has no virtual time; use unicorn`);
    }
    if (!time.virtual) engine.startClock();
    try {
      engine.#setProcessor(processor);
    } catch (error) {
      engine[Symbol.dispose]();
      throw error;
    }
    if (engine.can(Capability.VIRTUAL_TIME)) engine.#observeWrites();
    return engine;
  }

  /** Guest time that is real goes on from `warp`, where the clock's origin is 0. */
  startClock(): void {
    const clock = this.#clock;
    if (clock.getBigInt64(CLOCK_ORIGIN, true) !== 0n) return;
    // With origin 0 the engine tells the host's clock and `warp`.
    const host = BigInt(Math.floor(this.now())) - clock.getBigInt64(CLOCK_WARP, true);
    clock.setBigInt64(CLOCK_ORIGIN, host, true);
  }

  /** What the host writes is told to the engine. */
  #observeWrites(): void {
    this.#unobserve ??= this.#image.memory.observeWrites((address, length) => {
      this.#library.vmm_written(this.#pointer, address, length);
    });
  }

  can(capability: number): boolean {
    return (this.capabilities & capability) !== 0;
  }

  /**
   * Runs the guest until the next exit, which `run` then shows.
   * @returns 0, or a negative errno.
   */
  enter(): number {
    return this.#vmmRun(this.#pointer);
  }

  /** Makes a running `enter` return; see kickEngine for other threads. */
  kick(): void {
    if (this.#open) this.#library.vmm_kick(this.#pointer);
  }

  /** Kick when guest time reaches `at`, ns. */
  setDeadline(at: number): void {
    this.#library.vmm_set_deadline(this.#pointer, at);
  }

  /**
   * Where a guest with virtual time stops before a block of code, for no exit; vmm_break_blocks of
   * native/vmm.h. Takes the place of what was said before.
   * @param addresses linear: of any instruction of a block. At most 64.
   */
  breakBlocks(addresses: readonly bigint[]): void {
    const list = BigUint64Array.from(addresses.length > 0 ? addresses : [0n]);
    const result = this.#library.vmm_break_blocks(this.#pointer, ptr(list), addresses.length);
    check("breakpoints", result);
  }

  /** Guest time, ns. */
  now(): number {
    return this.#vmmNow(this.#pointer);
  }

  /** Moves guest time ahead by `ns`, where the guest's TSC can follow. */
  warp(ns: number): void {
    if (!this.can(Capability.VIRTUAL_TIME)) return;
    const clock = this.#clock;
    const warp = clock.getInt32(CLOCK_WARP + 4, true) * 2 ** 32 + clock.getUint32(CLOCK_WARP, true);
    const moved = warp + Math.round(ns);
    clock.setUint32(CLOCK_WARP, moved % 2 ** 32, true);
    clock.setInt32(CLOCK_WARP + 4, Math.floor(moved / 2 ** 32), true);
  }

  /** Descriptors whose input ends a wait. */
  watch(descriptors: readonly number[]): void {
    this.#descriptors = Int32Array.from(descriptors.length > 0 ? descriptors : [0]);
    this.#descriptorCount = descriptors.length;
  }

  /**
   * Sleeps until guest time `until` (ns), a kick, or input on a watched descriptor.
   * With virtual time nothing passes while halted, so time moves to `until` at once.
   */
  wait(until: number): void {
    this.#library.vmm_wait(
      this.#pointer,
      until,
      this.#descriptors as unknown as Pointer,
      this.#descriptorCount,
    );
  }

  /** Injects an external interrupt; only when run.readyForInterrupt. */
  interrupt(vector: number): void {
    check("interrupt injection", this.#library.vmm_interrupt(this.#pointer, vector));
  }

  nmi(): void {
    check("NMI injection", this.#library.vmm_nmi(this.#pointer));
  }

  /** Brings the image's CPU registers up to date. */
  saveCpu(): void {
    check(
      "reading CPU registers",
      this.#library.vmm_get_cpu(this.#pointer, this.#image.cpuAddress as Pointer),
    );
  }

  /** Makes the image's CPU registers the vCPU's. */
  loadCpu(): void {
    check(
      "writing CPU registers",
      this.#library.vmm_set_cpu(this.#pointer, this.#image.cpuAddress as Pointer),
    );
  }

  /** Resets the vCPU to `state`. */
  setCpu(state: CpuState): void {
    this.saveCpu();
    encodeCpu(this.#image.cpu, state);
    this.loadCpu();
  }

  getCpu(): CpuState {
    this.saveCpu();
    return decodeCpu(this.#image.cpu);
  }

  /** All of struct vmm_cpu, for comparing engines to the last bit. */
  cpuBytes(): Uint8Array {
    this.saveCpu();
    const cpu = this.#image.cpu;
    return new Uint8Array(cpu.buffer, cpu.byteOffset, CPU_LAYOUT.size);
  }

  /**
   * Pages of memory range `slot` that were written since the last call, a bit each.
   * @returns how many there are.
   */
  dirtyPages(slot: number, bitmap: Uint8Array): number {
    return check(
      "dirty pages",
      this.#library.vmm_dirty(this.#pointer, slot, bitmap as unknown as Pointer, bitmap.byteLength),
    );
  }

  /** Nobody asks for dirty pages any more: the guest need not pay for it. */
  endDirtyLog(): void {
    if (this.#open) this.#library.vmm_dirty_end(this.#pointer);
  }

  /** Notes what the guest touches, until `endTouched`. @throws NativeError unless it can TOUCHED */
  beginTouched(): void {
    check("touched pages", this.#library.vmm_touched_begin(this.#pointer));
  }

  /** As `dirtyPages`, of what was read as well; what the host does isn't in it. */
  touchedPages(slot: number, bitmap: Uint8Array): number {
    return check(
      "touched pages",
      this.#library.vmm_touched(
        this.#pointer,
        slot,
        bitmap as unknown as Pointer,
        bitmap.byteLength,
      ),
    );
  }

  endTouched(): void {
    if (this.#open) this.#library.vmm_touched_end(this.#pointer);
  }

  /**
   * What a debugger stops the guest at from the next `enter` on, by a DEBUG exit; vmm_debug of
   * native/vmm.h. Takes the place of what was said before.
   * @param step one instruction for each `enter`.
   * @returns 0 or a negative errno: -ENOSPC for too many, -ENOTSUP for what it can't do.
   */
  debug(breakpoints: readonly Breakpoint[], step = false): number {
    const list = new DataView(new ArrayBuffer(Math.max(1, breakpoints.length) * BREAKPOINT_SIZE));
    breakpoints.forEach(({ address, kind, length }, index) => {
      list.setBigUint64(index * BREAKPOINT_SIZE, address, true);
      list.setUint32(index * BREAKPOINT_SIZE + 8, kind, true);
      list.setUint32(index * BREAKPOINT_SIZE + 12, length, true);
    });
    const count = breakpoints.length;
    return this.#library.vmm_debug(this.#pointer, step ? 1 : 0, ptr(list), count);
  }

  /**
   * The machine as it is now becomes a point to go back to; it takes the place of an earlier one.
   * Between two instructions only. While there is one, `dirtyPages` fails.
   * @throws NativeError
   */
  takePoint(): Point {
    this.#observeWrites();
    return new Point(this.#library, this.#pointer, this.#image);
  }

  /**
   * What code the guest enters, from now on. It takes the place of an earlier one.
   * @param places of its map, a power of two
   * @throws EngineError when the engine can't tell
   */
  openCoverage(places: number): Coverage {
    const shared = this.#library.vmm_coverage_open(this.#pointer, places);
    if (!shared) throw new EngineError(`engine ${this.name}: it can't tell what code is entered`);
    return new Coverage(this.#library, this.#pointer, shared as number);
  }

  /**
   * What takes the place of a block's first byte until it is entered: undefined for an engine that tells
   * of blocks without, and for one that can't tell. HLT can't be it in code of processes. The first time
   * it is asked, /dev/kvm is opened.
   */
  get coverageTrap(): "INT3" | "HLT" | undefined {
    const code = this.#library.vmm_coverage_instruction(this.#pointer);
    return code === 0xcc ? "INT3" : code === 0xf4 ? "HLT" : undefined;
  }

  /** What the guest sees of its processor. */
  get cpuid(): readonly CpuidLeaf[] {
    return this.#cpuid;
  }

  /** How fast the guest's TSC counts, kHz; 0: the engine can't tell. */
  get tscKhz(): number {
    return this.#library.vmm_tsc_khz(this.#pointer);
  }

  /** @throws EngineError */
  #setProcessor({ portable = false, cpuid, tscKhz }: ProcessorWish): void {
    const wanted = tscKhz ?? (portable ? TSC_KHZ : undefined);
    if (wanted !== undefined) {
      const result = this.#library.vmm_set_tsc_khz(this.#pointer, wanted);
      // Without a wish it is as fast as it can be had.
      if (result < 0 && tscKhz !== undefined && (portable || needsTsc(cpuid))) {
        throw new EngineError(
          `engine ${this.name}: the guest's TSC counts ${wanted} kHz, this host's ${this.tscKhz} kHz, and it can't be scaled`,
        );
      }
    }
    this.#setCpuid(portable, cpuid);
  }

  #setCpuid(portable: boolean, wanted?: readonly CpuidLeaf[]): void {
    const max = 256;
    const buffer = new ArrayBuffer(max * 40);
    const count = check(
      "CPUID",
      this.#library.vmm_supported_cpuid(this.#pointer, ptr(buffer), max),
    );
    const allowed = cpuidPolicy(decodeCpuid(buffer, count));
    const possible = portable ? portableCpuid(allowed, this.tscKhz) : allowed;
    if (typeof possible === "string") throw new EngineError(`engine ${this.name}: ${possible}`);
    const why = wanted && missingFeature(wanted, possible);
    if (why !== undefined) throw new EngineError(`engine ${this.name}: ${why}`);
    this.#cpuid = wanted ?? possible;
    const entries = encodeCpuid(this.#cpuid);
    check(
      "CPUID",
      this.#library.vmm_set_cpuid(this.#pointer, ptr(entries), entries.byteLength / 40),
    );
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    this.#unobserve?.();
    this.#library.vmm_close(this.#pointer);
  }
}

// struct vmm_config
function encodeConfig(image: MachineImage): ArrayBuffer {
  const buffer = new ArrayBuffer(528);
  const view = new DataView(buffer);
  view.setUint32(0, 1, true);
  view.setUint32(4, image.memory.ranges.length, true);
  image.memory.ranges.forEach((range, index) => {
    const at = 8 + index * 32;
    view.setBigUint64(at, BigInt(range.base), true);
    view.setBigUint64(at + 8, BigInt(range.size), true);
    view.setBigUint64(at + 16, BigInt(range.host), true);
    view.setUint32(at + 24, range.readonly ? 1 : 0, true);
  });
  view.setBigUint64(520, BigInt(image.clockAddress), true);
  return buffer;
}

/**
 * Whether a guest that has seen a processor could go on with an engine here: a machine of a page is made
 * to find that out.
 * @throws EngineError that names what it couldn't do without
 */
export function checkProcessor(name: EngineName, processor: ProcessorWish): void {
  using image = new MachineImage([{ base: 0, size: 4096, readonly: false }]);
  using _engine = Engine.open(name, image, {}, processor);
}

/** Whether a guest may take its time from the TSC: else it has KVM's clock, or looks at timers. */
function needsTsc(cpuid: readonly CpuidLeaf[] = []): boolean {
  const leaf = cpuid.find((entry) => entry.leaf === 0x80000007);
  return ((leaf?.edx ?? 0) & INVARIANT_TSC) !== 0;
}
