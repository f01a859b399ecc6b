/**
 * The conformance suite: what an engine must do, the same for all of them. Guests here are a few
 * bytes of machine code; what takes a program is in golden/small.
 *
 * A KVM that can't run a stock kernel (select.ts) passes all but what is marked so: it emulates
 * instructions, and not all of them.
 */
import { afterAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { CR0, CR4, EFER, flat, GENERAL_REGISTERS, resetState, type CpuState } from "./cpu.ts";
import { CPU_LAYOUT, decodeCpu, SEGMENTS } from "./cpu-codec.ts";
import {
  Capability,
  Engine,
  EngineError,
  ENGINES,
  type EngineName,
  kickEngine,
  probe,
  type TimeMode,
} from "./engine.ts";
import { ExitReason, exitName, fatalExit, IO_OUT, SYNC_REGS } from "./exit.ts";
import { MachineImage, type RangeRequest } from "./image.ts";
import { selfTest, whyNotKvm } from "./select.ts";

fc.configureGlobal({ includeErrorInReport: true });

const MIB = 2 ** 20;
const CODE = 0x1000;
const STACK = 0x8000;
const IDT = 0x3000;
const GDT = 0x2000;
/** Long enough on any host; a test that gets here fails. */
const LIMIT_NS = 10e9;

// The lab's processor is emulated: a tenth of the rounds there. VMD_ROUNDS=50 for a long run by hand.
const inLab = process.env.VMD_LAB !== undefined;
const scale = Number(process.env.VMD_ROUNDS ?? (inLab ? 0.1 : 1));
const rounds = (count: number) => Math.ceil(count * scale);

// The lab is for KVM: it makes software engines slow, and shows nothing new of them.
const engines = ENGINES.filter((name) => probe(name).available && !(inLab && name !== "kvm"));
const weakKvm = engines.includes("kvm") ? whyNotKvm() : undefined;
for (const name of ENGINES) {
  if (!engines.includes(name)) console.log(`conformance: not on ${name}: ${probe(name).why}`);
}
if (weakKvm !== undefined) console.log(`conformance: kvm in part only, since ${weakKvm}`);

/** Machine code as hexadecimal bytes; anything after # is comment. */
function code(text: string): Uint8Array {
  const bytes = text.replaceAll(/#.*$/gm, "").match(/[0-9a-f]{2}/gi) ?? [];
  return Uint8Array.from(bytes, (byte) => parseInt(byte, 16));
}

const data = flat(0x10, "data");

const SLOW = 60_000 * Math.max(1, scale);

/** 32-bit protected mode, flat, at CODE. */
function flatState(overrides: Partial<CpuState> = {}): CpuState {
  return {
    ...resetState(),
    cs: flat(0x8, "code32"),
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    gdt: { base: GDT, limit: 0x1f },
    idt: { base: IDT, limit: 0x7ff },
    rip: CODE,
    rsp: STACK,
    cr0: CR0.PE | CR0.ET,
    ...overrides,
  };
}

/** Long mode at CODE, with the page tables of `mapLow`. */
function longState(overrides: Partial<CpuState> = {}): CpuState {
  return flatState({
    cs: flat(0x18, "code64"),
    cr0: (CR0.PE | CR0.ET | CR0.PG) >>> 0,
    cr3: 0x10000,
    cr4: CR4.PAE,
    efer: EFER.LME | EFER.LMA,
    ...overrides,
  });
}

const DESCRIPTORS = code("0000000000000000 ffff0000009bcf00 ffff00000093cf00 ffff0000009baf00");

interface Machine extends Disposable {
  image: MachineImage;
  engine: Engine;
}

const RAM: RangeRequest[] = [{ base: 0, size: MIB, readonly: false }];

function machine(
  name: EngineName,
  program = "",
  { ranges = RAM, time }: { ranges?: RangeRequest[]; time?: TimeMode } = {},
): Machine {
  const image = new MachineImage(ranges);
  const { memory } = image;
  memory.write(CODE, code(program));
  memory.write(GDT, DESCRIPTORS);
  const engine = Engine.open(name, image, time);
  engine.setCpu(flatState());
  return {
    image,
    engine,
    [Symbol.dispose]() {
      engine[Symbol.dispose]();
      image[Symbol.dispose]();
    },
  };
}

/** A 32-bit interrupt gate. */
function gate(image: MachineImage, vector: number, handler: number): void {
  image.memory.write32(IDT + vector * 8, ((8 << 16) | (handler & 0xffff)) >>> 0);
  image.memory.write32(IDT + vector * 8 + 4, ((handler & 0xffff0000) | 0x8e00) >>> 0);
}

/** 2 MiB pages for `gib` GiB from 0, at 0x10000. */
function mapLow(image: MachineImage, gib = 1): void {
  const { memory } = image;
  memory.write64(0x10000, 0x11007);
  for (let i = 0; i < gib; i++) {
    memory.write64(0x11000 + i * 8, 0x12007 + i * 0x1000);
    for (let j = 0; j < 512; j++) {
      memory.write64(0x12000 + i * 0x1000 + j * 8, (i * 512 + j) * 0x200000 + 0x87);
    }
  }
}

/** Runs to the next exit that the guest caused. */
function next(engine: Engine): string {
  const limit = engine.now() + LIMIT_NS;
  engine.setDeadline(limit);
  for (;;) {
    const result = engine.enter();
    if (result < 0) return `errno ${-result}`;
    if (engine.run.reason !== ExitReason.INTR) return exitName(engine.run.reason);
    if (engine.now() >= limit) return "nothing in time";
    engine.setDeadline(limit);
  }
}

/** Runs to an OUT of a byte; the byte. */
function nextByte(engine: Engine): number | string {
  const exit = next(engine);
  const { run } = engine;
  if (exit !== "IO" || run.ioDirection !== IO_OUT) return exit;
  return run.u8[run.ioData];
}

const SPIN = "eb fe";
const openDescriptors = () => readdirSync("/proc/self/fd").length;

// A thread that kicks when told. Shared words: round (-1 ends it), delay in ms, round that is done.
const KICKER = `
  const { kickEngine } = await import(${JSON.stringify(pathToFileURL(`${import.meta.dir}/engine.ts`).href)});
  self.onmessage = ({ data: { name, handle, shared } }) => {
    const flags = new Int32Array(shared);
    for (let round = 1; ; round++) {
      Atomics.wait(flags, 0, round - 1);
      if (Atomics.load(flags, 0) < 0) return postMessage("over");
      Bun.sleepSync(Atomics.load(flags, 1));
      kickEngine(name, handle);
      Atomics.store(flags, 2, round);
    }
  };
  postMessage("ready");
`;

class Kicker {
  readonly #worker: Worker;
  readonly #shared = new SharedArrayBuffer(16);
  readonly #flags = new Int32Array(this.#shared);
  #round = 0;

  private constructor(worker: Worker) {
    this.#worker = worker;
  }

  static async start(name: EngineName, engine: Engine): Promise<Kicker> {
    const url = URL.createObjectURL(new Blob([KICKER], { type: "application/javascript" }));
    const worker = new Worker(url);
    await new Promise((resolve) => {
      worker.onmessage = resolve;
    });
    URL.revokeObjectURL(url);
    const kicker = new Kicker(worker);
    worker.postMessage({ name, handle: engine.handle, shared: kicker.#shared });
    return kicker;
  }

  /** Kicks `ms` after this call. */
  kickIn(ms: number): void {
    Atomics.store(this.#flags, 1, ms);
    Atomics.store(this.#flags, 0, ++this.#round);
    Atomics.notify(this.#flags, 0);
  }

  async stop(): Promise<void> {
    while (Atomics.load(this.#flags, 2) !== this.#round) Bun.sleepSync(1);
    const over = new Promise((resolve) => {
      this.#worker.onmessage = resolve;
    });
    Atomics.store(this.#flags, 0, -1);
    Atomics.notify(this.#flags, 0);
    await over;
    this.#worker.terminate();
  }
}

afterAll(() => Bun.gc(true));

test("an engine that isn't there says why in one sentence", () => {
  for (const name of ENGINES) {
    const { available, why } = probe(name);
    expect(why === "").toBe(available);
    expect(why).not.toMatch(/[.\n]$/);
  }
});

for (const name of engines) {
  const weak = name === "kvm" && weakKvm !== undefined;
  /** What needs a processor that runs every instruction. */
  const full = test.skipIf(weak);

  describe(name, () => {
    describe("opening and closing", () => {
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

    describe("exits", () => {
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

    describe("registers", () => {
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
          mxcsr: fc
            .integer({ min: 0, max: 7 })
            .map((v) => 0x1f80 | ((v & 3) << 13) | ((v & 4) << 13)),
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

    describe("interrupts", () => {
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

    describe("kicks and deadlines", () => {
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

    describe("memory", () => {
      test("the guest sees what the host writes, also over code it has run", () => {
        // loop: mov al, 1; out al, 0x80; jmp loop
        using m = machine(name, "b0 01 e6 80 eb fa");
        const { engine, image } = m;
        expect(nextByte(engine)).toBe(1);
        expect(nextByte(engine)).toBe(1);
        image.memory.write8(CODE + 1, 2);
        expect(nextByte(engine)).toBe(2);
        image.memory.write(CODE, code("b0 03"));
        expect(nextByte(engine)).toBe(3);
      });

      test("ROM is read and run; writes to it exit and change nothing", () => {
        const rom = 0xffff0000;
        // mov eax, [rom + 0x100]; mov [rom + 0x100], cl; mov ebx, [rom + 0x100]; hlt
        const ranges = [...RAM, { base: rom, size: 0x10000, readonly: true }];
        using m = machine(name, "", { ranges });
        const { engine, image } = m;
        image.memory.placeRom(rom, code("a1 0001ffff 88 0d 0001ffff 8b 1d 0001ffff f4"));
        image.memory.placeRom(rom + 0x100, code("78563412"));
        engine.setCpu(flatState({ rip: rom, rcx: 0x55 }));
        expect(next(engine)).toBe("MMIO");
        const { run } = engine;
        expect([run.mmioIsWrite, run.mmioAddress, run.mmioLength]).toEqual([true, rom + 0x100, 1]);
        expect(next(engine)).toBe("HLT");
        const { rax, rbx } = engine.getCpu();
        expect([rax, rbx]).toEqual([0x12345678, 0x12345678]);
      });

      test("RAM above 4 GiB", () => {
        const ranges = [
          { base: 0, size: 0xf0000000, readonly: false },
          { base: 2 ** 32, size: 0x30000000, readonly: false },
        ];
        using m = machine(name, "", { ranges });
        const { engine, image } = m;
        mapLow(image, 5);
        // mov [rbx], rax; mov rcx, [rbx+8]; inc byte [rdi]; call rsi; hlt
        image.memory.write(CODE, code("48 89 03 48 8b 4b 08 fe 07 ff d6 f4"));
        const high = 2 ** 32 + 0x2fff0000;
        image.memory.write64(high + 8, 0x1_2345_6789);
        image.memory.write(high + 0x800, code("b0 77 c3")); // mov al, 0x77; ret
        image.memory.write8(0xefffffff, 4);
        engine.setCpu(
          longState({ rax: 0xa_bcde_f012, rbx: high, rsi: high + 0x800, rdi: 0xefffffff }),
        );
        expect(next(engine)).toBe("HLT");
        expect(image.memory.read64(high)).toBe(0xa_bcde_f012);
        expect(image.memory.read8(0xefffffff)).toBe(5);
        const { rcx, rax } = engine.getCpu();
        expect([rcx, rax % 256]).toEqual([0x1_2345_6789, 0x77]);
        // The hole is MMIO; so is what lies behind the RAM.
        image.memory.write(CODE, code("8a 03 f4"));
        for (const address of [0xf0000000, 2 ** 32 + 0x30000000]) {
          engine.setCpu(longState({ rbx: address }));
          expect(next(engine)).toBe("MMIO");
          expect(engine.run.mmioAddress).toBe(address);
        }
        expect(image.resident).toBeLessThan(64 * MIB);
      });

      test("dirty pages", () => {
        using m = machine(name, "");
        const { engine, image } = m;
        if (!engine.can(Capability.DIRTY_LOG)) return;
        const bitmap = new Uint8Array(32);
        const pages = () => {
          bitmap.fill(0);
          const count = engine.dirtyPages(0, bitmap);
          const list: number[] = [];
          for (let i = 0; i < 256; i++) if ((bitmap[i >> 3] >> (i & 7)) & 1) list.push(i);
          expect(list.length).toBe(count);
          return list;
        };
        // mov [0x20000], al; mov [0x4ffff], eax (two pages); push eax; mov bl, [0x60000]; hlt
        image.memory.write(CODE, code("a2 00000200 a3 ffff0400 50 8a 1d 00000600 f4"));
        pages();
        expect(pages()).toEqual([]);
        engine.setCpu(flatState());
        expect(next(engine)).toBe("HLT");
        const wanted = [0x07, 0x20, 0x4f, 0x50];
        if (engine.can(Capability.EXACT_DIRTY)) expect(pages()).toEqual(wanted);
        else expect(pages()).toEqual(expect.arrayContaining(wanted));
        expect(pages()).toEqual([]);
        // Again: pages that were written before are seen again.
        engine.setCpu(flatState());
        expect(next(engine)).toBe("HLT");
        expect(pages()).toEqual(expect.arrayContaining(wanted));
        if (engine.can(Capability.EXACT_DIRTY)) {
          image.memory.write32(0x70ffe, 1);
          expect(pages()).toEqual([0x70, 0x71]);
        }
        expect(() => engine.dirtyPages(0, new Uint8Array(8))).toThrow();
        expect(() => engine.dirtyPages(7, bitmap)).toThrow();
      });
    });

    describe("virtual time", () => {
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

      test.skipIf(!virtual)(
        "a deadline comes at its block; a wait and a warp move the clock",
        () => {
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
        },
      );
    });

    describe("hostile guests", () => {
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
  });
}

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

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

function canonical(value: bigint): bigint {
  return BigInt.asUintN(64, BigInt.asIntN(48, value));
}

/** What an MSR may hold, of a random value. The TSC, and what hosts have their own mind of, not. */
const VALID_MSR: Record<number, (value: bigint) => bigint> = {
  0x174: (value) => value & 0xffffn,
  // AMD keeps 32 bits of these two.
  0x175: (value) => value & 0x7fffffffn,
  0x176: (value) => value & 0x7fffffffn,
  0x277: (value) => (value & 0x0101010101010101n) * 6n,
  0xc0000081: (value) => value,
  0xc0000082: canonical,
  0xc0000083: canonical,
  0xc0000084: (value) => value & 0xffffffffn,
  0xc0000102: canonical,
};

/** States that a processor can be in, of real, protected and long mode. */
const cpuStates: fc.Arbitrary<CpuState> = fc
  .record({
    mode: fc.constantFrom("real", "16", "32", "64"),
    general: fc.array(fc.maxSafeNat(), { minLength: 18, maxLength: 18 }),
    cpl: fc.constantFrom(0, 3),
    bases: fc.array(fc.integer({ min: 0, max: 0xffffffff }), { minLength: 8, maxLength: 8 }),
    limits: fc.array(fc.integer({ min: 0x100, max: 0xfffff }), { minLength: 8, maxLength: 8 }),
    large: fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
    selectors: fc.array(fc.integer({ min: 0, max: 0xffff }), { minLength: 8, maxLength: 8 }),
    tables: fc.array(fc.integer({ min: 0, max: 0xffff }), { minLength: 4, maxLength: 4 }),
    cr2: fc.integer({ min: 0, max: 0xffffffff }),
    cr3: fc.integer({ min: 0, max: 0xfffff }),
    cr4: fc.integer({ min: 0, max: 0xffff }),
    flags: fc.integer({ min: 0, max: 0xffffffff }),
  })
  .map((r) => {
    const state = resetState();
    const long = r.mode === "64";
    const real = r.mode === "real";
    GENERAL_REGISTERS.forEach((register, i) => {
      state[register] = long ? r.general[i] % 2 ** 47 : r.general[i] % 2 ** 32;
    });
    // CF PF AF ZF SF IF DF OF, IOPL, NT, AC, ID
    const flags = 0x200ed5 | (real ? 0 : 0x7000) | 0x40000;
    state.rflags = ((r.flags & flags) | 2) >>> 0;
    state.cr0 = CR0.ET | CR0.NE | (real ? 0 : CR0.PE) | (long ? CR0.PG | CR0.WP : 0);
    state.cr0 >>>= 0;
    state.cr2 = r.cr2;
    state.cr3 = r.cr3 * 4096;
    // TSD DE PSE PGE OSFXSR OSXMMEXCPT
    state.cr4 = (r.cr4 & 0x69c) | (long ? CR4.PAE : 0);
    state.efer = long ? EFER.SCE | EFER.LME | EFER.LMA | EFER.NX : 0;
    state.gdt = { base: r.bases[0], limit: r.tables[0] };
    state.idt = { base: r.bases[1], limit: r.tables[1] };
    SEGMENTS.forEach((name, i) => {
      const segment = { ...state[name] };
      segment.selector = r.selectors[i];
      segment.base = real && i < 6 ? segment.selector * 16 : r.bases[i];
      if (!real) {
        const large = r.large[i] && i < 6;
        segment.g = large ? 1 : 0;
        segment.limit = large ? r.limits[i] * 4096 + 4095 : r.limits[i];
        if (large && segment.limit <= 0xfffff) segment.limit = 0xffffffff;
        if (i < 6) {
          segment.dpl = name === "cs" || name === "ss" ? r.cpl : 3;
          segment.selector = (segment.selector & ~3) | segment.dpl;
          segment.db = r.mode === "32" || (long && name !== "cs") ? 1 : 0;
          if (name === "cs") segment.l = long ? 1 : 0;
        }
      }
      state[name] = segment;
    });
    return state;
  });
