import { expect, test } from "bun:test";
import {
  code,
  CODE,
  gate,
  type Machine,
  machine,
  next,
  nextByte,
  onEachEngine,
  STACK,
} from "./machine.ts";

onEachEngine("interrupts", ({ name, full }) => {
  // sti; nop; spin. The handler at 0x5000: out al, 0x80; hlt.
  function spinning(program = "fb 90 eb fe"): Machine {
    const m = machine(name, program);
    m.image.memory.write(0x5000, code("e6 80 f4"));
    return m;
  }

  full("the window opens behind the instruction after STI", () => {
    // nop; nop; sti; inc eax; inc eax; hlt
    using m = spinning("90 90 fb 40 40 f4");
    const { engine, image } = m;
    gate(image, 0x30, 0x5000);
    engine.run.requestInterruptWindow = true;
    expect(next(engine)).toBe("IRQ_WINDOW_OPEN");
    expect(engine.run.readyForInterrupt).toBe(true);
    engine.run.requestInterruptWindow = false;
    engine.interrupt(0x30);
    expect(nextByte(engine)).toBe(1);
    expect(next(engine)).toBe("HLT");
    // What the interrupt pushed: RIP behind the first INC.
    expect(image.memory.read32(STACK - 12)).toBe(CODE + 4);
  });

  test("an interrupt is taken at the next entry, and only once", () => {
    using m = spinning("fb f4 f4");
    const { engine, image } = m;
    gate(image, 0x31, 0x5000);
    expect(next(engine)).toBe("HLT");
    engine.interrupt(0x31);
    expect(nextByte(engine)).toBe(0);
    expect(engine.run.readyForInterrupt).toBe(false);
    expect(next(engine)).toBe("HLT");
    expect(image.memory.read32(STACK - 12)).toBe(CODE + 2);
  });

  test("an NMI needs no IF, and none comes within another", () => {
    using m = spinning("f4 eb fe");
    const { engine, image } = m;
    gate(image, 2, 0x5000);
    image.memory.write(0x5000, code("40 e6 80 f4 eb fa")); // inc eax; out; hlt; again
    expect(next(engine)).toBe("HLT");
    engine.nmi();
    expect(nextByte(engine)).toBe(1);
    expect(next(engine)).toBe("HLT");
    engine.nmi();
    // Had it come, its frame would lie below the first one's.
    expect(nextByte(engine)).toBe(2);
    expect(next(engine)).toBe("HLT");
    expect(engine.getCpu().rsp).toBe(STACK - 12);
  });

  full("a second NMI comes after the first one's IRET", () => {
    using m = spinning("f4 eb fe");
    const { engine, image } = m;
    gate(image, 2, 0x5000);
    image.memory.write(0x5000, code("40 e6 80 cf")); // inc eax; out; iret
    expect(next(engine)).toBe("HLT");
    engine.nmi();
    expect(nextByte(engine)).toBe(1);
    engine.nmi();
    expect(nextByte(engine)).toBe(2);
  });
});
