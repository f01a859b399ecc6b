import { expect, test } from "bun:test";
import fc from "fast-check";
import { CPU_LAYOUT } from "../cpu-codec.ts";
import {
  code,
  CODE,
  flatState,
  gate,
  inLab,
  longState,
  machine,
  mapLow,
  next,
  nextByte,
  onEachEngine,
  rounds,
  STACK,
} from "./machine.ts";
import { u64, canonical, VALID_MSR, cpuStates } from "./states.ts";

/** Of struct vmm_cpu: kvm_sregs.cr8. */
const CR8 = 400;

onEachEngine("registers", ({ name, weak }) => {
  test("every register that is set is got back", () => {
    using m = machine(name);
    fc.assert(
      fc.property(cpuStates, (wanted) => {
        m.engine.setCpu(wanted);
        expect(m.engine.getCpu()).toEqual(wanted);
      }),
      { numRuns: rounds(200), seed: 1 },
    );
  });

  test("all bits of general registers and MSRs", () => {
    using m = machine(name);
    const { engine, image } = m;
    fc.assert(
      fc.property(fc.array(u64, { minLength: 40, maxLength: 40 }), (values) => {
        engine.setCpu(longState());
        engine.saveCpu();
        const { cpu } = image;
        const set: [number, bigint][] = [];
        for (let i = 0; i < 16; i++) set.push([i * 8, values[i]]);
        const count = cpu.getUint32(CPU_LAYOUT.msrCount, true);
        for (let i = 0; i < count; i++) {
          const at = CPU_LAYOUT.msrs + i * 16;
          const valid = VALID_MSR[cpu.getUint32(at, true)];
          if (valid !== undefined) set.push([at + 8, valid(values[16 + (i % 24)])]);
        }
        for (let i = 0; i < 4; i++) {
          set.push([CPU_LAYOUT.debugregs + i * 8, canonical(values[20 + i])]);
        }
        for (const [at, value] of set) cpu.setBigUint64(at, value, true);
        engine.loadCpu();
        new Uint8Array(cpu.buffer, cpu.byteOffset, CPU_LAYOUT.size).fill(0xee);
        engine.saveCpu();
        expect(set.map(([at]) => [at, cpu.getBigUint64(at, true)])).toEqual(set);
      }),
      { numRuns: rounds(50), seed: 2 },
    );
  });

  test("x87 and SSE state", () => {
    using m = machine(name);
    const { engine, image } = m;
    const bytes = fc.uint8Array({ minLength: 16, maxLength: 16 });
    const list = (count: number) => fc.array(bytes, { minLength: count, maxLength: count });
    const states = fc.record({
      st: list(8),
      xmm: list(16),
      control: fc.integer({ min: 0, max: 0xf3f }).map((v) => (v & 0xf3f) | 0x40),
      top: fc.integer({ min: 0, max: 7 }),
      tags: fc.integer({ min: 0, max: 255 }),
      mxcsr: fc.integer({ min: 0, max: 7 }).map((v) => 0x1f80 | ((v & 3) << 13) | ((v & 4) << 13)),
    });
    fc.assert(
      fc.property(states, ({ st, xmm, control, top, tags, mxcsr }) => {
        engine.setCpu(flatState());
        engine.saveCpu();
        const { cpu } = image;
        const fpu = new Uint8Array(cpu.buffer, cpu.byteOffset + CPU_LAYOUT.fpu, 416);
        st.forEach((value, i) => fpu.set(value.subarray(0, 10), i * 16));
        cpu.setUint16(CPU_LAYOUT.fpu + 128, control, true);
        cpu.setUint16(CPU_LAYOUT.fpu + 130, top << 11, true);
        cpu.setUint8(CPU_LAYOUT.fpu + 132, tags);
        xmm.forEach((value, i) => fpu.set(value, 152 + i * 16));
        cpu.setUint32(CPU_LAYOUT.fpu + 408, mxcsr, true);
        cpu.setUint32(CPU_LAYOUT.xsaveSize, 0, true);
        const wanted = fpu.slice();
        engine.loadCpu();
        fpu.fill(0xee);
        engine.saveCpu();
        expect(fpu).toEqual(wanted);
      }),
      { numRuns: rounds(50), seed: 3 },
    );
  });

  test("CR8 is the guest's, until another is set", () => {
    // mov rax, cr8; out 0x80, al; mov al, 7; mov cr8, rax; mov rax, cr8; out 0x80, al
    using m = machine(name, "44 0f 20 c0 e6 80 b0 07 44 0f 22 c0 44 0f 20 c0 e6 80 f4");
    mapLow(m.image);
    for (const priority of [5, 0, 3]) {
      m.engine.setCpu(longState({ rax: 0 }));
      m.image.cpu.setBigUint64(CR8, BigInt(priority), true);
      m.engine.loadCpu();
      expect([nextByte(m.engine), nextByte(m.engine)]).toEqual([priority, 7]);
    }
  });

  test("events: an NMI's mask, a shadow, a pending interrupt and exception", () => {
    using m = machine(name);
    const { engine, image } = m;
    const events = CPU_LAYOUT.events;
    engine.saveCpu();
    const { cpu } = image;
    cpu.setUint8(events + 14, 1); // nmi.masked
    cpu.setUint8(events + 11, 2); // interrupt.shadow: by STI
    cpu.setUint32(events + 20, cpu.getUint32(events + 20, true) | 8, true);
    engine.loadCpu();
    engine.saveCpu();
    expect(cpu.getUint8(events + 14)).toBe(1);
    expect(cpu.getUint8(events + 11)).not.toBe(0); // AMD can't tell STI's from MOV SS's
    cpu.setUint8(events + 14, 0);
    cpu.setUint8(events + 11, 0);
    engine.loadCpu();
    engine.saveCpu();
    expect([cpu.getUint8(events + 14), cpu.getUint8(events + 11)]).toEqual([0, 0]);
  });

  test("an exception that is set as injected is delivered", () => {
    using m = machine(name, "f4");
    const { engine, image } = m;
    // The handler: pop eax (error code); out al; hlt
    image.memory.write(0x5000, code("58 e6 80 f4"));
    gate(image, 13, 0x5000);
    engine.saveCpu();
    const { cpu } = image;
    const events = CPU_LAYOUT.events;
    cpu.setUint8(events, 1);
    cpu.setUint8(events + 1, 13);
    cpu.setUint8(events + 2, 1);
    cpu.setUint32(events + 4, 0x58, true);
    engine.loadCpu();
    expect(nextByte(engine)).toBe(0x58);
  });

  // Older emulators don't push it; the lab's is one.
  test.skipIf(weak || inLab)("a fault's frame has RF, a trap's doesn't", () => {
    using m = machine(name, "0f 0b");
    const { engine, image } = m;
    gate(image, 6, 0x5000);
    gate(image, 3, 0x5000);
    image.memory.write(0x5000, code("f4"));
    expect(next(engine)).toBe("HLT");
    expect(image.memory.read32(STACK - 4) & 0x10000).toBe(0x10000);
    image.memory.write(CODE, code("cc"));
    engine.setCpu(flatState());
    expect(next(engine)).toBe("HLT");
    expect(image.memory.read32(STACK - 4) & 0x10000).toBe(0);
  });

  test("setting registers within a port exit drops the instruction", () => {
    // in al, 0x80; hlt
    using m = machine(name, "e4 80 f4");
    const { engine, image } = m;
    for (let round = 0; round < 3; round++) {
      engine.setCpu(flatState());
      expect(next(engine)).toBe("IO");
      engine.run.u8[engine.run.ioData] = 0x99;
      image.memory.write(0x5000, code("e6 81 f4")); // out al, 0x81; hlt
      engine.setCpu(flatState({ rip: 0x5000, rax: 0x33 }));
      expect(nextByte(engine)).toBe(0x33);
      expect(engine.run.ioPort).toBe(0x81);
    }
  });

  test("setting registers within an MMIO exit drops the instruction", () => {
    // mov eax, [0x90000ffe], across two pages
    using m = machine(name, "a1 fe0f0090 f4");
    const { engine, image } = m;
    expect(next(engine)).toBe("MMIO");
    image.memory.write(0x5000, code("e6 81 f4"));
    engine.setCpu(flatState({ rip: 0x5000, rax: 0x44 }));
    expect(nextByte(engine)).toBe(0x44);
    expect(next(engine)).toBe("HLT");
  });

  test("closing within a port exit", () => {
    const m = machine(name, "e4 80 f4");
    expect(next(m.engine)).toBe("IO");
    m[Symbol.dispose]();
  });
});
