/**
 * A recorded trace against an engine: the guest runs again, gets the recorded answers, and must
 * show the recorded exits.
 *
 * Interrupts go in where they were recorded. One that came in while the guest ran, rather than at
 * an exit, can't be placed on another engine: the check ends there and says so.
 */
import type { EngineName } from "../vmm/engine.ts";
import { ExitReason, exitName } from "../vmm/exit.ts";
import type { ExitRecord, Trace } from "../vmm/trace.ts";
import { BootFiles } from "./boot-files.ts";
import type { CrossCheckResult } from "./cross-check.ts";
import { memoryRanges } from "./machine.ts";
import { ReplayedDevices, traceOptions } from "./replay.ts";
import { lateRip, LONGEST_INSTRUCTION, Side } from "./side.ts";

/** @throws TraceError, FileError, BootError, EngineError */
export function follow(trace: Trace, engine: EngineName): CrossCheckResult {
  const options = traceOptions(trace);
  using files = new BootFiles(options);
  using side = new Side(engine, memoryRanges(options.memory, files.rom));
  const devices = new ReplayedDevices(trace, side.image);
  const boot = files.load(devices.machine);
  side.engine.setCpu(boot.cpu);

  let equal = 0;
  let kicked = false;
  const end = (ending: string, difference?: string): CrossCheckResult => ({
    equal,
    ending,
    difference: difference === undefined ? undefined : `exit ${equal}: ${difference}`,
  });
  for (const record of trace.records()) {
    if (record.kind === "exit") {
      if (record.reason === ExitReason.INTR || record.reason === ExitReason.IRQ_WINDOW_OPEN) {
        kicked = true;
        continue;
      }
      kicked = false;
      const difference = compareExit(side, record);
      if (difference !== undefined) return end("a difference", difference);
      equal++;
    }
    const difference = devices.apply(record);
    if (difference !== undefined) return end("a difference", difference);
    if (record.kind === "interrupt") {
      if (kicked || !side.engine.run.readyForInterrupt) {
        return end(`interrupt ${record.vector} was recorded at no exit of the guest's own`);
      }
      side.engine.interrupt(record.vector);
    }
  }
  return end("the trace ended");
}

// Runs the guest through all items of a recorded exit, and gives it the recorded answers.
function compareExit(side: Side, record: ExitRecord): string | undefined {
  const size = Math.max(
    1,
    record.reason === ExitReason.MMIO ? Math.min(record.size, 4) : record.size,
  );
  const items = Math.max(1, Math.floor(record.data.length / size));
  const isWrite = record.direction === 1;
  for (let i = 0; i < items; i++) {
    const failure = side.next();
    if (failure !== undefined) return failure;
    const { item, engine } = side;
    const { run } = engine;
    const expected = describe(record, size, i);
    if (item.what !== expected) return `recorded ${expected}, ${engine.name} ${item.what}`;
    const data = record.data.subarray(i * size, (i + 1) * size);
    if (record.reason !== ExitReason.IO && record.reason !== ExitReason.MMIO) continue;
    if (!isWrite) side.data.set(data);
    else if (item.out !== data.toHex()) {
      return `${expected}: recorded ${data.toHex()}, ${engine.name} ${item.out}`;
    }
    if (i === 0 && record.rip !== 0n && side.whole) {
      const distance = Number(run.rip - record.rip);
      if (Math.abs(distance) > (lateRip(run) ? LONGEST_INSTRUCTION : 0)) {
        const rips = `recorded 0x${record.rip.toString(16)}, ${engine.name} 0x${run.rip.toString(16)}`;
        return `${expected}: RIP differs: ${rips}`;
      }
    }
  }
  if (record.reason === ExitReason.RDMSR) {
    const view = new DataView(record.data.buffer, record.data.byteOffset, 8);
    side.engine.run.msrData = view.getBigUint64(0, true);
  }
  return undefined;
}

function describe(record: ExitRecord, size: number, item: number): string {
  const hex = (value: number) => `0x${value.toString(16)}`;
  const isWrite = record.direction === 1;
  switch (record.reason) {
    case ExitReason.IO:
      return `${isWrite ? "out" : "in"} ${hex(record.address)}/${size}`;
    case ExitReason.MMIO:
      return `${isWrite ? "write" : "read"} ${hex(record.address + item * size)}/${size}`;
    case ExitReason.RDMSR:
    case ExitReason.WRMSR:
      return `${exitName(record.reason)} ${hex(record.address)}`;
    default:
      return exitName(record.reason);
  }
}
