/**
 * One guest on two engines, exit by exit, with the same answers: it stops at the first difference
 * and shows both sides.
 *
 * Interrupts are injected only where both engines are at an exit and ready for one, and time passes
 * by exits, so a run is the same on every engine. What the comparison leaves out, since the
 * architecture or KVM's interface leaves it open:
 *  - RFLAGS' arithmetic bits, which many instructions leave undefined;
 *  - hidden parts of null or unusable segments, and descriptors' accessed bits;
 *  - at OUT and at MMIO writes, whether RIP is at the instruction or behind it: an exit of that
 *    kind is only done when the guest is entered again (KVM API, "kvm_run");
 *  - how many items of a string instruction, and how many bytes of an 8-byte access, one exit has.
 */
import { ManualTime } from "../vmm/clock.ts";
import { type CpuState, GENERAL_REGISTERS, type Segment } from "../vmm/cpu.ts";
import { decodeCpu, formatCpu } from "../vmm/cpu-codec.ts";
import { Capability, Engine, EngineError, type EngineName } from "../vmm/engine.ts";
import { ExitReason, exitName, fatalExit, IO_OUT, RunPage, SYNC_REGS } from "../vmm/exit.ts";
import { MachineImage } from "../vmm/image.ts";
import { ignoreMsrWrite, readMsr } from "../vmm/msr.ts";
import type { Boot } from "./boot/index.ts";
import type { Size } from "./device.ts";
import { ClassicMachine, type MachineOptions, memoryRanges } from "./machine.ts";

/** Guest time that an exit takes, ns. */
const EXIT_TIME = 1000;
/** How long a guest may run without an exit, ns. */
const PATIENCE = 2e9;
/** The longest x86 instruction, bytes. */
const LONGEST_INSTRUCTION = 15;
// RFLAGS: TF 8, IF 9, DF 10, IOPL 12 13, NT 14, VM 17, AC 18.
const SYSTEM_FLAGS = 0x67700;
const CONTROL = ["cr0", "cr3", "cr4", "efer"] as const;
const SEGMENT_NAMES = ["cs", "ss", "ds", "es", "fs", "gs", "tr"] as const;

export interface CrossCheckResult {
  /** Exits (items of string instructions each) that were equal. */
  equal: number;
  /** The first difference with both sides; undefined when the guest ended without one. */
  difference: string | undefined;
  /** How the guest ended, or why the check did. */
  ending: string;
}

export interface CrossCheckOptions extends MachineOptions {
  engines: readonly [EngineName, EngineName];
  /** Bytes of ROM below 4 GiB. */
  rom: number;
  /** Puts the guest into memory; called once, the second engine gets a copy. */
  load: (machine: ClassicMachine) => Boot;
  /** Ends the check after this many equal exits. Default: never. */
  limit?: number;
}

/** @throws EngineError when one of the engines can't be had. */
export function crossCheck(options: CrossCheckOptions): CrossCheckResult {
  using check = new CrossCheck(options);
  return check.run(options.limit ?? Infinity);
}

/** One item of an exit, as both engines must show it. */
interface Item {
  what: string;
  reason: number;
  /** Data that the guest gave; compared. */
  out: string;
}

class Side implements Disposable {
  readonly image: MachineImage;
  readonly engine: Engine;
  #item = 0;
  #items = 0;

  constructor(name: EngineName, image: MachineImage) {
    this.image = image;
    this.engine = Engine.open(name, image);
    if (!this.engine.can(Capability.SYNC_REGS)) {
      throw new EngineError(`engine ${name} brings no registers with exits, so can't be compared`);
    }
    this.engine.run.syncRegisters = SYNC_REGS.REGS | SYNC_REGS.SREGS;
  }

