/**
 * The vCPU loop: run, decode, dispatch, answer. Nothing in it allocates, and nothing that a guest
 * does makes it throw.
 */
import type { Clock } from "../vmm/clock.ts";
import { Capability, type Engine } from "../vmm/engine.ts";
import { ExitReason, fatalExit, IO_OUT, RunPage } from "../vmm/exit.ts";
import { ignoreMsrWrite, readMsr } from "../vmm/msr.ts";
import type { MmioBus, PortBus } from "./bus.ts";
import type { MachineEvent, Size } from "./device.ts";

/** What the loop needs of a machine. */
export interface Hardware {
  readonly ports: PortBus;
  readonly mmio: MmioBus;
  readonly clock: Clock;
  readonly interrupts: InterruptController;
  /** Set by a device during an exit; the loop hands it out and clears it. */
  event: MachineEvent | undefined;
  /** Called when the guest is about to sleep, and at every kick. */
  idle(): void;
}

export interface InterruptController {
  /** The INTR output. */
  readonly pending: boolean;
  /** The interrupt acknowledge cycle; the vector. */
  acknowledge(): number;
}

/** Why the loop returned. */
export type Stop =
  | MachineEvent
  /** The guest halted with interrupts disabled: nothing can wake it. */
  | { kind: "halt" }
  /** `attention` was set. */
  | { kind: "attention" }
  /** A breakpoint that a debugger set was met, or a step is done. */
  | { kind: "debug" }
  /** The engine can't go on. */
  | { kind: "crash"; why: string };

/** Sees every exit, and what else reaches the guest. For recorders. */
export interface ExitObserver {
  /** The guest exited; devices have not run yet. */
  exited(run: RunPage): void;
  /** The exit is answered. */
  answered(run: RunPage, now: number): void;
  /** Timers that are due are about to run. */
  tick(now: number): void;
  interrupt(vector: number, now: number): void;
  /** Why it can see no more: a sentence that ends the run. */
  readonly failure?: string | undefined;
}

/**
 * Where a run that is to repeat lets in what comes from outside: only at places that another run of
 * it has, too. `attention` alone ends nothing then.
 */
export interface InputGate {
  /** Guest time, ns, at which a guest that runs is stopped for it. */
  readonly deadline: number;
  /** Such a place: the guest is between two instructions. What it returns ends the run. */
  admit(): Stop | undefined;
  /**
   * The guest sleeps.
   * @param deadline of its timers: guest time, ns, or Infinity.
   * @returns guest time, ns, at which it is looked at again, `deadline` at the latest.
   */
  sleep(deadline: number): number;
}

/** Virtual time that an exit takes, ns: about what hardware takes, so polling loops end as there. */
export const EXIT_TIME = 1000;

export class Vcpu {
  readonly #engine: Engine;
  readonly #hardware: Hardware;
  readonly #mmioData: Uint8Array;
  readonly #virtual: boolean;
  observer: ExitObserver | undefined;
  /** With virtual time only. */
  gate: InputGate | undefined;
  /** "attention" is returned after so many exits. */
  limit = Infinity;
  /**
   * ... or, with a gate, before the first block of code that the guest enters when it has run for so
   * long, ns. No exit is made for that.
   */
  stopAfter = Infinity;
  /** When the guest is to be stopped for its own timers, or the gate. */
  #due = Infinity;
  /** It was stopped for no exit: by `stopAfter`, or by the engine's breakBlocks. */
  stoppedEarly = false;
  /**
   * Not 0: another thread wants something. It is set before a kick; the loop then returns
   * "attention", and its caller clears it.
   */
  attention: Int32Array = new Int32Array(1);
  /** Exits so far. */
  exits = 0;
  /** The guest is halted; it goes on at an interrupt. */
  halted = false;

  /** @param virtualTime a halted guest's time jumps to the next deadline instead of passing. */
  constructor(engine: Engine, hardware: Hardware, virtualTime = false) {
    this.#engine = engine;
    this.#hardware = hardware;
    this.#virtual = virtualTime && engine.can(Capability.VIRTUAL_TIME);
    this.#mmioData = new Uint8Array(engine.run.buffer, RunPage.MMIO_DATA, 8);
  }

