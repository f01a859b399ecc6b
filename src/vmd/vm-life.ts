/**
 * One life of a machine, from its power-on to its end or its next reset: engine, image, chips and
 * what they boot. All of it is given back when it is disposed of.
 */
import type { CpuidLeaf } from "../vmm/cpuid.ts";
import { formatCpuBytes } from "../vmm/cpu-codec.ts";
import { DirtyLog } from "../vmm/dirty-log.ts";
import { Engine, type EngineName } from "../vmm/engine.ts";
import { exitName } from "../vmm/exit.ts";
import { MachineImage } from "../vmm/image.ts";
import { NativeError } from "../vmm/native.ts";
import { SnapshotError } from "../vmm/snapshot/format.ts";
import type { BootSet } from "./boot-files.ts";
import { BootFiles } from "./boot-load.ts";
import { ClassicMachine, type MachineOptions, memoryRanges } from "./machine.ts";
import { applyBlocks } from "../vmm/snapshot/blocks.ts";
import { applyClock, applyCpu } from "./snapshot/cpu-record.ts";
import { type LoadedState, loadSnapshots, type SnapshotInput } from "./snapshot/load.ts";
import { type Stop, Vcpu } from "./vcpu.ts";
import type { Ending } from "./vm-messages.ts";
import type { VcpuOptions } from "./vm-options.ts";

/** What of a machine's options is the host's. */
export type LifeHost = Omit<MachineOptions, "memory" | "epoch" | "debugExit">;

/** What a machine is restored from. */
export interface Restored {
  /** Where firmware lies. */
  readonly rom: { base: number; size: number } | undefined;
  /** Snapshots, or what puts pages into the image and gives the rest. */
  readonly inputs: readonly SnapshotInput[] | ((image: MachineImage) => LoadedState);
  /** Told when all of it is there, before devices go on. */
  readonly applied?: (machine: { engine: Engine; image: MachineImage }) => void;
  readonly description: string;
  /** What the guest has seen of its processor. */
  readonly cpuid: readonly CpuidLeaf[];
  /** How fast its TSC counts, kHz. */
  readonly tscKhz?: number;
  /** A machine of real time may go on with virtual time. */
  readonly anyClock?: boolean;
  /** What the first of its snapshots are in already; `inputs` are the others. It is taken over. */
  readonly prepared?: PreparedMachine;
  /** Pages that its guest touched lately are read beside it. */
  readonly prefetch?: boolean;
}

/** A machine without chips, which is where its snapshots left it. */
export interface PreparedMachine {
  readonly image: MachineImage;
  readonly engine: Engine;
  readonly state: LoadedState;
}

export function machineOptions(options: VcpuOptions, host: LifeHost): MachineOptions {
  return {
    memory: options.memory,
    epoch: options.epoch,
    debugExit: options.debugExit ?? false,
    bootDevice: options.bootDevice,
    ...host,
  };
}

export class VmLife implements Disposable {
  readonly image: MachineImage;
  readonly engine: Engine;
  readonly machine: ClassicMachine;
  readonly vcpu: Vcpu;
  readonly dirty: DirtyLog;
  /** Where firmware lies. */
  readonly rom: { base: number; size: number } | undefined;
  /** What was booted. */
  readonly description: string;
  /** Pages that are read beside the guest; absent: its snapshot doesn't say which. */
  prefetched: number | undefined;
  readonly #options: VcpuOptions;
  readonly #stack: DisposableStack;

  /** Takes over what `stack` disposes of. */
  private constructor(
    stack: DisposableStack,
    options: VcpuOptions,
    { image, engine, machine, rom }: Pick<VmLife, "image" | "engine" | "machine" | "rom">,
    description: string,
  ) {
    this.#options = options;
    this.image = image;
    this.engine = engine;
    this.machine = machine;
    this.dirty = new DirtyLog(engine, image.memory);
    this.rom = rom;
    this.description = description;
    this.vcpu = new Vcpu(engine, machine, options.virtualTime);
    this.#stack = stack.move();
  }

