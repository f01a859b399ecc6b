import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ManualTime } from "../vmm/clock.ts";
import { Capability, type Engine } from "../vmm/engine.ts";
import { ExitReason, RunPage } from "../vmm/exit.ts";
import { MachineImage } from "../vmm/image.ts";
import { GuestAddressError } from "../vmm/memory.ts";
import { Trace } from "../vmm/trace.ts";
import { openTraceFile } from "./boot-files.ts";
import { ClassicMachine } from "./machine.ts";
import { Recorder } from "./recorder.ts";

const folder = mkdtempSync(join(tmpdir(), "recorder-"));
afterAll(() => rmSync(folder, { recursive: true }));

const options = { name: "vm", kernel: "/k", cmdline: "quiet", memory: 2 ** 20, epoch: 42 };

function record(name: string, capabilities: number, use: (r: Recorder, run: RunPage) => void) {
  const path = join(folder, name);
  using image = new MachineImage([{ base: 0, size: 2 ** 20, readonly: false }]);
  const time = new ManualTime();
  time.time = 10;
  const machine = new ClassicMachine(image, time, {
    memory: 2 ** 20,
    epoch: 42,
    debugExit: false,
    output: () => {},
    debug: () => {},
  });
  const run = new RunPage(image.memory.pointer(0x8000, 0x3000), 0x3000);
  const can = (bit: number) => (capabilities & bit) !== 0;
  const engine = { name: "kvm", run, can } as unknown as Engine;
  {
    const worker = { traceExits: path, shared: new SharedArrayBuffer(4), engine: "auto" as const };
    using recorder = new Recorder(openTraceFile(path), machine, engine, { ...options, ...worker });
    use(recorder, run);
    image.memory.write32(0x100, 0x11223344);
    image.memory.read32(0x100);
    const block = new Uint8Array(6);
    image.memory.read(0x102, block);
    // What isn't there is not read, nor recorded.
    expect(() => image.memory.read(2 ** 40, block)).toThrow(GuestAddressError);
    image.memory.read8(0x100);
  }
  // After it is closed nothing is recorded any more.
  image.memory.read8(0);
  return { trace: Trace.open(path), run };
}

test("exits, interrupts, ticks, input, requests and what devices read", () => {
  const { trace } = record("all", Capability.SYNC_REGS, (recorder, run) => {
    expect(run.u32[72]).toBe(1);
    run.u32[2] = ExitReason.IO;
    run.u8[32] = 1;
    run.u8[33] = 1;
    run.u16[17] = 0x3f8;
    run.u32[9] = 1;
    run.u32[10] = 0x1000;
    run.u8[0x1000] = 0x41;
    run.view.setBigUint64(304 + 128, 0x1234n, true);
    recorder.exited();
    recorder.answered(run, 5);
    recorder.tick(6);
    recorder.interrupt(0x24, 7);
    recorder.input(Uint8Array.of(1, 2), 8);
    recorder.request(2, 9);
  });
  expect(trace.header).toEqual({ engine: "kvm", machine: options });
  const [exit, ...rest] = [...trace.records()];
  expect(exit).toMatchObject({
    kind: "exit",
    now: 5,
    reason: ExitReason.IO,
    direction: 1,
    size: 1,
    count: 1,
    address: 0x3f8,
    rip: 0x1234n,
    data: Uint8Array.of(0x41),
  });
  expect(rest).toEqual([
    { kind: "tick", now: 6 },
    { kind: "interrupt", now: 7, vector: 0x24 },
    { kind: "input", now: 8, data: Uint8Array.of(1, 2) },
    { kind: "request", now: 9, command: 2 },
    { kind: "memory", now: 10, address: 0x100, data: Uint8Array.of(0x44, 0x33, 0x22, 0x11) },
    { kind: "memory", now: 10, address: 0x102, data: Uint8Array.of(0x22, 0x11, 0, 0, 0, 0) },
    { kind: "memory", now: 10, address: 0x100, data: Uint8Array.of(0x44) },
  ]);
});

test("without registers from the engine, RIP is 0", () => {
  const { trace, run } = record("bare", 0, (recorder, page) => {
    page.u32[2] = ExitReason.HLT;
    page.view.setBigUint64(304 + 128, 0x1234n, true);
    recorder.exited();
    recorder.answered(page, 1);
  });
  expect(run).toBeDefined();
  expect([...trace.records()][0]).toMatchObject({ reason: ExitReason.HLT, rip: 0n, count: 0 });
});

test("a machine that was reset is recorded on, as what it is now", () => {
  const path = join(folder, "reset");
  const memories = [1, 2].map(() => [{ base: 0, size: 2 ** 20, readonly: false }]);
  using first = new MachineImage(memories[0]);
  using second = new MachineImage(memories[1]);
  const time = new ManualTime();
  const [a, b] = [first, second].map(
    (image, i) =>
      new ClassicMachine(image, time, {
        memory: 2 ** 20,
        epoch: 42 + i,
        debugExit: false,
        output: () => {},
        debug: () => {},
      }),
  );
  const engine = (image: MachineImage, can: boolean) => {
    const run = new RunPage(image.memory.pointer(0x8000, 0x3000), 0x3000);
    return { name: "kvm", run, can: () => can } as unknown as Engine;
  };
  {
    using recorder = new Recorder(openTraceFile(path), a, engine(first, false), { ...options });
    recorder.tick(9);
    const next = engine(second, true);
    recorder.reset(b, next);
    expect(next.run.u32[72]).toBe(1);
    time.time = 4;
    // The machine that is gone is not recorded any more.
    first.memory.read8(0x10);
    second.memory.write8(0x10, 7);
    second.memory.read8(0x10);
  }
  second.memory.read8(0x10);
  const trace = Trace.open(path);
  expect(trace.header.machine.epoch).toBe(42);
  expect([...trace.records()]).toEqual([
    { kind: "tick", now: 9 },
    { kind: "reset", now: 9, epoch: 43 },
    { kind: "memory", now: 4, address: 0x10, data: Uint8Array.of(7) },
  ]);
});