  /**
   * Runs the guest until something must be decided outside.
   * @param pending the engine made an exit already, which waits for its answer
   */
  run(pending = false): Stop {
    const engine = this.#engine;
    const hardware = this.#hardware;
    const { clock, interrupts } = hardware;
    const run = engine.run;
    // In real time a signal of the host's runtime does that, too, and says nothing.
    const early = this.gate !== undefined && this.#virtual;
    if (pending) {
      const stop = this.#exited(run);
      if (stop !== undefined) return stop;
    }
    if (this.#wanted) return { kind: "attention" };
    if (this.halted) {
      const stop = this.#sleep();
      if (stop !== undefined) return stop;
    }
    for (;;) {
      // What comes before an entry is done then.
      if (this.stoppedEarly) this.stoppedEarly = false;
      else if (interrupts.pending) {
        if (run.readyForInterrupt) this.#inject();
        run.requestInterruptWindow = interrupts.pending;
      } else {
        run.requestInterruptWindow = false;
      }
      if (clock.rearmed) {
        clock.rearmed = false;
        const { gate } = this;
        this.#due = gate === undefined ? clock.deadline : Math.min(clock.deadline, gate.deadline);
        const { stopAfter } = this;
        const stop = stopAfter === Infinity ? Infinity : engine.now() + stopAfter;
        engine.setDeadline(Math.min(this.#due, stop));
      }
      const result = engine.enter();
      if (early && run.reason === ExitReason.INTR && engine.now() < this.#due) {
        this.stoppedEarly = true;
        clock.rearmed = true;
        return { kind: "attention" };
      }
      if (result < 0) return { kind: "crash", why: `the engine failed with errno ${-result}` };
      const stop = this.#exited(run);
      if (stop !== undefined) return stop;
    }
  }

  /** Answers an exit. */
  #exited(run: RunPage): Stop | undefined {
    const { clock } = this.#hardware;
    clock.invalidate();
    this.exits++;
    if (this.#virtual) this.#engine.warp(EXIT_TIME);
    if (this.observer !== undefined) this.observer.exited(run);
    const stop = this.#answer(run);
    if (this.observer !== undefined) {
      this.observer.answered(run, clock.now);
      const { failure } = this.observer;
      if (failure !== undefined) return { kind: "crash", why: failure };
    }
    if (stop !== undefined) return stop;
    const { event } = this.#hardware;
    if (event !== undefined) {
      this.#hardware.event = undefined;
      return event;
    }
    return this.exits >= this.limit ? { kind: "attention" } : undefined;
  }

  /**
   * Runs one instruction, for a debugger, when the engine was told to step. No interrupt is taken
   * meanwhile. A halted guest waits for its interrupt first.
   */
  step(): Stop {
    const engine = this.#engine;
    const { clock } = this.#hardware;
    const run = engine.run;
    if (Atomics.load(this.attention, 0) !== 0) return { kind: "attention" };
    if (this.halted) {
      const stop = this.#sleep();
      if (stop !== undefined) return stop;
    }
    run.requestInterruptWindow = false;
    // A kick sets the run page's own flag, so that can't tell.
    let finishing = false;
    for (;;) {
      if (clock.rearmed) {
        clock.rearmed = false;
        engine.setDeadline(clock.deadline);
      }
      if (finishing) run.immediateExit = true;
      const result = engine.enter();
      if (finishing) run.immediateExit = false;
      clock.invalidate();
      if (result < 0) return { kind: "crash", why: `the engine failed with errno ${-result}` };
      this.exits++;
      if (this.#virtual) engine.warp(EXIT_TIME);
      switch (run.reason) {
        case ExitReason.DEBUG:
          return { kind: "debug" };
        case ExitReason.HLT:
          if (!run.interruptsEnabled) return { kind: "halt" };
          this.halted = true;
          return { kind: "debug" };
        case ExitReason.INTR:
          // What was answered is finished now, whether or not the engine calls that a step.
          if (finishing) return { kind: "debug" };
      }
      const stop = this.#answer(run) ?? this.#hardware.event;
      this.#hardware.event = undefined;
      if (stop !== undefined) return stop;
      finishing = run.reason !== ExitReason.INTR;
    }
  }

  #answer(run: RunPage): Stop | undefined {
    switch (run.reason) {
      case ExitReason.IO:
        this.#io(run);
        return undefined;
      case ExitReason.MMIO:
        this.#mmio(run);
        return undefined;
      case ExitReason.IRQ_WINDOW_OPEN:
        return undefined;
      case ExitReason.INTR:
        this.#tick();
        if (this.gate !== undefined) return this.gate.admit();
        return this.#wanted ? { kind: "attention" } : undefined;
      case ExitReason.HLT:
        return this.#halt(run);
      case ExitReason.SHUTDOWN:
        return { kind: "reset", by: "triple fault" };
      case ExitReason.DEBUG:
        return { kind: "debug" };
      case ExitReason.RDMSR: {
        const value = readMsr(run.msrIndex);
        run.msrError = value === undefined;
        run.msrData = value ?? 0n;
        return undefined;
      }
      case ExitReason.WRMSR:
        run.msrError = !ignoreMsrWrite(run.msrIndex);
        return undefined;
      default:
        return { kind: "crash", why: fatalExit(run) ?? "unknown exit" };
    }
  }

  /** Where it comes in at any exit. */
  get #wanted(): boolean {
    return this.gate === undefined && Atomics.load(this.attention, 0) !== 0;
  }

  #inject(): void {
    const vector = this.#hardware.interrupts.acknowledge();
    this.#engine.interrupt(vector);
    if (this.observer !== undefined) this.observer.interrupt(vector, this.#hardware.clock.now);
  }

  #io(run: RunPage): void {
    const ports = this.#hardware.ports;
    const port = run.ioPort;
    const size = run.ioSize as Size;
    let at = run.ioData;
    const out = run.ioDirection === IO_OUT;
    for (let count = run.ioCount; count > 0; count--, at += size) {
      if (out) ports.write(port, size, readValue(run, at, size));
      else writeValue(run, at, size, ports.read(port, size));
    }
  }

  #mmio(run: RunPage): void {
    const mmio = this.#hardware.mmio;
    if (run.mmioIsWrite) mmio.write(run.mmioAddress, this.#mmioData, run.mmioLength);
    else mmio.read(run.mmioAddress, this.#mmioData, run.mmioLength);
  }

  #tick(): void {
    const clock = this.#hardware.clock;
    if (this.observer !== undefined) this.observer.tick(clock.now);
    clock.expire();
    // An engine's deadline is spent when it has fired, even a little early.
    clock.rearmed = true;
    this.#hardware.idle();
  }

  #halt(run: RunPage): Stop | undefined {
    this.#hardware.idle();
    if (!run.interruptsEnabled) return { kind: "halt" };
    this.halted = true;
    return this.exits >= this.limit ? { kind: "attention" } : this.#sleep();
  }

