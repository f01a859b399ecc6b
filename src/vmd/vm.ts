/**
 * A virtual machine as a value: its vCPU runs in a thread of its own, and this object is what the
 * rest of a program holds.
 *
 * ```ts
 * await using vm = await Vm.start({ kernel: "vmlinuz", initrd: "initrd.gz", memory: "256M" });
 * await vm.console.expect("login:");
 * ```
 */
import { kickEngine, type EngineName } from "../vmm/engine-library.ts";
import type { EngineChoice } from "../vmm/select.ts";
import type { BootFormat } from "./boot/index.ts";
import { ConsoleStream } from "./console-stream.ts";
import { parseSize } from "./size.ts";

/** What to start. */
export interface VmOptions {
  /** For messages. Default "vm". */
  name?: string;
  /** Path of a kernel or firmware image. */
  kernel: string;
  /** Path of an initial RAM disk. */
  initrd?: string;
  /** Kernel command line. */
  cmdline?: string;
  /** Multiboot modules: paths, each perhaps with arguments after a space. */
  modules?: readonly string[];
  /** Bytes, or a size such as "512M". Default 512 MiB. */
  memory?: number | string;
  /** Default "auto": KVM where it runs guests, else Unicorn. */
  engine?: EngineChoice;
  /** How to load the kernel. Default "auto": by what the file is. */
  format?: BootFormat | "auto";
  /** Enter a kernel that has the choice in 32-bit mode. */
  bits?: 32 | 64;
  /** Port 0xf4 ends the VM with an exit code. Default false. */
  debugExit?: boolean;
  /** A guest's reset starts it again rather than ending it. Default true. */
  reboot?: boolean;
  /** Time that passes with executed code, so that runs repeat. Unicorn only. Default false. */
  virtualTime?: boolean;
  /** UTC at the start, in ms since 1970. Default now. */
  epoch?: number;
  /** Record every exit in this file. */
  traceExits?: string;
}

/** How a VM ended. */
export interface Ending {
  kind: "power-off" | "reset" | "exit" | "stopped" | "crash";
  /** What a process that ran the VM should exit with. */
  code: number;
  /** One sentence, for people. */
  message: string;
  /** The CPU's registers at the end, as text; empty when they could not be had. */
  registers: string;
}

/** Options with what has a default filled in. */
export interface VcpuOptions extends VmOptions {
  name: string;
  memory: number;
}

/** What the vCPU thread is told at its start. */
export interface VcpuThreadOptions extends VcpuOptions {
  /** 32-bit words, see SHARED. */
  shared: SharedArrayBuffer;
}

/** Words that both threads change. */
export const SHARED = {
  /** Messages to the vCPU thread that it has not read yet. */
  ATTENTION: 0,
  /** Bytes of output that have not been taken yet. */
  OUTPUT: 1,
  /** Kicks under way. */
  KICKS: 2,
  /** Not 0: the engine is about to close, or closed. */
  CLOSED: 3,
  WORDS: 4,
} as const;

/** Output that may wait for its reader, in bytes; then the guest's UART has to. */
export const OUTPUT_LIMIT = 2 ** 20;

/** Messages to the vCPU thread. */
export type ToVcpu =
  | { kind: "input"; bytes: Uint8Array }
  | { kind: "pause" }
  | { kind: "unpause" }
  | { kind: "registers" }
  | { kind: "statistics" }
  | { kind: "stop" };

/** Messages from it. */
export type FromVcpu =
  | { kind: "running"; engine: EngineName; handle: number; why: string; boot: string }
  | { kind: "output"; bytes: Uint8Array }
  | { kind: "debug"; bytes: Uint8Array }
  | { kind: "registers"; text: string }
  | { kind: "statistics"; statistics: VmStatistics }
  | { kind: "ended"; ending: Ending }
  | { kind: "failed"; message: string };

/** What a running VM costs and does. */
export interface VmStatistics {
  /** Guest time, ns. */
  now: number;
  /** Bytes of host memory behind the machine image. */
  resident: number;
  /** Exits so far. */
  exits: number;
}

/** Default RAM, bytes; as vmd's. */
const DEFAULT_MEMORY = 512 * 2 ** 20;

/** A VM could not be started; the message is one sentence for the user. */
export class VmError extends Error {
  override name = "VmError";
}

