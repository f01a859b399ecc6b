/** The main thread's side of the vCPU thread. */
import { kickEngine } from "../vmm/engine-library.ts";
import { ConsoleStream } from "./console-stream.ts";
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
import { type VcpuOptions, VmError } from "./vm-options.ts";

/** What a thread says when its guest is about to run. */
export type Running = Extract<FromVcpu, { kind: "running" }>;

/** What the vCPU thread was asked and hasn't answered. */
interface Question {
  message: ToVcpu;
  kind: string;
  resolve: (message: never) => void;
  reject: (error: VmError) => void;
}

/** The worker that runs the vCPU, across the guest's reboots, as the main thread sees it. */
export class VcpuWorker {
  readonly console: ConsoleStream;
  readonly debug = new ConsoleStream(() => {});
  readonly ended: Promise<Ending>;
  readonly #options: VcpuOptions;
  readonly #end: (ending: Ending) => void;
  readonly #waiting: Question[] = [];
  readonly #senders: (() => void)[] = [];
  #worker: Worker | undefined;
  #running: Running | undefined;
  #shared: Int32Array = new Int32Array(SHARED.WORDS);
  #stopping = false;
  #over = false;

  constructor(options: VcpuOptions) {
    this.#options = options;
    this.console = new ConsoleStream((bytes) => this.#input(bytes));
    const { promise, resolve } = Promise.withResolvers<Ending>();
    this.ended = promise;
    this.#end = resolve;
  }

  /** Starts a machine from its power-on state. */
  start(): Promise<Running> {
    const { promise, resolve, reject } = Promise.withResolvers<Running>();
    const shared = new SharedArrayBuffer(4 * SHARED.WORDS);
    this.#shared = new Int32Array(shared);
    const worker = new Worker(new URL("./vcpu-thread.ts", import.meta.url).href);
    this.#worker = worker;
    worker.onmessage = ({ data }: MessageEvent<FromVcpu>) => {
      if (data.kind === "running") {
        this.#running = data;
        resolve(data);
      } else if (data.kind === "failed") {
        this.#finish(crash(data.message));
        reject(new VmError(data.message));
      } else {
        this.#receive(data);
      }
    };
    worker.onerror = (event) => {
      const message = `${this.#options.name}: the vCPU thread failed: ${event.message}`;
      this.#finish(crash(message));
      reject(new VmError(message));
    };
    worker.postMessage({ ...this.#options, shared } satisfies VcpuThreadOptions);
    return promise;
  }

  /** Posts a message and makes the vCPU look at it. */
  tell(message: ToVcpu): void {
    if (this.#over) return;
    // First the count: the thread takes one off when it reads the message.
    Atomics.add(this.#shared, SHARED.ATTENTION, 1);
    this.#worker?.postMessage(message);
    this.#kick();
  }

  /** Stops the VM, also one that is just being reset. */
  stop(): void {
    this.#stopping = true;
    this.tell({ kind: "stop" });
  }

  async ask<K extends FromVcpu["kind"]>(
    message: ToVcpu,
    kind: K,
  ): Promise<Extract<FromVcpu, { kind: K }>> {
    if (this.#over) throw new VmError(`${this.#options.name} is not running`);
    const { promise, resolve, reject } = Promise.withResolvers<Extract<FromVcpu, { kind: K }>>();
    this.#waiting.push({ message, kind, resolve, reject });
    this.tell(message);
    return await promise;
  }

  #receive(message: FromVcpu): void {
    if (message.kind === "output" || message.kind === "debug") {
      const stream = message.kind === "output" ? this.console : this.debug;
      void this.#output(stream, message.bytes, this.#shared);
    } else if (message.kind === "room") {
      this.#hasRoom();
    } else if (message.kind === "ended") {
      void this.#ended(message.ending);
    } else {
      const index = this.#waiting.findIndex((waiter) => waiter.kind === message.kind);
      if (index >= 0) this.#waiting.splice(index, 1)[0].resolve(message as never);
    }
  }

  // Resolves when the guest has room for more.
  #input(bytes: Uint8Array): Promise<void> | undefined {
    const waiting = Atomics.add(this.#shared, SHARED.INPUT, bytes.length) + bytes.length;
    this.tell({ kind: "input", bytes });
    if (waiting < INPUT_LIMIT || this.#over) return undefined;
    return new Promise((resolve) => this.#senders.push(resolve));
  }

  #hasRoom(): void {
    for (const resolve of this.#senders.splice(0)) resolve();
  }

  async #output(stream: ConsoleStream, bytes: Uint8Array, shared: Int32Array): Promise<void> {
    await stream.push(bytes);
    const cost = bytes.length + MESSAGE_COST;
    const before = Atomics.sub(shared, SHARED.OUTPUT, cost);
    if (before < OUTPUT_LIMIT || before - cost >= OUTPUT_LIMIT) return;
    Atomics.notify(shared, SHARED.OUTPUT);
    this.#kick();
  }

  // The engine may be about to close: it then waits for kicks under way, and the next see that.
  #kick(): void {
    if (this.#running === undefined) return;
    Atomics.add(this.#shared, SHARED.KICKS, 1);
    if (Atomics.load(this.#shared, SHARED.CLOSED) === 0) {
      kickEngine(this.#running.engine, this.#running.handle);
    }
    Atomics.sub(this.#shared, SHARED.KICKS, 1);
  }

  async #ended(ending: Ending): Promise<void> {
    if (ending.kind !== "reset" || this.#options.reboot === false || this.#stopping) {
      this.#finish(ending);
      return;
    }
    this.#worker?.terminate();
    this.#running = undefined;
    const started = this.start();
    this.#hasRoom();
    // The old thread took these with it.
    for (const { message } of this.#waiting) this.tell(message);
    await started.catch(() => {});
  }

  #finish(ending: Ending): void {
    if (this.#over) return;
    this.#over = true;
    this.#running = undefined;
    for (const { reject } of this.#waiting) reject(new VmError(ending.message));
    this.#hasRoom();
    this.console.end();
    this.debug.end();
    // The thread has given back all it held; it ends itself a moment later.
    this.#worker?.addEventListener("close", () => this.#end(ending));
    this.#worker?.terminate();
  }
}

function crash(message: string): Ending {
  return { kind: "crash", code: 1, message, registers: "" };
}
