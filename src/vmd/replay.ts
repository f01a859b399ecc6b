/**
 * Runs the device models again from an exit trace, with no engine: every answer must be the one
 * that was recorded.
 */
import { ManualTime } from "../vmm/clock.ts";
import { ExitReason, exitName } from "../vmm/exit.ts";
import { MachineImage } from "../vmm/image.ts";
import { type ExitRecord, type Trace, TraceError, type TraceRecord } from "../vmm/trace.ts";
import { ClassicMachine, memoryRanges } from "./machine.ts";
import type { Size } from "./device.ts";
import { checkVmOptions, type VcpuOptions, type VmOptions } from "./vm-options.ts";

/** What happens between a machine's start and its reset. */
export type RunRecord = Exclude<TraceRecord, { kind: "reset" }>;

/** What a replay found. */
export interface ReplayResult {
  /** Exits that were answered again. */
  exits: number;
  /** The first difference, as sentences of both sides; undefined when there is none. */
  difference: string | undefined;
}

/** @throws TraceError when the trace is damaged, or doesn't say which machine it is of. */
export function replay(trace: Trace): ReplayResult {
  const options = traceOptions(trace);
  let exits = 0;
  let run = 1;
  using lives = new Lives(options);
  for (const record of trace.records()) {
    if (record.kind === "reset") {
      run++;
      lives.begin(record.epoch);
      continue;
    }
    if (record.kind === "exit") exits++;
    const difference = lives.devices.apply(record);
    if (difference !== undefined) {
      const where = `exit ${exits}, guest time ${record.now} ns${run > 1 ? ` of run ${run}` : ""}`;
      return { exits, difference: `${where}: ${difference}` };
    }
  }
  return { exits, difference: undefined };
}

/** A machine's devices from one reset to the next, with memory that only they see. */
class Lives implements Disposable {
  devices!: ReplayedDevices;
  readonly #options: VcpuOptions;
  #image: MachineImage | undefined;

  constructor(options: VcpuOptions) {
    this.#options = options;
    this.begin(options.epoch);
  }

  begin(epoch: number): void {
    this.#image?.[Symbol.dispose]();
    this.#image = undefined;
    this.#image = new MachineImage(memoryRanges(this.#options.memory, undefined));
    this.devices = new ReplayedDevices({ ...this.#options, epoch }, this.#image);
  }

  [Symbol.dispose](): void {
    this.#image?.[Symbol.dispose]();
  }
}

/** What a trace says of its machine. @throws TraceError unless that is a machine. */
export function traceOptions(trace: Trace): VcpuOptions {
  const { machine } = trace.header;
  if (machine.backed === true) {
    const what = "a machine with disks, interfaces or other devices that lead to the host";
    throw new TraceError(`${trace.path}: it is of ${what}: it can be shown, not run again`);
  }
  const damaged = new TraceError(`${trace.path}: the header describes no machine`);
  for (const [option, isRight] of Object.entries(OPTIONS)) {
    if (!isRight(machine[option])) throw damaged;
  }
  try {
    return checkVmOptions(machine as unknown as VmOptions);
  } catch {
    throw damaged;
  }
}

const isText = (value: unknown) => typeof value === "string";
const isFlag = (value: unknown) => value === undefined || typeof value === "boolean";
const OPTIONS: Record<string, (value: unknown) => boolean> = {
  name: (value) => value === undefined || isText(value),
  kernel: isText,
  initrd: (value) => value === undefined || isText(value),
  cmdline: (value) => value === undefined || isText(value),
  modules: (value) => value === undefined || (Array.isArray(value) && value.every(isText)),
  memory: (value) => typeof value === "number",
  // A Date goes no further.
  epoch: (value) => typeof value === "number" && Math.abs(value) <= 8.64e15,
  debugExit: isFlag,
  virtualTime: isFlag,
};

/** A machine's devices, fed with the records of one run. */
export class ReplayedDevices {
  readonly machine: ClassicMachine;
  readonly #time: ReplayTime;

  /**
   * @param options what the trace says of the machine, with the epoch of this run.
   * @param warp told where devices move guest time ahead.
   */
  constructor(
    { memory, epoch, debugExit }: VcpuOptions,
    image: MachineImage,
    warp: (ns: number) => void = () => {},
  ) {
    this.#time = new ReplayTime(warp);
    this.machine = new ClassicMachine(image, this.#time, {
      memory,
      epoch,
      debugExit: debugExit === true,
      output: () => {},
      debug: () => {},
    });
    this.#time.clock = this.machine.clock;
    this.machine.reset();
  }

  /** Does again what a record says. @returns how the outcome differs. */
  apply(record: RunRecord): string | undefined {
    const { machine } = this;
    this.#time.time = record.now;
    switch (record.kind) {
      case "memory":
        if (machine.memory.contains(record.address, record.data.length)) {
          machine.memory.write(record.address, record.data);
        }
        return undefined;
      case "input":
        machine.console.input(record.data);
        machine.idle();
        return undefined;
      case "request":
        machine.vmmci.request(record.command);
        return undefined;
      case "tick":
        machine.clock.expire();
        machine.idle();
        return undefined;
      case "interrupt": {
        if (!machine.interrupts.pending) {
          return `interrupt ${record.vector} was recorded, none is pending now`;
        }
        const vector = machine.interrupts.acknowledge();
        if (vector === record.vector) return undefined;
        return `interrupt ${record.vector} was recorded, ${vector} came now`;
      }
      case "exit":
        machine.event = undefined;
        return answer(machine, record);
    }
  }
}

/** Recorded time doesn't move by itself: a warp is in the next record's time already. */
class ReplayTime extends ManualTime {
  override readonly warp: (ns: number) => void;

  constructor(warp: (ns: number) => void) {
    super();
    this.warp = warp;
  }
}

function answer(machine: ClassicMachine, exit: ExitRecord): string | undefined {
  if (exit.reason === ExitReason.IO) return io(machine, exit);
  if (exit.reason === ExitReason.MMIO) return mmio(machine, exit);
  return undefined;
}

function io(machine: ClassicMachine, exit: ExitRecord): string | undefined {
  const { data, address, size } = exit;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let at = 0; at + size <= data.length; at += size) {
    const recorded =
      size === 1
        ? view.getUint8(at)
        : size === 2
          ? view.getUint16(at, true)
          : view.getUint32(at, true);
    if (exit.direction === 1) {
      machine.ports.write(address, size as Size, recorded);
      continue;
    }
    const now = machine.ports.read(address, size as Size);
    if (now !== recorded) {
      const port = `in 0x${address.toString(16)}/${size}`;
      return `${port} gave 0x${recorded.toString(16)} then and 0x${now.toString(16)} now`;
    }
  }
  return undefined;
}

function mmio(machine: ClassicMachine, exit: ExitRecord): string | undefined {
  const data = new Uint8Array(8);
  data.set(exit.data.subarray(0, 8));
  if (exit.direction === 1) {
    machine.mmio.write(exit.address, data, exit.size);
    return undefined;
  }
  machine.mmio.read(exit.address, data, exit.size);
  for (let i = 0; i < exit.data.length; i++) {
    if (data[i] !== exit.data[i]) {
      return `${exitName(exit.reason)} read at 0x${exit.address.toString(16)} differs`;
    }
  }
  return undefined;
}
