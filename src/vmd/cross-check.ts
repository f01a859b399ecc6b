/**
 * One guest on two engines, exit by exit, with the same answers: it stops at the first difference
 * and shows both sides.
 *
 * Interrupts are injected only where both engines are at an exit and ready for one, and time passes
 * by exits, so a run is the same on every engine. What the comparison leaves out, since the
 * architecture or KVM's interface leaves it open:
 *  - RFLAGS' arithmetic bits, which many instructions leave undefined;
 *  - hidden parts of null or unusable segments, and descriptors' accessed bits;
 *  - at OUT and at MMIO writes, whether RIP is at the instruction or behind it, and RSI, RDI and
 *    RCX of a string instruction before or behind the item: an exit of that kind is only done when
 *    the guest is entered again (KVM API, "kvm_run");
 *  - how many items of a string instruction, and how many bytes of an 8-byte access, one exit has.
 */
import { ManualTime } from "../vmm/clock.ts";
import { formatCpu } from "../vmm/cpu-codec.ts";
import type { EngineName } from "../vmm/engine.ts";
import { ExitReason, IO_OUT, type RunPage } from "../vmm/exit.ts";
import { ignoreMsrWrite, readMsr } from "../vmm/msr.ts";
import type { Boot } from "./boot/index.ts";
import type { Size } from "./device.ts";
import { compareRegisters, type Item, lateRip, Side } from "./side.ts";
import { ClassicMachine, type MachineOptions, memoryRanges } from "./machine.ts";
import { EXIT_TIME } from "./vcpu.ts";

export interface CrossCheckResult {
  /** Exits (items of string instructions each) that were equal. */
  equal: number;
  /** The first difference with both sides; undefined when the guest ended without one. */
  difference: string | undefined;
  /** How the guest ended, or why the check did. */
  ending: string;
  /** An engine could not go on, so nothing was found out about the rest. */
  failed: boolean;
}

export interface CrossCheckOptions extends MachineOptions {
  engines: readonly [EngineName, EngineName];
  /** Where firmware lies, if there is any. */
  rom: { base: number; size: number } | undefined;
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

class CrossCheck implements Disposable {
  readonly #a: Side;
  readonly #b: Side;
  readonly #machine: ClassicMachine;
  readonly #time = new ManualTime();
  #equal = 0;

  constructor(options: CrossCheckOptions) {
    const ranges = memoryRanges(options.memory, options.rom);
    this.#a = new Side(options.engines[0], ranges);
    this.#b = new Side(options.engines[1], ranges);
    const imageA = this.#a.image;
    const imageB = this.#b.image;
    const machine = new ClassicMachine(imageA, this.#time, options);
    this.#machine = machine;
    this.#time.clock = machine.clock;
    machine.reset();
    // What the loader and the devices write goes into both.
    imageA.memory.observeWrites((address, length) => {
      if (!imageA.memory.contains(address, length)) return;
      const bytes = new Uint8Array(length);
      imageA.memory.read(address, bytes);
      imageB.memory.write(address, bytes);
    });
    const boot = options.load(machine);
    if (boot.rom !== undefined) imageB.memory.placeRom(boot.rom.base, boot.rom.bytes);
    this.#a.engine.setCpu(boot.cpu);
    this.#b.engine.setCpu(boot.cpu);
  }

  run(limit: number): CrossCheckResult {
    while (this.#equal < limit) {
      this.#inject();
      const failure = this.#a.next() ?? this.#b.next();
      if (failure !== undefined) return { ...this.#end(failure), failed: true };
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
    return { equal: this.#equal, difference: undefined, ending, failed: false };
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

function littleEndian(bytes: Uint8Array): number {
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}
