/**
 * Runs the device models again from an exit trace, with no engine: every answer must be the one
 * that was recorded.
 */
import { ManualTime } from "../vmm/clock.ts";
import { ExitReason, exitName } from "../vmm/exit.ts";
import { MachineImage } from "../vmm/image.ts";
import { type ExitRecord, type Trace, TraceError } from "../vmm/trace.ts";
import { ClassicMachine, memoryRanges } from "./machine.ts";
import type { Size } from "./device.ts";

/** What a replay found. */
export interface ReplayResult {
  /** Exits that were answered again. */
  exits: number;
  /** The first difference, as sentences of both sides; undefined when there is none. */
  difference: string | undefined;
}

/** @throws TraceError when the trace doesn't say which machine it is of. */
export function replay(trace: Trace): ReplayResult {
  const { memory, debugExit, epoch } = trace.header.machine;
  if (typeof memory !== "number" || typeof epoch !== "number") {
    throw new TraceError("the trace's header does not describe its machine");
  }
  using image = new MachineImage(memoryRanges(memory, 0));
  const time = new ReplayTime();
  const machine = new ClassicMachine(image, time, {
    memory,
    epoch,
    debugExit: debugExit === true,
    output: () => {},
    debug: () => {},
  });
  time.clock = machine.clock;
  machine.reset();
  let exits = 0;
  const differs = (what: string): ReplayResult => ({
    exits,
    difference: `exit ${exits}, guest time ${machine.clock.now} ns: ${what}`,
  });
  for (const record of trace.records()) {
    time.time = record.now;
    if (record.kind === "memory") {
      if (image.memory.contains(record.address, record.data.length)) {
        image.memory.write(record.address, record.data);
      }
    } else if (record.kind === "input") {
      machine.console.input(record.data);
      machine.idle();
    } else if (record.kind === "tick") {
      machine.clock.expire();
      machine.idle();
    } else if (record.kind === "interrupt") {
      if (!machine.interrupts.pending) {
        return differs(`interrupt ${record.vector} was recorded, none is pending now`);
      }
      const vector = machine.interrupts.acknowledge();
      if (vector !== record.vector) {
        return differs(`interrupt ${record.vector} was recorded, ${vector} came now`);
      }
    } else {
      exits++;
      const difference = answer(machine, record);
      if (difference !== undefined) return differs(difference);
      machine.event = undefined;
    }
  }
  return { exits, difference: undefined };
}

/** Recorded time doesn't move by itself: a warp is in the next record's time already. */
class ReplayTime extends ManualTime {
  override warp(): void {}
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
