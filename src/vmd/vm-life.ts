/**
 * One life of a machine, from its power-on to its end or its next reset: engine, image, chips and
 * what they boot. All of it is given back when it is disposed of.
 */
import { formatCpu } from "../vmm/cpu-codec.ts";
import { Engine, type EngineName } from "../vmm/engine.ts";
import { exitName } from "../vmm/exit.ts";
import { MachineImage } from "../vmm/image.ts";
import { NativeError } from "../vmm/native.ts";
import { BootFiles, type BootSet } from "./boot-files.ts";
import { ClassicMachine, type MachineOptions, memoryRanges } from "./machine.ts";
import { type Stop, Vcpu } from "./vcpu.ts";
import type { Ending } from "./vm-messages.ts";
import type { VcpuOptions } from "./vm-options.ts";

export class VmLife implements Disposable {
  readonly image: MachineImage;
  readonly engine: Engine;
  readonly machine: ClassicMachine;
  readonly vcpu: Vcpu;
  /** What was booted. */
  readonly description: string;
  readonly #options: VcpuOptions;
  readonly #stack = new DisposableStack();

  /** @throws FileError, BootError, EngineError, NativeError */
  constructor(
    engineName: EngineName,
    options: VcpuOptions,
    set: BootSet,
    host: Omit<MachineOptions, "memory" | "epoch" | "debugExit">,
  ) {
    this.#options = options;
    using stack = new DisposableStack();
    using files = new BootFiles(options, set);
    this.image = stack.use(new MachineImage(memoryRanges(options.memory, files.rom)));
    this.engine = stack.use(Engine.open(engineName, this.image, { virtual: options.virtualTime }));
    this.machine = new ClassicMachine(this.image, this.engine, {
      memory: options.memory,
      epoch: options.epoch,
      debugExit: options.debugExit ?? false,
      bootDevice: options.bootDevice,
      ...host,
    });
    this.machine.reset();
    const boot = files.load(this.machine);
    this.engine.setCpu(boot.cpu);
    this.description = boot.description;
    this.vcpu = new Vcpu(this.engine, this.machine, options.virtualTime);
    this.#stack = stack.move();
  }

  /** How a stop that isn't attention ends the VM. */
  ending(stop: Exclude<Stop, { kind: "attention" | "debug" }>): Ending {
    const { name } = this.#options;
    const text = this.registers();
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
      case "crash": {
        const reason = exitName(this.engine.run.reason);
        return end("crash", 1, `${stop.why}, at ${where(text)} (${reason})`);
      }
    }
  }

  /** The CPU's registers as text. A crashed engine may not have any to give. */
  registers(): string {
    try {
      return formatCpu(this.engine.getCpu());
    } catch (error) {
      if (error instanceof NativeError) return "";
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

function where(text: string): string {
  const rip = /rip\s+([0-9a-f]+)/.exec(text);
  return rip === null ? "an unknown RIP" : `RIP 0x${rip[1].replace(/^0+(?=.)/, "")}`;
}
