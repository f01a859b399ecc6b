import { expect, test } from "bun:test";
import fc from "fast-check";
import { CR0, CR4, resetState, type CpuState } from "../cpu.ts";
import { ExitReason, fatalExit } from "../exit.ts";
import { MachineImage } from "../image.ts";
import {
  code,
  CODE,
  DESCRIPTORS,
  flatState,
  gate,
  GDT,
  IDT,
  longState,
  machine,
  MIB,
  nextByte,
  onEachEngine,
  rounds,
  SLOW,
} from "./machine.ts";

onEachEngine("hostile guests", ({ name, weak, full }) => {
  // Random bytes as code, stack, descriptors and page tables, in each mode; with `skip`,
  // exceptions lead to the next byte, so that a guest gets through much of its code.
  const guests = fc.record({
    bytes: fc.uint8Array({ minLength: 4096, maxLength: 4096, size: "max" }),
    skip: fc.boolean(),
    mode: fc.constantFrom("real", "flat", "paged", "long"),
    registers: fc.array(fc.integer({ min: 0, max: 0xfffff }), { minLength: 8, maxLength: 8 }),
  });

  full(
    "end in some exit, and the engine runs on",
    () => {
      fc.assert(
        fc.property(guests, ({ bytes, mode, registers, skip }) => {
          using m = machine(name);
          const { engine, image } = m;
          for (let at = 0; at < MIB; at += 4096) image.memory.write(at, bytes);
          const [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp] = registers;
          const general = { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp };
          if (skip) skipFaults(image, mode);
          engine.setCpu(hostile(mode, general));
          const { run } = engine;
          const limit = engine.now() + 4e6;
          for (let exits = 0; exits < 100 && engine.now() < limit; exits++) {
            engine.setDeadline(limit);
            if (engine.enter() < 0 || fatalExit(run) !== undefined) break;
            if (run.reason === ExitReason.SHUTDOWN) break;
            if (run.reason === ExitReason.IO) run.u8.fill(0xff, run.ioData, run.ioData + 4);
            if (run.reason === ExitReason.RDMSR) run.msrError = true;
            if (run.readyForInterrupt && exits % 3 === 0) engine.interrupt(exits);
          }
          engine.getCpu();
          image.memory.write(CODE, code("b0 5a e6 80 f4"));
          engine.setCpu(flatState());
          expect(nextByte(engine)).toBe(0x5a);
        }),
        { numRuns: rounds(200), seed: 4 },
      );
    },
    SLOW,
  );

  test("registers that no processor can hold don't end the process", () => {
    using m = machine(name);
    const { engine, image } = m;
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 600, maxLength: 600 }), (bytes) => {
        engine.saveCpu();
        const { cpu } = image;
        new Uint8Array(cpu.buffer, cpu.byteOffset, 456).set(bytes.subarray(0, 456));
        try {
          engine.loadCpu();
          engine.setDeadline(engine.now() + 1e6);
          if (!weak) engine.enter();
        } catch (error) {
          expect(String(error)).toMatch(/CPU registers/);
        }
      }),
      { numRuns: rounds(50), seed: 5 },
    );
  });
});

function hostile(mode: string, general: Partial<CpuState>): CpuState {
  const rip = CODE;
  if (mode === "real") {
    const base = resetState();
    return { ...base, ...general, rip, cs: { ...base.cs, selector: 0, base: 0 } };
  }
  if (mode === "flat") return flatState({ ...general, rip });
  if (mode === "paged") {
    const cr0 = (CR0.PE | CR0.ET | CR0.PG | CR0.WP) >>> 0;
    return flatState({ ...general, rip, cr0, cr4: CR4.PSE | CR4.OSFXSR, cr3: 0x9000 });
  }
  return longState({ ...general, rip, cr3: 0x10000 });
}

/** Page tables for the first megabytes, descriptors, and handlers that go on behind the fault. */
function skipFaults(image: MachineImage, mode: string): void {
  const { memory } = image;
  if (mode === "real") {
    for (let vector = 0; vector < 256; vector++) memory.write32(vector * 4, 0x6000);
    memory.write(0x6000, code("55 89 e5 ff 46 02 5d cf")); // inc word [ip]; iret
    return;
  }
  memory.write(GDT, DESCRIPTORS);
  memory.write32(0x9000, 0x87);
  if (mode !== "long") {
    memory.write(0x6000, code("83 c4 04 ff 04 24 cf")); // drop the code; inc dword [esp]; iret
    for (let vector = 0; vector < 256; vector++) gate(image, vector, 0x6003);
    for (const vector of [8, 10, 11, 12, 13, 14, 17]) gate(image, vector, 0x6000);
    return;
  }
  memory.write64(0x10000, 0x11007);
  memory.write64(0x11000, 0x12007);
  memory.write64(0x12000, 0x87);
  memory.write(0x6000, code("48 83 c4 08 48 ff 04 24 48 cf"));
  for (let vector = 0; vector < 64; vector++) {
    const at = IDT + vector * 16;
    const handler = [8, 10, 11, 12, 13, 14, 17].includes(vector) ? 0x6000 : 0x6004;
    memory.write32(at, ((0x18 << 16) | handler) >>> 0);
    memory.write32(at + 4, 0x8e00);
    memory.write64(at + 8, 0);
  }
}
