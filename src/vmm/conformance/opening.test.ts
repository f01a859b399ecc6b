import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { Capability, Engine, EngineError, ENGINES, probe } from "../engine.ts";
import { MachineImage } from "../image.ts";
import { selfTest } from "../select.ts";
import { flatState, machine, nextByte, onEachEngine, RAM, rounds, SLOW } from "./machine.ts";

const openDescriptors = () => readdirSync("/proc/self/fd").length;

test("an engine that isn't there says why in one sentence", () => {
  for (const name of ENGINES) {
    const { available, why } = probe(name);
    expect(why === "").toBe(available);
    expect(why).not.toMatch(/[.\n]$/);
  }
});

onEachEngine("opening and closing", ({ name, full }) => {
  test(
    "500 times leaves nothing behind",
    () => {
      using image = new MachineImage(RAM);
      Engine.open(name, image)[Symbol.dispose]();
      const before = openDescriptors();
      for (let i = 0; i < rounds(500); i++) Engine.open(name, image)[Symbol.dispose]();
      // Fewer: something of an earlier test may be collected meanwhile.
      expect(openDescriptors()).toBeLessThanOrEqual(before);
    },
    SLOW,
  );

  test("twice closed is closed once, and a kick after it does nothing", () => {
    using image = new MachineImage(RAM);
    const engine = Engine.open(name, image);
    engine[Symbol.dispose]();
    engine[Symbol.dispose]();
    engine.kick();
  });

  test("several at once keep to themselves", () => {
    // loop: inc eax; out al, 0x80; jmp loop
    const machines = [1, 2, 3, 4].map(() => machine(name, "40 e6 80 eb fb"));
    machines.forEach(({ engine }, i) => engine.setCpu(flatState({ rax: i * 0x20 })));
    for (let round = 1; round <= 5; round++) {
      machines.forEach(({ engine }, i) => {
        expect(nextByte(engine)).toBe(i * 0x20 + round);
      });
    }
    machines[1][Symbol.dispose]();
    expect(nextByte(machines[2].engine)).toBe(0x46);
    for (const one of machines) one[Symbol.dispose]();
  });

  test("virtual time is had or refused", () => {
    using image = new MachineImage(RAM);
    using plain = Engine.open(name, image);
    const can = plain.can(Capability.VIRTUAL_TIME);
    plain[Symbol.dispose]();
    const open = () => Engine.open(name, image, { virtual: true })[Symbol.dispose]();
    if (can) open();
    else expect(open).toThrow(EngineError);
  });

  full("its self-test guest runs", () => {
    expect(selfTest(name)).toBeUndefined();
  });
});