export class Vm implements AsyncDisposable {
  readonly name: string;
  /** The first serial port. */
  readonly console: ConsoleStream;
  /** What firmware writes to the debug ports 0x402 and 0xe9; takes no input. */
  readonly debug: ConsoleStream;
  /** Resolves when the VM is gone. Never rejects. */
  readonly ended: Promise<Ending>;
  /** What is in use, and why not a better one. */
  readonly engine: EngineName;
  readonly engineReason: string;
  /** What was booted. */
  readonly boot: string;
  readonly #thread: VcpuThread;

  private constructor(name: string, thread: VcpuThread, running: Running) {
    this.name = name;
    this.console = thread.console;
    this.debug = thread.debug;
    this.ended = thread.ended;
    this.engine = running.engine;
    this.engineReason = running.why;
    this.boot = running.boot;
    this.#thread = thread;
  }

  /**
   * Starts a VM; resolves when its first instruction is about to run.
   * @throws VmError with a sentence when a file, a size or the host won't do.
   */
  static async start(options: VmOptions): Promise<Vm> {
    const name = options.name ?? "vm";
    const thread = new VcpuThread({ ...options, name, memory: memorySize(options.memory) });
    const running = await thread.start();
    return new Vm(name, thread, running);
  }

  /** Stops the vCPU at once and gives back everything. */
  async stop(): Promise<Ending> {
    this.#thread.stop();
    return await this.ended;
  }

  /** The guest doesn't run until unpause; its clock goes on. */
  pause(): void {
    this.#thread.tell({ kind: "pause" });
  }

  unpause(): void {
    this.#thread.tell({ kind: "unpause" });
  }

  /** The CPU's registers as text. */
  async registers(): Promise<string> {
    return (await this.#thread.ask({ kind: "registers" }, "registers")).text;
  }

  async statistics(): Promise<VmStatistics> {
    return (await this.#thread.ask({ kind: "statistics" }, "statistics")).statistics;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

type Running = Extract<FromVcpu, { kind: "running" }>;

/** What the vCPU thread was asked and hasn't answered. */
interface Question {
  message: ToVcpu;
  kind: string;
  resolve: (message: never) => void;
  reject: (error: VmError) => void;
}

/** The worker that runs the vCPU, across the guest's reboots. */
class VcpuThread {
  readonly console: ConsoleStream;
  readonly debug = new ConsoleStream(() => {});
  readonly ended: Promise<Ending>;
  readonly #options: VcpuOptions;
  readonly #end: (ending: Ending) => void;
  readonly #waiting: Question[] = [];
  #worker: Worker | undefined;
  #running: Running | undefined;
  #shared: Int32Array = new Int32Array(SHARED.WORDS);
  #stopping = false;
  #over = false;

  constructor(options: VcpuOptions) {
    this.#options = options;
    this.console = new ConsoleStream((bytes) => this.tell({ kind: "input", bytes }));
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
    this.#worker?.postMessage(message);
    Atomics.add(this.#shared, SHARED.ATTENTION, 1);
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
    if (message.kind === "output") {
      void this.#output(message.bytes, this.#shared);
    } else if (message.kind === "debug") {
      this.debug.push(message.bytes);
    } else if (message.kind === "ended") {
      void this.#ended(message.ending);
    } else {
      const index = this.#waiting.findIndex((waiter) => waiter.kind === message.kind);
      if (index >= 0) this.#waiting.splice(index, 1)[0].resolve(message as never);
    }
  }

  async #output(bytes: Uint8Array, shared: Int32Array): Promise<void> {
    await this.console.push(bytes);
    const before = Atomics.sub(shared, SHARED.OUTPUT, bytes.length);
    if (before >= OUTPUT_LIMIT && before - bytes.length < OUTPUT_LIMIT) this.#kick();
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
    // The old thread took these with it.
    for (const { message } of this.#waiting) this.tell(message);
    await started.catch(() => {});
  }

  #finish(ending: Ending): void {
    if (this.#over) return;
    this.#over = true;
    this.#running = undefined;
    this.#worker?.terminate();
    for (const { reject } of this.#waiting) reject(new VmError(ending.message));
    this.console.end();
    this.debug.end();
    this.#end(ending);
  }
}

function crash(message: string): Ending {
  return { kind: "crash", code: 1, message, registers: "" };
}

function memorySize(memory: number | string | undefined): number {
  if (memory === undefined) return DEFAULT_MEMORY;
  return typeof memory === "number" ? memory : parseSize(memory);
}
