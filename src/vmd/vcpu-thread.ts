/**
 * The vCPU thread: a worker that makes one machine from its power-on state, runs it, and posts how
 * it ended. What the rest of the process wants of it arrives as messages; a kick and the attention
 * counter make the loop look.
 */
import { formatCpu } from "../vmm/cpu-codec.ts";
import { Engine, EngineError } from "../vmm/engine.ts";
import { exitName } from "../vmm/exit.ts";
import { MachineImage } from "../vmm/image.ts";
import { NativeError } from "../vmm/native.ts";
import { selectEngine } from "../vmm/select.ts";
import { TraceError } from "../vmm/trace.ts";
import { BootError } from "./boot/index.ts";
import { BootFiles, FileError } from "./boot-files.ts";
import { ClassicMachine, memoryRanges } from "./machine.ts";
import { Recorder } from "./recorder.ts";
import { Vcpu, type Stop } from "./vcpu.ts";
import {
  type Ending,
  type FromVcpu,
  INPUT_LIMIT,
  MESSAGE_COST,
  OUTPUT_LIMIT,
  SHARED,
  type ToVcpu,
  type VcpuThreadOptions,
} from "./vcpu-messages.ts";

declare const self: Worker;

function post(message: FromVcpu): void {
  self.postMessage(message);
}

class VcpuThread {
  readonly #options: VcpuThreadOptions;
  readonly #shared: Int32Array;
  readonly #mail: ToVcpu[] = [];
  #wake: (() => void) | undefined;
  #paused = false;

  constructor(options: VcpuThreadOptions) {
    this.#options = options;
    this.#shared = new Int32Array(options.shared);
  }

  receive(message: ToVcpu): void {
    this.#mail.push(message);
    this.#wake?.();
  }

