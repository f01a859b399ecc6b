/**
 * A virtual machine as a value: its vCPU runs in a thread of its own, and this object is what the
 * rest of a program holds.
 *
 * ```ts
 * await using vm = await Vm.start({ kernel: "vmlinuz", initrd: "initrd.gz", memory: "256M" });
 * await vm.console.expect("login:");
 * ```
 */
import type { EngineName } from "../vmm/engine-library.ts";
import type { ConsoleStream } from "./console-stream.ts";
import type { Ending, VmStatistics } from "./vcpu-messages.ts";
import { type Running, VcpuWorker } from "./vcpu-worker.ts";
import { checkVmOptions, type VmOptions } from "./vm-options.ts";

export type { Ending, VmStatistics } from "./vcpu-messages.ts";
export { type VcpuOptions, VmError, type VmOptions } from "./vm-options.ts";

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
  readonly #worker: VcpuWorker;

  private constructor(name: string, worker: VcpuWorker, running: Running) {
    this.name = name;
    this.console = worker.console;
    this.debug = worker.debug;
    this.ended = worker.ended;
    this.engine = running.engine;
    this.engineReason = running.why;
    this.boot = running.boot;
    this.#worker = worker;
  }

  /**
   * Starts a VM; resolves when its first instruction is about to run.
   * @throws VmError with a sentence when a file, a size or the host won't do.
   */
  static async start(options: VmOptions): Promise<Vm> {
    const checked = checkVmOptions(options);
    const worker = new VcpuWorker(checked);
    const running = await worker.start();
    return new Vm(checked.name, worker, running);
  }

  /** Stops the vCPU at once and gives back everything. */
  async stop(): Promise<Ending> {
    this.#worker.stop();
    return await this.ended;
  }

  /** The guest doesn't run until unpause; its clock goes on. */
  pause(): void {
    this.#worker.tell({ kind: "pause" });
  }

  unpause(): void {
    this.#worker.tell({ kind: "unpause" });
  }

  /** The CPU's registers as text. */
  async registers(): Promise<string> {
    return (await this.#worker.ask({ kind: "registers" }, "registers")).text;
  }

  async statistics(): Promise<VmStatistics> {
    return (await this.#worker.ask({ kind: "statistics" }, "statistics")).statistics;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
