/** One engine that runs cases, each from its own state, and shows how they end. */
import { CPU_LAYOUT } from "../../src/vmm/cpu-codec.ts";
import type { CpuidLeaf } from "../../src/vmm/cpuid.ts";
import { Capability, Engine, EngineError, type EngineName } from "../../src/vmm/engine.ts";
import { ExitReason, exitName, IO_OUT, RunPage, SYNC_REGS } from "../../src/vmm/exit.ts";
import { resetState } from "../../src/vmm/cpu.ts";
import { MachineImage } from "../../src/vmm/image.ts";
import { type Case, FPU_SIZE, segmentAt, STATE, STATE_SIZE } from "./case.ts";
import { inLab } from "./lab.ts";
import { HANDLERS, MEMORY_SIZE, type Mode, MODES, template } from "./layout.ts";

/** Blocks of translated code after which a case ends: sequences have no loops that take more. */
const BLOCKS = 3000;
const NS_PER_BLOCK = 10;
/**
 * Where blocks can't be counted, a case is interrupted after each step of so many ns of the host's time:
 * it ends after so many steps, or as many in which its registers stay as they are. A step may go by without
 * the guest where the host is busy, so one doesn't do.
 */
const STEP_NS = inLab ? 2e7 : 2e6;
const STEPS = 12;
const STILL_STEPS = 3;
const PAGE = 4096;
/** In the run page: kvm_valid_regs, kvm_dirty_regs (low words), kvm_sync_regs. */
/** Of struct kvm_run: cr8. */
const RUN_CR8 = 16;
const DIRTY_WORD = 74;
const SYNC = 304;
const SYNC_EVENTS = SYNC + STATE_SIZE;
/** KVM_VCPUEVENT_VALID_NMI_PENDING and _SHADOW; at offset 20 of struct kvm_vcpu_events. */
const EVENTS_VALID = 5;
const EVENTS_FLAGS = 20;

export const HLT = 0xf4;
/** HLTs behind a sequence, bytes. */
export const TAIL = 16;
const SWAPGS = Buffer.of(0x0f, 0x01, 0xf8);

/** How a case ended. */
export const Ending = {
  /** HLT: of the sequence's end, of its own, or of an exception's handler. */
  HALT: 0,
  /** An exit that asks for an answer, or that ends machines. */
  EXIT: 1,
  /** The engine can't run an instruction. */
  NOT_RUN: 2,
  /** It went on for too long. */
  BUDGET: 3,
  /** The engine refused the state. */
  REFUSED: 4,
} as const;

export type Ending = (typeof Ending)[keyof typeof Ending];

export class Target implements Disposable {
  readonly engine: Engine;
  readonly image: MachineImage;
  readonly memory: Buffer;
  /** The same in words. */
  readonly memoryWords: Uint32Array;
  /** kvm_regs and kvm_sregs after the last case. */
  readonly state: Uint8Array;
  /** The same in words. */
  readonly words: Uint32Array;
  /** struct vmm_cpu after the last case, if that was deep. */
  readonly cpu: Uint8Array;
  ending: Ending = Ending.HALT;
  /** What the exit was; of EXIT and REFUSED. */
  what = "";
  readonly #templates = new Map<Mode, Uint8Array>(MODES.map((mode) => [mode, template(mode)]));
  readonly #handlers = template("long").subarray(HANDLERS, HANDLERS + 0x100);
  readonly #reset: Uint8Array;
  readonly #virtual: boolean;
  readonly #sync: Uint8Array;
  /** What isn't in kvm_regs and kvm_sregs may be other than after a reset. */
  #stale = true;
  #armed = false;
  /** General registers, RIP and RFLAGS after the last step. */
  readonly #before = new Uint32Array(STATE.segments / 4);

