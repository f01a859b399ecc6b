import { expect, test } from "bun:test";
import { decodeCpu } from "../cpu-codec.ts";
import { Capability } from "../engine.ts";
import { SYNC_REGS } from "../exit.ts";
import { code, CODE, flatState, machine, next, nextByte, onEachEngine } from "./machine.ts";

onEachEngine("exits", ({ name }) => {
  test("OUT and IN carry port, size and data", () => {
    // mov dx, 0x1234; out dx, ax; in eax, dx; out dx, al; hlt
    using m = machine(name, "66 ba 34 12 66 ef ed ee f4");
    m.engine.setCpu(flatState({ rax: 0xabcd }));
    const { run } = m.engine;
    expect(next(m.engine)).toBe("IO");
    expect([run.ioDirection, run.ioPort, run.ioSize, run.ioCount]).toEqual([1, 0x1234, 2, 1]);
    expect(run.view.getUint16(run.ioData, true)).toBe(0xabcd);
    expect(next(m.engine)).toBe("IO");
    expect([run.ioDirection, run.ioPort, run.ioSize, run.ioCount]).toEqual([0, 0x1234, 4, 1]);
    run.view.setUint32(run.ioData, 0x11223344, true);
    expect(nextByte(m.engine)).toBe(0x44);
    expect(next(m.engine)).toBe("HLT");
    expect(m.engine.getCpu().rax).toBe(0x11223344);
  });

  test("MMIO carries address, size and data", () => {
    // mov [0x90000000], eax; mov ebx, [0x90000004]; hlt
    using m = machine(name, "a3 00000090 8b 1d 04000090 f4");
    m.engine.setCpu(flatState({ rax: 0x89abcdef }));
    const { run } = m.engine;
    expect(next(m.engine)).toBe("MMIO");
    expect([run.mmioIsWrite, run.mmioAddress, run.mmioLength]).toEqual([true, 0x90000000, 4]);
    expect(run.view.getUint32(40, true)).toBe(0x89abcdef);
    expect(next(m.engine)).toBe("MMIO");
    expect([run.mmioIsWrite, run.mmioAddress, run.mmioLength]).toEqual([false, 0x90000004, 4]);
    run.view.setUint32(40, 0x55667788, true);
    expect(next(m.engine)).toBe("HLT");
    expect(m.engine.getCpu().rbx).toBe(0x55667788);
  });

  test("HLT shows whether interrupts are enabled", () => {
    using m = machine(name, "f4 fb 90 f4");
    expect(next(m.engine)).toBe("HLT");
    expect(m.engine.run.interruptsEnabled).toBe(false);
    expect(m.engine.run.readyForInterrupt).toBe(false);
    expect(next(m.engine)).toBe("HLT");
    expect(m.engine.run.interruptsEnabled).toBe(true);
    expect(m.engine.run.readyForInterrupt).toBe(true);
  });

  test("a triple fault shuts down, until new registers are set", () => {
    using m = machine(name, "0f 0b");
    m.engine.setCpu(flatState({ idt: { base: 0, limit: 0 } }));
    expect(next(m.engine)).toBe("SHUTDOWN");
    m.image.memory.write(CODE, code("b0 42 e6 80 f4"));
    m.engine.setCpu(flatState());
    expect(nextByte(m.engine)).toBe(0x42);
    expect(next(m.engine)).toBe("HLT");
  });

  test("an MSR that the engine doesn't know is asked for", () => {
    // mov ecx, 0x12345678; rdmsr; out al; mov al, dl; out al; wrmsr; hlt
    using m = machine(name, "b9 78563412 0f 32 e6 80 88 d0 e6 80 0f 30 f4");
    if (!m.engine.can(Capability.MSR_EXITS)) return;
    const { run } = m.engine;
    expect(next(m.engine)).toBe("RDMSR");
    expect(run.msrIndex).toBe(0x12345678);
    run.msrError = false;
    run.msrData = 0x0000_0077_0000_0066n;
    expect(nextByte(m.engine)).toBe(0x66);
    expect(nextByte(m.engine)).toBe(0x77);
    expect(next(m.engine)).toBe("WRMSR");
    expect([run.msrIndex, run.msrData]).toEqual([0x12345678, 0x0000_0077_0000_0077n]);
    run.msrError = false;
    expect(next(m.engine)).toBe("HLT");
  });

  test("registers come with exits when asked for, and changed ones are taken", () => {
    // mov eax, 0x12345678; hlt; out al, 0x80; hlt
    using m = machine(name, "b8 78563412 f4 e6 80 f4");
    if (!m.engine.can(Capability.SYNC_REGS)) return;
    const { run } = m.engine;
    run.syncRegisters = SYNC_REGS.REGS | SYNC_REGS.SREGS;
    expect(next(m.engine)).toBe("HLT");
    const state = decodeCpu(run.registers);
    expect([state.rax, state.rip, state.cs.selector]).toEqual([0x12345678, CODE + 6, 8]);
    expect(run.rip).toBe(BigInt(CODE + 6));
    run.registers.setBigUint64(0, 0x99n, true);
    run.u32[74] = SYNC_REGS.REGS; // kvm_dirty_regs
    expect(nextByte(m.engine)).toBe(0x99);
  });
});
