/** Records a machine's exits, and all that its devices were fed, in a trace file. */
import type { Clock } from "../vmm/clock.ts";
import { Capability, type Engine } from "../vmm/engine.ts";
import { type RunPage, SYNC_REGS } from "../vmm/exit.ts";
import { TraceWriter } from "../vmm/trace-writer.ts";
import type { GuestMemory } from "../vmm/memory.ts";
import type { BootFile } from "./boot-files.ts";
import type { ClassicMachine } from "./machine.ts";
import type { ExitObserver } from "./vcpu.ts";
import type { VcpuOptions } from "./vm-options.ts";

/** Records one machine, over its resets. */
export class Recorder implements ExitObserver, Disposable {
  readonly #writer: TraceWriter;
  readonly #virtual: boolean;
  #memory!: GuestMemory;
  #clock!: Clock;
  #registers = false;
  #exitedAt = 0;
  #reading = false;

  /**
   * @param file as TraceWriter has it.
   * @param backed devices lead to the host: what comes from there isn't in the trace.
   * @throws TraceError
   */
  constructor(
    file: BootFile,
    machine: ClassicMachine,
    engine: Engine,
    options: VcpuOptions,
    backed = false,
  ) {
    this.#writer = new TraceWriter(file, {
      engine: engine.name,
      machine: described(options, machine.options.epoch, backed),
    });
    this.#virtual = options.virtualTime === true;
    this.#observe(machine, engine);
  }

  /** The machine started again, as these; they have not run yet. */
  reset(machine: ClassicMachine, engine: Engine): void {
    this.#memory.observeReads(undefined);
    this.#writer.reset(machine.options.epoch);
    this.#observe(machine, engine);
  }

  #observe(machine: ClassicMachine, engine: Engine): void {
    this.#memory = machine.memory;
    this.#registers = engine.can(Capability.SYNC_REGS);
    if (this.#registers) engine.run.syncRegisters = SYNC_REGS.REGS;
    this.#clock = machine.clock;
    this.#memory.observeReads((address, length) => this.#read(address, length));
  }

  /** Why the trace is not whole, in one sentence; nothing more is recorded then. */
  get failure(): string | undefined {
    return this.#writer.failure;
  }

  /** Everything so far goes into the file. */
  flush(): void {
    this.#writer.flush();
  }

  exited(): void {
    this.#exitedAt = Bun.nanoseconds();
  }

  answered(run: RunPage, now: number): void {
    // Recordings of runs that repeat are the same, so they tell no host time.
    const handled = this.#virtual ? 0 : Bun.nanoseconds() - this.#exitedAt;
    this.#writer.exit(run, now, handled, this.#registers);
  }

  tick(now: number): void {
    this.#writer.tick(now);
  }

  interrupt(vector: number, now: number): void {
    this.#writer.interrupt(vector, now);
  }

  input(bytes: Uint8Array, now: number): void {
    this.#writer.input(bytes, now);
  }

  /** The host asked the guest for something, by vmmci. */
  request(command: number, now: number): void {
    this.#writer.request(command, now);
  }

  #read(address: number, length: number): void {
    if (this.#reading) return;
    this.#reading = true;
    const data = new Uint8Array(length);
    this.#memory.read(address, data);
    this.#writer.memory(address, data, this.#clock.now);
    this.#reading = false;
  }

  [Symbol.dispose](): void {
    this.#memory.observeReads(undefined);
    this.#writer[Symbol.dispose]();
  }
}

/** What a machine can be made of again: nothing of this process or of this recording. */
function described(options: VcpuOptions, epoch: number, backed: boolean): Record<string, unknown> {
  const { name, kernel, initrd, cmdline, modules, memory, format, bits } = options;
  const { debugExit, virtualTime } = options;
  const files = { name, kernel, initrd, cmdline, modules, format, bits };
  return { ...files, memory, debugExit, virtualTime, epoch, ...(backed ? { backed } : {}) };
}