  constructor(name: EngineName, cpuid?: readonly CpuidLeaf[]) {
    this.image = new MachineImage([{ base: 0, size: MEMORY_SIZE, readonly: false }]);
    const probe = Engine.open(name, this.image);
    this.#virtual = probe.can(Capability.VIRTUAL_TIME);
    probe[Symbol.dispose]();
    const time = this.#virtual ? { virtual: true, nsPerBlock: NS_PER_BLOCK } : {};
    this.engine = Engine.open(name, this.image, time, { cpuid });
    const { engine, image } = this;
    if (!engine.can(Capability.SYNC_REGS)) {
      throw new EngineError(`engine ${name} brings no registers with exits, so can't be compared`);
    }
    const [memory] = image.memory.bytes(0, MEMORY_SIZE);
    this.memory = Buffer.from(memory.buffer, memory.byteOffset, MEMORY_SIZE);
    this.memoryWords = new Uint32Array(memory.buffer, memory.byteOffset, MEMORY_SIZE / 4);
    this.state = engine.run.u8.subarray(SYNC, SYNC + STATE_SIZE);
    this.words = new Uint32Array(this.state.buffer, SYNC, STATE_SIZE / 4);
    this.#sync = engine.run.u8.subarray(SYNC, SYNC_EVENTS + 64);
    engine.setCpu(resetState());
    this.cpu = engine.cpuBytes();
    this.#reset = this.cpu.slice();
    // FPU registers are in kvm_fpu, not in XSAVE's form.
    new DataView(this.#reset.buffer).setUint32(CPU_LAYOUT.xsaveSize, 0, true);
    engine.run.syncRegisters = SYNC_REGS.REGS | SYNC_REGS.SREGS | SYNC_REGS.EVENTS;
  }

  /**
   * Runs a case.
   * @param code instead of the case's own.
   */
  run(it: Case, code: Uint8Array = it.code): void {
    const { engine } = this;
    this.what = "";
    if (this.#virtual || it.deep || this.#stale) {
      // PAE's page-directory pointers are read as CR3 is set.
      if (!this.#virtual && it.mode === "pae") this.#load(it, code);
      this.cpu.set(this.#reset);
      this.cpu.set(it.state);
      if (it.deep) this.cpu.set(it.fpu, CPU_LAYOUT.fpu);
      try {
        engine.loadCpu();
      } catch (error) {
        this.ending = Ending.REFUSED;
        this.what = String(error);
        this.#stale = true;
        return;
      }
      this.#stale = it.deep || touchesMore(it, code);
    } else {
      this.#stale = touchesMore(it, code);
      const sync = this.#sync;
      sync.set(it.state);
      sync.fill(0, STATE_SIZE);
      sync[STATE_SIZE + EVENTS_FLAGS] = EVENTS_VALID;
      // KVM takes it from there, whatever the other registers say.
      engine.run.view.setBigUint64(RUN_CR8, stateCr8(it.state), true);
      engine.run.u32[DIRTY_WORD] = SYNC_REGS.REGS | SYNC_REGS.SREGS | SYNC_REGS.EVENTS;
    }
    // Last: what was under way may have been finished just now, and have written.
    this.#load(it, code);
    this.#enter();
    if (it.deep && this.ending === Ending.HALT) engine.saveCpu();
  }

  #load(it: Case, code: Uint8Array): void {
    const { memory } = this;
    const handlers = memory.subarray(HANDLERS, HANDLERS + 0x100);
    const intact = this.#virtual && Buffer.compare(handlers, this.#handlers) === 0;
    memory.set(this.#templates.get(it.mode)!);
    for (const { at, bytes } of it.patches) memory.set(bytes, at);
    memory.set(code, it.at);
    // What follows a sequence, or a part of one, ends it.
    memory.fill(HLT, it.at + code.length, it.at + it.code.length + TAIL);
    if (!this.#virtual) return;
    // Told once for all, as only translations go by it; those of the handlers stay.
    const { memory: guest } = this.image;
    if (intact) {
      guest.written(0, HANDLERS);
      guest.written(HANDLERS + PAGE, MEMORY_SIZE - HANDLERS - PAGE);
    } else guest.written(0, MEMORY_SIZE);
  }

  #enter(): void {
    const { engine } = this;
    const { run } = engine;
    let steps = 0;
    let still = 0;
    if (this.#virtual) engine.setDeadline(engine.now() + BLOCKS * NS_PER_BLOCK);
    for (;;) {
      if (!this.#virtual && !this.#armed) {
        engine.setDeadline(engine.now() + STEP_NS);
        this.#armed = true;
      }
      const result = engine.enter();
      if (result < 0) {
        this.ending = Ending.REFUSED;
        this.what = `errno ${-result}`;
        this.#stale = true;
        return;
      }
      if (run.reason !== ExitReason.INTR) break;
      this.#armed = false;
      still = this.#stays() ? still + 1 : 0;
      // A deadline stands over many cases, so the first to meet it may just have begun.
      if (this.#virtual || ++steps > STEPS || still === STILL_STEPS) {
        this.ending = Ending.BUDGET;
        return;
      }
    }
    this.#ended();
  }

  /** Whether the step that ends now has changed no register. */
  #stays(): boolean {
    const now = this.words.subarray(0, this.#before.length);
    const same = now.every((word, i) => word === this.#before[i]);
    this.#before.set(now);
    return same;
  }

  #ended(): void {
    const { run } = this.engine;
    switch (run.reason) {
      case ExitReason.HLT:
        this.ending = Ending.HALT;
        return;
      case ExitReason.INTERNAL_ERROR:
        this.ending = Ending.NOT_RUN;
        this.what = `internal error ${run.internalSuberror}`;
        break;
      default:
        this.ending = Ending.EXIT;
        this.what = exitText(run);
    }
    this.#stale = true;
  }

  /** Vector of the exception whose handler the case ended in; -1 for none. */
  get vector(): number {
    const view = new DataView(this.state.buffer, this.state.byteOffset, STATE_SIZE);
    const base = view.getUint32(segmentAt("cs"), true);
    const at = base + view.getUint32(STATE.rip, true) - 1 - HANDLERS;
    return at >= 0 && at < 0x100 ? at : -1;
  }

  get fpu(): Uint8Array {
    return this.cpu.subarray(CPU_LAYOUT.fpu, CPU_LAYOUT.fpu + FPU_SIZE);
  }

  [Symbol.dispose](): void {
    this.engine[Symbol.dispose]();
    this.image[Symbol.dispose]();
  }
}

function stateCr8(state: Uint8Array): bigint {
  return new DataView(state.buffer, state.byteOffset).getBigUint64(STATE.cr8, true);
}

/** SWAPGS changes an MSR; TF, and ICEBP, a debug register. */
function touchesMore(it: Case, code: Uint8Array): boolean {
  const stepped = (it.state[STATE.rflags + 1] & 1) !== 0;
  return (
    stepped ||
    code.includes(0xf1) ||
    Buffer.from(code.buffer, code.byteOffset, code.length).includes(SWAPGS)
  );
}

/** An exit with what the guest asks for in it: its first item. */
function exitText(run: RunPage): string {
  const name = exitName(run.reason);
  if (run.reason === ExitReason.IO) {
    const out = run.ioDirection === IO_OUT;
    const data = out ? ` ${run.u8.subarray(run.ioData, run.ioData + run.ioSize).toHex()}` : "";
    return `${out ? "out" : "in"} 0x${run.ioPort.toString(16)}/${run.ioSize}${data}`;
  }
  if (run.reason === ExitReason.MMIO) {
    const { mmioAddress, mmioLength, mmioIsWrite } = run;
    // 8 bytes are two exits where accesses have 4 at most.
    const size = Math.min(mmioLength, 4);
    const at = RunPage.MMIO_DATA;
    const data = mmioIsWrite ? ` ${run.u8.subarray(at, at + size).toHex()}` : "";
    return `${mmioIsWrite ? "write" : "read"} 0x${mmioAddress.toString(16)}/${size}${data}`;
  }
  if (run.reason === ExitReason.RDMSR) return `${name} 0x${run.msrIndex.toString(16)}`;
  if (run.reason === ExitReason.WRMSR) {
    return `${name} 0x${run.msrIndex.toString(16)} ${run.msrData.toString(16)}`;
  }
  return name;
}