  /** The next item; enters the guest when the exit at hand has no more. @returns a failure. */
  next(): string | undefined {
    if (++this.#item < this.#items) return undefined;
    const { engine } = this;
    const { run } = engine;
    const limit = engine.now() + PATIENCE;
    do {
      engine.setDeadline(limit);
      const result = engine.enter();
      if (result < 0) return `engine ${engine.name} failed with errno ${-result}`;
      if (engine.now() > limit) {
        return `the guest ran ${PATIENCE / 1e9} s on engine ${engine.name} without an exit`;
      }
    } while (run.reason === ExitReason.INTR);
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

class CrossCheck implements Disposable {
  readonly #a: Side;
  readonly #b: Side;
  readonly #machine: ClassicMachine;
  readonly #time = new ManualTime();
  #equal = 0;

  constructor(options: CrossCheckOptions) {
    const ranges = memoryRanges(options.memory, options.rom);
    const imageA = new MachineImage(ranges);
    this.#a = new Side(options.engines[0], imageA);
    const machine = new ClassicMachine(imageA, this.#time, options);
    this.#machine = machine;
    this.#time.clock = machine.clock;
    machine.reset();

    const imageB = new MachineImage(ranges);
    this.#b = new Side(options.engines[1], imageB);
    // What the loader and the devices write goes into both.
    imageA.memory.observeWrites((address, length) => {
      if (!imageA.memory.contains(address, length)) return;
      const bytes = new Uint8Array(length);
      imageA.memory.read(address, bytes);
      imageB.memory.write(address, bytes);
    });
    const boot = options.load(machine);
    if (boot.rom !== undefined) {
      imageA.memory.placeRom(boot.rom.base, boot.rom.bytes);
      imageB.memory.placeRom(boot.rom.base, boot.rom.bytes);
    }
    this.#a.engine.setCpu(boot.cpu);
    this.#b.engine.setCpu(boot.cpu);
  }

  run(limit: number): CrossCheckResult {
    while (this.#equal < limit) {
      this.#inject();
      const failure = this.#a.next() ?? this.#b.next();
      if (failure !== undefined) return this.#end(failure);
      const difference = this.#compare();
      if (difference !== undefined) return { ...this.#end("a difference"), difference };
      this.#equal++;
      this.#time.time += EXIT_TIME;
      const ending = this.#answer();
      if (ending !== undefined) return this.#end(ending);
      this.#machine.clock.expire();
      this.#machine.idle();
    }
    return this.#end(`${limit} exits were compared`);
  }

  #end(ending: string): CrossCheckResult {
    this.#machine.flush();
    return { equal: this.#equal, difference: undefined, ending };
  }

  #inject(): void {
    const { interrupts } = this.#machine;
    const a = this.#a.engine;
    const b = this.#b.engine;
    if (!this.#a.last || !this.#b.last) return;
    if (interrupts.pending && a.run.readyForInterrupt && b.run.readyForInterrupt) {
      const vector = interrupts.acknowledge();
      a.interrupt(vector);
      b.interrupt(vector);
    }
    a.run.requestInterruptWindow = interrupts.pending;
    b.run.requestInterruptWindow = interrupts.pending;
  }

  #compare(): string | undefined {
    const a = this.#a.item;
    const b = this.#b.item;
    const same = a.what === b.what && a.out === b.out;
    const registers =
      same && this.#a.whole && this.#b.whole
        ? compareRegisters(this.#a.registers, this.#b.registers, lateRip(this.#a.engine.run))
        : [];
    if (same && registers.length === 0) return undefined;
    const side = ({ engine, registers: state }: Side, item: Item) =>
      `${engine.name}: ${item.what} ${item.out}\n${formatCpu(state)}`;
    const differs = same ? `registers differ: ${registers.join(", ")}` : "the exits differ";
    return `exit ${this.#equal}: ${differs}\n${side(this.#a, a)}\n${side(this.#b, b)}`;
  }

  #answer(): string | undefined {
    const a = this.#a;
    const b = this.#b;
    const { run } = a.engine;
    const machine = this.#machine;
    switch (run.reason) {
      case ExitReason.IO:
        if (run.ioDirection === IO_OUT) {
          machine.ports.write(run.ioPort, run.ioSize as Size, littleEndian(a.data));
        } else {
          const value = machine.ports.read(run.ioPort, run.ioSize as Size);
          for (const side of [a, b]) {
            for (let i = 0; i < run.ioSize; i++) side.data[i] = value >>> (8 * i);
          }
        }
        break;
      case ExitReason.MMIO: {
        const data = new Uint8Array(8);
        data.set(a.data);
        if (run.mmioIsWrite) machine.mmio.write(a.address, data, a.size);
        else {
          machine.mmio.read(a.address, data, a.size);
          for (const side of [a, b]) side.data.set(data.subarray(0, a.size));
        }
        break;
      }
      case ExitReason.RDMSR:
        for (const { engine } of [a, b]) {
          const value = readMsr(run.msrIndex);
          engine.run.msrError = value === undefined;
          engine.run.msrData = value ?? 0n;
        }
        break;
      case ExitReason.WRMSR:
        for (const { engine } of [a, b]) engine.run.msrError = !ignoreMsrWrite(run.msrIndex);
        break;
      case ExitReason.SHUTDOWN:
        return "the guest ended by a triple fault";
      case ExitReason.HLT:
        return this.#halt(run);
    }
    const { event } = machine;
    if (event === undefined) return undefined;
    return event.kind === "exit"
      ? `the guest ended with code ${event.code}`
      : `the guest ended: ${event.kind}`;
  }

  #halt(run: RunPage): string | undefined {
    const { clock, interrupts } = this.#machine;
    if (!run.interruptsEnabled) return "the guest halted";
    while (!interrupts.pending) {
      const { deadline } = clock;
      if (deadline === Infinity) return "the guest halted with no timer armed";
      this.#time.time = Math.max(Math.ceil(deadline), this.#time.time + 1);
      clock.expire();
    }
    return undefined;
  }

  [Symbol.dispose](): void {
    this.#a[Symbol.dispose]();
    this.#b[Symbol.dispose]();
  }
}

// Exits at which RIP may be at the instruction or behind it.
function lateRip(run: RunPage): boolean {
  if (run.reason === ExitReason.IO) return run.ioDirection === IO_OUT;
  return run.reason === ExitReason.MMIO && run.mmioIsWrite;
}

function littleEndian(bytes: Uint8Array): number {
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}

/** Names of the registers that differ. */
export function compareRegisters(a: CpuState, b: CpuState, late: boolean): string[] {
  const different: string[] = [];
  for (const name of GENERAL_REGISTERS) {
    if (name === "rflags") {
      if (((a.rflags ^ b.rflags) & SYSTEM_FLAGS) !== 0) different.push(name);
    } else if (name === "rip" && late) {
      if (Math.abs(a.rip - b.rip) > LONGEST_INSTRUCTION) different.push(name);
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
