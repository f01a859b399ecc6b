/** Records a machine's exits, and all that its devices were fed, in a trace file. */
import type { Clock } from "../vmm/clock.ts";
import { Capability, type Engine } from "../vmm/engine.ts";
import { type RunPage, SYNC_REGS } from "../vmm/exit.ts";
import { TraceWriter } from "../vmm/trace.ts";
import type { GuestMemory } from "../vmm/memory.ts";
import type { ClassicMachine } from "./machine.ts";
import type { ExitObserver } from "./vcpu.ts";
import type { VcpuOptions } from "./vm.ts";

export class Recorder implements ExitObserver, Disposable {
  readonly #writer: TraceWriter;
  readonly #memory: GuestMemory;
  readonly #clock: Clock;
  readonly #registers: boolean;
  #exitedAt = 0;
  #reading = false;

  constructor(path: string, machine: ClassicMachine, engine: Engine, options: VcpuOptions) {
    const { epoch } = machine.options;
    this.#writer = new TraceWriter(path, { engine: engine.name, machine: { ...options, epoch } });
    this.#memory = machine.memory;
    this.#registers = engine.can(Capability.SYNC_REGS);
    if (this.#registers) engine.run.syncRegisters = SYNC_REGS.REGS;
    this.#clock = machine.clock;
    this.#memory.observeReads((address, length) => this.#read(address, length));
  }

  exited(): void {
    this.#exitedAt = Bun.nanoseconds();
  }

  answered(run: RunPage, now: number): void {
    const handled = Bun.nanoseconds() - this.#exitedAt;
    this.#writer.exit(run, now, handled, this.#registers ? run.rip : 0n);
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