  /** A machine that is powered on. @throws FileError, BootError, EngineError, NativeError */
  static boot(engineName: EngineName, options: VcpuOptions, set: BootSet, host: LifeHost): VmLife {
    using stack = new DisposableStack();
    using files = new BootFiles(options, set);
    const image = stack.use(new MachineImage(memoryRanges(options.memory, files.rom)));
    const { virtualTime: virtual, portable, tscKhz } = options;
    const engine = stack.use(Engine.open(engineName, image, { virtual }, { portable, tscKhz }));
    const machine = powerOn(image, engine, options, host);
    const boot = files.load(machine);
    engine.setCpu(boot.cpu);
    const { rom } = files;
    return new VmLife(stack, options, { image, engine, machine, rom }, boot.description);
  }

  /**
   * A machine that goes on where snapshots left it, each of them based on the one before.
   * @throws SnapshotError, EngineError, NativeError
   */
  static restore(
    engineName: EngineName,
    options: VcpuOptions,
    restored: Restored,
    host: LifeHost,
  ): VmLife {
    const { rom, inputs, applied, description, cpuid, tscKhz, anyClock = false } = restored;
    const { prepared, prefetch } = restored;
    using stack = new DisposableStack();
    const ranges = memoryRanges(options.memory, rom);
    const image = stack.use(prepared?.image ?? new MachineImage(ranges));
    if (prepared !== undefined) stack.use(prepared.engine);
    // Its chips may be made while its snapshots are still written.
    const made = prepared && powerOn(image, prepared.engine, options, host);
    const state =
      typeof inputs === "function"
        ? inputs(image)
        : inputs.length === 0 && prepared !== undefined
          ? prepared.state
          : loadSnapshots(image, inputs);
    // What follows takes a moment, too.
    const prefetched = prefetch ? state.hot && image.prefetch(state.hot) : undefined;
    const saved = applyClock(image, state.cpu);
    const virtual = options.virtualTime ?? false;
    if (saved !== virtual && !(anyClock && virtual)) {
      throw new SnapshotError("its clock is not of the kind that it says");
    }
    const processor = { portable: options.portable, cpuid, tscKhz };
    const engine =
      prepared?.engine ?? stack.use(Engine.open(engineName, image, { virtual }, processor));
    if (prepared !== undefined && !virtual) engine.startClock();
    const machine = made ?? powerOn(image, engine, options, host);
    takeOn({ image, engine, machine }, state, applied);
    const life = new VmLife(stack, options, { image, engine, machine, rom }, description);
    life.vcpu.halted = state.host.halted;
    life.prefetched = prefetched;
    return life;
  }

  /** Its image and its engine are somebody else's again. */
  leave(): void {
    this.#stack.move();
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
      this.engine.saveCpu();
      return formatCpuBytes(this.image.cpu);
    } catch (error) {
      if (error instanceof NativeError) return "";
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

function powerOn(
  image: MachineImage,
  engine: Engine,
  options: VcpuOptions,
  host: LifeHost,
): ClassicMachine {
  const machine = new ClassicMachine(image, engine, machineOptions(options, host));
  machine.reset();
  return machine;
}

/** A machine that was reset takes on a state. @throws SnapshotError */
export function takeOn(
  { image, engine, machine }: Pick<VmLife, "image" | "engine" | "machine">,
  state: LoadedState,
  applied?: Restored["applied"],
): void {
  machine.restore(() => {
    applyBlocks(image, state.blocks);
    applyCpu(image, state.cpu);
    loadCpu(engine);
    applied?.({ engine, image });
  }, state.host);
}

function loadCpu(engine: Engine): void {
  try {
    engine.loadCpu();
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    throw new SnapshotError(
      `engine ${engine.name} can't take on its CPU's state: ${error.message}`,
    );
  }
}

function where(text: string): string {
  const rip = /rip\s+([0-9a-f]+)/.exec(text);
  return rip === null ? "an unknown RIP" : `RIP 0x${rip[1].replace(/^0+(?=.)/, "")}`;
}
