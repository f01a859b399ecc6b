import { expect, test } from "bun:test";
import { Capability, Engine } from "../engine.ts";
import { ExitReason, exitName } from "../exit.ts";
import { MachineImage } from "../image.ts";
import { CODE, IDT, longState, machine, mapLow, onEachEngine, RAM, SPIN } from "./machine.ts";
import { Kicker } from "./kicker.ts";

onEachEngine("virtual time", ({ name }) => {
  // Loops of varying length, each followed by RDTSC and an exit.
  const program = `
    31 db              # xor ebx, ebx
    43                 # again: inc ebx
    89 d9              # mov ecx, ebx
    e2 fe              # loop $
    0f 31              # rdtsc
    e7 80              # out 0x80, eax
    eb f5              # jmp again
  `;

  function record(deadlines: boolean): string[] {
    using m = machine(name, program, { time: { virtual: true } });
    const { engine, image } = m;
    const { run } = engine;
    const lines: string[] = [];
    while (lines.length < 300) {
      if (deadlines) engine.setDeadline(engine.now() + 700);
      expect(engine.enter()).toBe(0);
      const value = run.reason === ExitReason.IO ? run.view.getUint32(run.ioData, true) : 0;
      const blocks = image.clock.getBigUint64(16, true);
      const { rip, rcx } = engine.getCpu();
      lines.push(`${exitName(run.reason)} ${value} ${engine.now()} ${blocks} ${rip} ${rcx}`);
    }
    return lines;
  }

  const virtual = (() => {
    using image = new MachineImage(RAM);
    using engine = Engine.open(name, image);
    return engine.can(Capability.VIRTUAL_TIME);
  })();

  test.skipIf(!virtual)("two runs are equal to the last block", () => {
    const first = record(true);
    expect(record(true)).toEqual(first);
    expect(first.filter((line) => line.startsWith("INTR")).length).toBeGreaterThan(50);
    const free = record(false);
    expect(record(false)).toEqual(free);
    // Deadlines don't change what the guest sees.
    const seen = (lines: string[]) =>
      lines.filter((line) => line.startsWith("IO")).map((line) => line.split(" ")[1]);
    expect(seen(free).slice(0, seen(first).length)).toEqual(seen(first));
  });

  test.skipIf(!virtual)("kicks from another thread don't change it", async () => {
    const calm = record(false);
    using m = machine(name, program, { time: { virtual: true } });
    const { engine, image } = m;
    const { run } = engine;
    const kicker = await Kicker.start(name, engine);
    const lines: string[] = [];
    for (let entries = 0; lines.length < calm.length; entries++) {
      if (entries % 50 === 0) kicker.kickIn(0);
      engine.enter();
      if (run.reason === ExitReason.INTR) continue;
      const value = run.view.getUint32(run.ioData, true);
      const blocks = image.clock.getBigUint64(16, true);
      const { rip, rcx } = engine.getCpu();
      lines.push(`${exitName(run.reason)} ${value} ${engine.now()} ${blocks} ${rip} ${rcx}`);
    }
    await kicker.stop();
    expect(lines).toEqual(calm);
  });

  test.skipIf(!virtual)("stops before blocks don't change it", () => {
    const calm = record(false);
    using m = machine(name, program, { time: { virtual: true } });
    const { engine, image } = m;
    const { run } = engine;
    // The second byte of "loop $", and RDTSC.
    const addresses = [CODE + 6, CODE + 7];
    engine.breakBlocks(addresses.map(BigInt));
    const lines: string[] = [];
    const stops: number[] = [];
    while (lines.length < calm.length) {
      expect(engine.enter()).toBe(0);
      const { rip, rcx } = engine.getCpu();
      if (run.reason === ExitReason.INTR) {
        stops.push(rip);
        continue;
      }
      const value = run.view.getUint32(run.ioData, true);
      const blocks = image.clock.getBigUint64(16, true);
      lines.push(`${exitName(run.reason)} ${value} ${engine.now()} ${blocks} ${rip} ${rcx}`);
    }
    expect(lines).toEqual(calm);
    // Blocks that hold them: the loop's own, and what leads to it and away from it.
    expect(stops.filter((rip) => rip === CODE + 7).length).toBe(lines.length);
    expect(stops.filter((rip) => rip === CODE + 5).length).toBeGreaterThan(10 * lines.length);
    engine.breakBlocks([]);
    engine.enter();
    expect(run.reason).toBe(ExitReason.IO);
    expect(() => engine.breakBlocks(Array.from({ length: 65 }, () => 0n))).toThrow();
  });

  test.skipIf(!virtual)("a deadline comes at its block; a wait and a warp move the clock", () => {
    using m = machine(name, SPIN, { time: { virtual: true, nsPerBlock: 10 } });
    const { engine } = m;
    const start = engine.now();
    engine.setDeadline(start + 5000);
    engine.enter();
    expect(engine.run.reason).toBe(ExitReason.INTR);
    expect(engine.now() - start).toBe(5000);
    engine.wait(start + 1e9);
    const waited = engine.now();
    expect(waited - start).toBeGreaterThanOrEqual(1e9);
    expect(waited - start).toBeLessThanOrEqual(1e9 + 1);
    engine.warp(2 ** 33);
    expect(engine.now() - waited).toBe(2 ** 33);
  });

  test.skipIf(!virtual)(
    "time passes where faults follow each other and no block is entered",
    () => {
      using m = machine(name, "8b 03", { time: { virtual: true, nsPerBlock: 10 } });
      const { engine, image } = m;
      mapLow(image);
      // The page fault's handler is on no page.
      image.memory.write32(IDT + 14 * 16, 0x18 << 16);
      image.memory.write32(IDT + 14 * 16 + 4, 0x40008e00);
      const start = engine.now();
      for (let round = 1; round <= 3; round++) {
        engine.setCpu(longState({ rbx: 2 ** 40, rsp: 0xf0000 }));
        engine.setDeadline(start + 5000 * round);
        expect(engine.enter()).toBe(0);
        expect(engine.run.reason).toBe(ExitReason.INTR);
        expect(engine.now() - start).toBe(5000 * round);
      }
    },
  );
});
