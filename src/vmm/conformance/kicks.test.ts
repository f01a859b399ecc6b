import { expect, test } from "bun:test";
import { closeSync, constants, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, kickEngine } from "../engine.ts";
import { ExitReason } from "../exit.ts";
import {
  CODE,
  engines,
  LIMIT_NS,
  machine,
  next,
  nextByte,
  onEachEngine,
  SLOW,
  SPIN,
} from "./machine.ts";
import { Kicker } from "./kicker.ts";

onEachEngine("kicks and deadlines", ({ name }) => {
  test("a kick before the run ends it at once, and only one run", () => {
    using m = machine(name, "b0 01 e6 80 eb fe");
    const { engine } = m;
    engine.kick();
    expect(engine.enter()).toBe(0);
    expect(engine.run.reason).toBe(ExitReason.INTR);
    expect(engine.getCpu().rip).toBe(CODE);
    expect(nextByte(engine)).toBe(1);
  });

  test("a kick isn't lost to a look at the registers", () => {
    // in al, 0x80; spin
    using m = machine(name, "e4 80 eb fe");
    const { engine } = m;
    expect(next(engine)).toBe("IO");
    engine.run.u8[engine.run.ioData] = 7;
    engine.kick();
    expect(engine.getCpu().rip - CODE).toBeLessThanOrEqual(2);
    expect(next10s(engine)).toBe(true);
    expect(engine.getCpu().rax & 0xff).toBe(7);
  });

  test("immediate exit", () => {
    using m = machine(name, "b0 01 e6 80 eb fe");
    const { engine } = m;
    engine.run.u8[1] = 1;
    expect(engine.enter()).toBe(0);
    expect(engine.run.reason).toBe(ExitReason.INTR);
    engine.run.u8[1] = 0;
    expect(nextByte(engine)).toBe(1);
    // Behind an OUT it completes the instruction first.
    engine.run.u8[1] = 1;
    expect(engine.enter()).toBe(0);
    expect(engine.run.reason).toBe(ExitReason.INTR);
    engine.run.u8[1] = 0;
    expect(engine.getCpu().rip).toBe(CODE + 4);
  });

  test("another thread's kicks end a spinning guest's runs", async () => {
    using m = machine(name, SPIN);
    const { engine } = m;
    const kicker = await Kicker.start(name, engine);
    const took: number[] = [];
    for (let round = 0; round < 20; round++) {
      const start = engine.now();
      kicker.kickIn(round % 3);
      expect(next10s(engine)).toBe(true);
      took.push(engine.now() - start);
    }
    await kicker.stop();
    // Far beyond what it takes, for hosts that are busy.
    expect(took.toSorted((a, b) => a - b)[10]).toBeLessThan(500e6);
    expect(engine.getCpu().rip).toBe(CODE);
  });

  test("a kick between exits isn't lost", async () => {
    // loop: out al, 0x80; jmp loop
    using m = machine(name, "e6 80 eb fc");
    const { engine } = m;
    const kicker = await Kicker.start(name, engine);
    for (let round = 0; round < 10; round++) {
      kicker.kickIn(1);
      const limit = engine.now() + LIMIT_NS;
      let kicked = false;
      while (!kicked && engine.now() < limit) {
        expect(engine.enter()).toBe(0);
        kicked = engine.run.reason === ExitReason.INTR;
      }
      expect(kicked).toBe(true);
    }
    await kicker.stop();
  });

  test("a kick wakes a waiting engine", async () => {
    using m = machine(name, SPIN);
    const { engine } = m;
    const kicker = await Kicker.start(name, engine);
    kicker.kickIn(5);
    engine.wait(Infinity);
    await kicker.stop();
    engine.kick();
    engine.wait(Infinity);
  });

  test("a deadline ends a spinning guest's run, not before its time", () => {
    using m = machine(name, SPIN);
    const { engine } = m;
    for (const ms of [3, 1, 5]) {
      const at = engine.now() + ms * 1e6;
      engine.setDeadline(at);
      expect(engine.enter()).toBe(0);
      expect(engine.run.reason).toBe(ExitReason.INTR);
      expect(engine.now()).toBeGreaterThanOrEqual(at);
    }
    engine.setDeadline(engine.now() - 1);
    expect(engine.enter()).toBe(0);
    expect(engine.run.reason).toBe(ExitReason.INTR);
  });

  test(
    "a deadline that is moved",
    () => {
      using m = machine(name, SPIN);
      const { engine } = m;
      const start = engine.now();
      engine.setDeadline(start + 20e9);
      engine.setDeadline(start + 4e6);
      engine.enter();
      expect(engine.now()).toBeGreaterThanOrEqual(start + 4e6);
      expect(engine.now()).toBeLessThan(start + 10e9);

      // Later: it may come early, but must come.
      const again = engine.now();
      engine.setDeadline(again + 1e6);
      engine.setDeadline(again + 8e6);
      const reached = () => engine.now() >= again + 8e6;
      for (let i = 0; i < 5 && !reached(); i++) {
        engine.enter();
        expect(engine.run.reason).toBe(ExitReason.INTR);
      }
      expect(reached()).toBe(true);
    },
    SLOW,
  );

  test("input on a watched descriptor ends a wait", () => {
    const folder = mkdtempSync(join(tmpdir(), "watch-"));
    const path = join(folder, "fifo");
    Bun.spawnSync(["mkfifo", path]);
    const fifo = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    using m = machine(name);
    const { engine } = m;
    engine.watch([fifo]);
    const at = engine.now() + 2e6;
    engine.wait(at);
    expect(engine.now()).toBeGreaterThanOrEqual(at - 1000);
    writeSync(fifo, "x");
    engine.wait(Infinity);
    engine.watch([]);
    engine.wait(engine.now() + 1000);
    closeSync(fifo);
    rmSync(folder, { recursive: true });
  });

  test("a deadline gives up waiting, too", () => {
    using m = machine(name);
    const at = m.engine.now() + 3e6;
    m.engine.wait(at);
    expect(m.engine.now()).toBeGreaterThanOrEqual(at - 1000);
  });
});

test("a kick by handle reaches the engine", () => {
  for (const name of engines) {
    using m = machine(name, SPIN);
    kickEngine(name, m.engine.handle);
    expect(m.engine.enter()).toBe(0);
    expect(m.engine.run.reason).toBe(ExitReason.INTR);
  }
});

/** Runs until a kick comes; false if none does within 10 s. */
function next10s(engine: Engine): boolean {
  const limit = engine.now() + LIMIT_NS;
  engine.setDeadline(limit);
  return engine.enter() === 0 && engine.run.reason === ExitReason.INTR && engine.now() < limit;
}