  // Until an interrupt is there. A halted guest is no exit: attention may end this and run resume it.
  #sleep(): Stop | undefined {
    const { clock, interrupts } = this.#hardware;
    this.#tick();
    while (!interrupts.pending) {
      if (this.#wanted) return { kind: "attention" };
      const deadline = clock.deadline;
      if (this.gate !== undefined) {
        const until = this.gate.sleep(deadline);
        if (until > clock.now) this.#engine.warp(Math.ceil(until - clock.now));
        clock.invalidate();
        const stop = this.gate.admit();
        if (stop !== undefined) return stop;
      } else if (this.#virtual && deadline !== Infinity) this.#engine.warp(deadline - clock.now);
      else this.#engine.wait(deadline);
      clock.invalidate();
      this.#tick();
    }
    this.halted = false;
    return undefined;
  }
}

// Any alignment: the data of a string instruction lies item after item.
function readValue(run: RunPage, at: number, size: Size): number {
  if (size === 1) return run.u8[at];
  return size === 2 ? run.view.getUint16(at, true) : run.view.getUint32(at, true);
}

function writeValue(run: RunPage, at: number, size: Size, value: number): void {
  if (size === 1) run.u8[at] = value;
  else if (size === 2) run.view.setUint16(at, value, true);
  else run.view.setUint32(at, value, true);
}
