import { expect, test } from "bun:test";
import { type Breakpoint, BreakKind, Capability } from "../engine.ts";
import {
  CODE,
  code,
  flatState,
  gate,
  inLab,
  longState,
  machine,
  mapLow,
  next,
  nextByte,
  onEachEngine,
} from "./machine.ts";

const DONE = 0x4000;
const execute = (address: number): Breakpoint => ({
  address: BigInt(address),
  kind: BreakKind.EXECUTE,
  length: 1,
});
const watch = (address: number, kind: number, length = 4): Breakpoint => ({
  address: BigInt(address),
  kind,
  length,
});
const ENOSPC = -28;
const ENOTSUP = -95;
const EINVAL = -22;

// The lab's emulated SVM loads a guest's DR7 without arming what it says.
const unarmed = inLab;

onEachEngine("debugging", ({ name, weak }) => {
  test("a step is one instruction", () => {
    // nop; inc eax; jmp +0; hlt
    using m = machine(name, "90 40 eb 00 f4");
    const { engine } = m;
    expect(engine.can(Capability.DEBUG)).toBe(true);
    for (const rip of [CODE + 1, CODE + 2, CODE + 4]) {
      expect(engine.debug([], true)).toBe(0);
      expect(next(engine)).toBe("DEBUG");
      expect(Number(engine.run.debugPc)).toBe(rip);
      expect(engine.run.debugDr6 & DONE).toBe(DONE);
      expect(engine.getCpu().rip).toBe(rip);
    }
    // Some KVMs forget the halt over the step's end.
    expect(next(engine)).toMatch(weak ? /HLT|DEBUG/ : /HLT/);
    expect(engine.getCpu()).toMatchObject({ rip: CODE + 5, rax: 1 });
    engine.debug([]);
    engine.setCpu(flatState());
    expect(next(engine)).toBe("HLT");
  });

  test("steps leave no trace in the guest's flags", () => {
    // pushf; pop eax; nop
    using m = machine(name, "9c 58 90 f4");
    m.engine.debug([], true);
    for (let i = 0; i < 3; i++) expect(next(m.engine)).toBe("DEBUG");
    expect(m.engine.getCpu().rflags & 0x100).toBe(0);
  });

  test("a port's instruction is a step", () => {
    // in al, 0x80; inc eax; hlt
    using m = machine(name, "e4 80 40 f4");
    const { engine } = m;
    engine.debug([], true);
    expect(next(engine)).toBe("IO");
    engine.run.u8[engine.run.ioData] = 0x10;
    engine.run.immediateExit = true;
    // The step's end may be told, or swallowed by the immediate exit.
    engine.enter();
    engine.run.immediateExit = false;
    expect(engine.getCpu()).toMatchObject({ rip: CODE + 2, rax: 0x10 });
  });

  // A processor's trap flag is off in the handler: KVM's step ends when that returns.
  test.skipIf(name === "kvm")("a fault within a step leads to its handler's start", () => {
    using m = machine(name, "0f 0b f4");
    gate(m.image, 6, 0x5000);
    m.image.memory.write(0x5000, code("90 90 f4"));
    m.engine.debug([], true);
    expect(next(m.engine)).toBe("DEBUG");
    expect(Number(m.engine.run.debugPc)).toBe(0x5000);
  });

  test.skipIf(unarmed)("a breakpoint stops before its instruction, each time", () => {
    // inc eax; inc eax; inc eax; hlt
    using m = machine(name, "40 40 40 f4");
    const { engine } = m;
    const list = [execute(CODE + 2)];
    for (let round = 0; round < 3; round++) {
      engine.setCpu(flatState());
      expect(engine.debug(list)).toBe(0);
      expect(next(engine)).toBe("DEBUG");
      expect(engine.run.debugDr6 & 15).toBe(1);
      expect(engine.getCpu()).toMatchObject({ rip: CODE + 2, rax: 2 });
      engine.debug(list, true);
      expect(next(engine)).toBe("DEBUG");
      expect(Number(engine.run.debugPc)).toBe(CODE + 3);
      engine.debug(list);
      expect(next(engine)).toBe("HLT");
    }
    engine.setCpu(flatState());
    engine.debug([]);
    expect(next(engine)).toBe("HLT");
  });

  test.skipIf(unarmed)(
    "a breakpoint holds where code has run already, and at the first instruction",
    () => {
      // again: inc eax; out 0x80, al; jmp again
      using m = machine(name, "40 e6 80 eb fb");
      const { engine } = m;
      for (let i = 0; i < 5; i++) expect(nextByte(engine)).toBe(i + 1);
      engine.debug([execute(CODE), execute(CODE + 3)]);
      expect(next(engine)).toBe("DEBUG");
      expect(engine.run.debugDr6 & 15).toBe(2);
      engine.debug([execute(CODE)]);
      expect(next(engine)).toBe("DEBUG");
      expect(Number(engine.run.debugPc)).toBe(CODE);
      engine.debug([]);
      expect(nextByte(engine)).toBe(6);
    },
  );

  test.skipIf(unarmed)("breakpoints in long mode", () => {
    using m = machine(name, "48 ff c0 48 ff c0 f4");
    mapLow(m.image);
    m.engine.setCpu(longState());
    m.engine.debug([execute(CODE + 3)]);
    expect(next(m.engine)).toBe("DEBUG");
    expect(m.engine.getCpu()).toMatchObject({ rip: CODE + 3, rax: 1 });
  });

  // An emulator of instructions looks at no data breakpoints.
  test.skipIf(weak || unarmed)("watchpoints stop behind the instruction that writes", () => {
    // mov eax, [0x9000]; mov [0x9004], eax; inc eax; mov [0x9000], eax; inc eax; hlt
    const program = "a1 00900000 a3 04900000 40 a3 00900000 40 f4";
    using m = machine(name, program);
    const { engine } = m;
    expect(engine.debug([watch(0x9000, BreakKind.WRITE)])).toBe(0);
    expect(next(engine)).toBe("DEBUG");
    expect(engine.run.debugDr6 & 15).toBe(1);
    expect(Number(engine.run.debugPc)).toBe(CODE + 16);
    expect(m.image.memory.read32(0x9000)).toBe(1);
    expect(next(engine)).toBe("HLT");

    engine.setCpu(flatState());
    engine.debug([watch(0x9000, BreakKind.ACCESS)]);
    expect(next(engine)).toBe("DEBUG");
    expect(Number(engine.run.debugPc)).toBe(CODE + 5);
    expect(next(engine)).toBe("DEBUG");
    expect(Number(engine.run.debugPc)).toBe(CODE + 16);

    engine.setCpu(flatState());
    const read = engine.debug([watch(0x9000, BreakKind.READ)]);
    expect(read).toBe(engine.can(Capability.READ_WATCHPOINTS) ? 0 : ENOTSUP);
    if (read === 0) {
      expect(next(engine)).toBe("DEBUG");
      expect(Number(engine.run.debugPc)).toBe(CODE + 5);
      expect(next(engine)).toBe("HLT");
    }
  });

  test("what isn't possible is refused", () => {
    using m = machine(name, "f4");
    const { engine } = m;
    expect(engine.debug([watch(0x9000, BreakKind.WRITE, 3)])).toBe(EINVAL);
    expect(engine.debug([watch(0x9001, BreakKind.WRITE)])).toBe(EINVAL);
    expect(engine.debug([watch(0x9000, 4)])).toBe(EINVAL);
    const watches = [0, 4, 8, 12, 16].map((at) => watch(0x9000 + at, BreakKind.WRITE));
    expect(engine.debug(watches)).toBe(ENOSPC);
    expect(engine.debug(Array.from({ length: 129 }, (_, at) => execute(at)))).toBe(ENOSPC);
    expect(next(engine)).toBe("HLT");
  });
});