  /** Runs the machine to its end. Everything it held is given back when this resolves. */
  async run(): Promise<Ending> {
    const options = this.#options;
    const time = { virtual: options.virtualTime };
    const { engine: engineName, why } = selectEngine(options.engine);
    using files = new BootFiles(options);
    using image = new MachineImage(memoryRanges(options.memory, files.rom));
    using engine = Engine.open(engineName, image, time);
    // Disposed of before the engine is: no kick may find it closed.
    using _ = { [Symbol.dispose]: () => this.#endKicks() };
    const machine = new ClassicMachine(image, engine, {
      memory: options.memory,
      epoch: options.epoch,
      debugExit: options.debugExit ?? false,
      output: (bytes) => this.#emit("output", bytes),
      outputBlocked: () => Atomics.load(this.#shared, SHARED.OUTPUT) >= OUTPUT_LIMIT,
      inputTaken: (bytes) => this.#taken(bytes),
      debug: (bytes) => {
        this.#emit("debug", bytes);
        this.#waitForReader();
      },
    });
    machine.reset();
    const boot = files.load(machine);
    files[Symbol.dispose]();
    engine.setCpu(boot.cpu);
    Bun.gc(true);
    const vcpu = new Vcpu(engine, machine, options.virtualTime);
    vcpu.attention = this.#shared;
    using recorder =
      options.traceExits === undefined
        ? undefined
        : new Recorder(options.traceExits, machine, engine, options);
    vcpu.observer = recorder;
    post({
      kind: "running",
      engine: engineName,
      handle: engine.handle,
      why,
      boot: boot.description,
    });
    for (;;) {
      const stop = vcpu.run();
      if (stop.kind !== "attention") {
        machine.flush();
        recorder?.flush();
        const why = recorder?.failure;
        return this.#ending(why === undefined ? stop : { kind: "crash", why }, engine);
      }
      do {
        await this.#mailArrived();
        for (let message = this.#mail.shift(); message; message = this.#mail.shift()) {
          Atomics.sub(this.#shared, SHARED.ATTENTION, 1);
          if (message.kind === "input") {
            recorder?.input(message.bytes, machine.clock.now);
            machine.console.input(message.bytes);
            machine.idle();
          } else if (message.kind === "stop") {
            machine.flush();
            recorder?.flush();
            const why = recorder?.failure;
            if (why !== undefined) return this.#ending({ kind: "crash", why }, engine);
            return stopped(this.#options.name);
          } else if (message.kind === "registers") {
            post({ kind: "registers", text: registers(engine) });
          } else if (message.kind === "statistics") {
            const { now } = machine.clock;
            const statistics = { now, resident: image.resident, exits: vcpu.exits };
            post({ kind: "statistics", statistics });
          } else {
            this.#paused = message.kind === "pause";
          }
        }
      } while (this.#paused);
    }
  }

  #emit(kind: "output" | "debug", bytes: Uint8Array): void {
    Atomics.add(this.#shared, SHARED.OUTPUT, bytes.length + MESSAGE_COST);
    post({ kind, bytes });
  }

  // A debug port has no way to make the guest wait, so its vCPU does.
  #waitForReader(): void {
    for (;;) {
      const waiting = Atomics.load(this.#shared, SHARED.OUTPUT);
      if (waiting < OUTPUT_LIMIT || Atomics.load(this.#shared, SHARED.ATTENTION) !== 0) return;
      Atomics.wait(this.#shared, SHARED.OUTPUT, waiting, 100);
    }
  }

  #taken(bytes: number): void {
    const before = Atomics.sub(this.#shared, SHARED.INPUT, bytes);
    if (before >= INPUT_LIMIT && before - bytes < INPUT_LIMIT) post({ kind: "room" });
  }

  #endKicks(): void {
    Atomics.store(this.#shared, SHARED.CLOSED, 1);
    while (Atomics.load(this.#shared, SHARED.KICKS) !== 0);
  }

  async #mailArrived(): Promise<void> {
    if (this.#mail.length > 0) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = undefined;
  }

  #ending(stop: Exclude<Stop, { kind: "attention" }>, engine: Engine): Ending {
    const { name } = this.#options;
    const text = registers(engine);
    const end = (kind: Ending["kind"], code: number, message: string): Ending => ({
      kind,
      code,
      message: `${name}: ${message}`,
      registers: text,
    });
    switch (stop.kind) {
      case "halt":
      case "power-off":
        return end("power-off", 0, stop.kind === "halt" ? "the guest halted" : "powered off");
      case "exit":
        return end("exit", stop.code, `the guest ended with code ${stop.code}`);
      case "reset":
        if (stop.by === "triple fault" && this.#options.reboot === false) {
          return end("crash", 1, `triple fault at ${where(text)}`);
        }
        return end("reset", 0, `the guest reset its machine (${stop.by})`);
      case "crash":
        return end("crash", 1, `${stop.why}, at ${where(text)} (${exitName(engine.run.reason)})`);
    }
  }
}

function stopped(name: string): Ending {
  return { kind: "stopped", code: 0, message: `${name}: stopped`, registers: "" };
}

// A crashed engine may not have registers to give.
function registers(engine: Engine): string {
  try {
    return formatCpu(engine.getCpu());
  } catch (error) {
    if (error instanceof NativeError) return "";
    throw error;
  }
}

function where(text: string): string {
  const rip = /rip\s+([0-9a-f]+)/.exec(text);
  return rip === null ? "an unknown RIP" : `RIP 0x${rip[1].replace(/^0+(?=.)/, "")}`;
}

let thread: VcpuThread | undefined;

self.onmessage = ({ data }: MessageEvent<VcpuThreadOptions | ToVcpu>) => {
  if (thread !== undefined) {
    thread.receive(data as ToVcpu);
    return;
  }
  const options = data as VcpuThreadOptions;
  thread = new VcpuThread(options);
  const end = (ending: Ending) => post({ kind: "ended", ending });
  thread.run().then(end, (error: Error) => {
    const expected =
      error instanceof FileError ||
      error instanceof BootError ||
      error instanceof EngineError ||
      error instanceof TraceError ||
      error instanceof NativeError;
    const text = expected ? error.message : `internal error: ${error.stack ?? error}`;
    post({ kind: "failed", message: `${options.name}: ${text}` });
  });
};
