/**
 * The conformance suite: what an engine must do, the same for all of them, a file for each subject.
 * Guests here are a few bytes of machine code; what takes a program is in golden/small.
 *
 * A KVM that can't run a stock kernel (select.ts) passes all but what is marked so: it emulates
 * instructions, and not all of them.
 */
import { afterAll, describe, test } from "bun:test";
import fc from "fast-check";
import { CR0, CR4, EFER, flat, resetState, type CpuState } from "../cpu.ts";
import { Engine, ENGINES, type EngineName, probe, type TimeMode } from "../engine.ts";
import { ExitReason, exitName, IO_OUT } from "../exit.ts";
import { MachineImage, type RangeRequest } from "../image.ts";
import { whyNotKvm } from "../select.ts";

fc.configureGlobal({ includeErrorInReport: true });

export const MIB = 2 ** 20;
export const CODE = 0x1000;
export const STACK = 0x8000;
export const IDT = 0x3000;
export const GDT = 0x2000;
/** Long enough on any host; a test that gets here fails. */
export const LIMIT_NS = 10e9;

// The lab's processor is emulated: a tenth of the rounds there. VMD_ROUNDS=50 for a long run by hand.
export const inLab = process.env.VMD_LAB !== undefined;
const scale = Number(process.env.VMD_ROUNDS ?? (inLab ? 0.1 : 1));
export const rounds = (count: number) => Math.ceil(count * scale);

// The lab is for KVM: it makes software engines slow, and shows nothing new of them.
export const engines = ENGINES.filter(
  (name) => probe(name).available && !(inLab && name !== "kvm"),
);
const weakKvm = engines.includes("kvm") ? whyNotKvm() : undefined;
for (const name of ENGINES) {
  if (!engines.includes(name)) console.log(`conformance: not on ${name}: ${probe(name).why}`);
}
if (weakKvm !== undefined) console.log(`conformance: kvm in part only, since ${weakKvm}`);

/** Machine code as hexadecimal bytes; anything after # is comment. */
export function code(text: string): Uint8Array {
  const bytes = text.replaceAll(/#.*$/gm, "").match(/[0-9a-f]{2}/gi) ?? [];
  return Uint8Array.from(bytes, (byte) => parseInt(byte, 16));
}

export const data = flat(0x10, "data");

export const SLOW = 60_000 * Math.max(1, scale);

/** 32-bit protected mode, flat, at CODE. */
export function flatState(overrides: Partial<CpuState> = {}): CpuState {
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
export function longState(overrides: Partial<CpuState> = {}): CpuState {
  return flatState({
    cs: flat(0x18, "code64"),
    cr0: (CR0.PE | CR0.ET | CR0.PG) >>> 0,
    cr3: 0x10000,
    cr4: CR4.PAE,
    efer: EFER.LME | EFER.LMA,
    ...overrides,
  });
}

export const DESCRIPTORS = code(
  "0000000000000000 ffff0000009bcf00 ffff00000093cf00 ffff0000009baf00",
);

export interface Machine extends Disposable {
  image: MachineImage;
  engine: Engine;
}

export const RAM: RangeRequest[] = [{ base: 0, size: MIB, readonly: false }];

export function machine(
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
export function gate(image: MachineImage, vector: number, handler: number): void {
  image.memory.write32(IDT + vector * 8, ((8 << 16) | (handler & 0xffff)) >>> 0);
  image.memory.write32(IDT + vector * 8 + 4, ((handler & 0xffff0000) | 0x8e00) >>> 0);
}

/** 2 MiB pages for `gib` GiB from 0, at 0x10000. */
export function mapLow(image: MachineImage, gib = 1): void {
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
export function next(engine: Engine): string {
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
export function nextByte(engine: Engine): number | string {
  const exit = next(engine);
  const { run } = engine;
  if (exit !== "IO" || run.ioDirection !== IO_OUT) return exit;
  return run.u8[run.ioData];
}

export const SPIN = "eb fe";
/** What a subject's tests get. */
export interface Subject {
  readonly name: EngineName;
  /** It runs too few instructions for stock kernels. */
  readonly weak: boolean;
  /** A test of what needs a processor that runs every instruction. */
  readonly full: (name: string, run: () => void | Promise<void>, timeout?: number) => void;
}

/** The same tests on each engine of this host. */
export function onEachEngine(subject: string, tests: (on: Subject) => void): void {
  for (const name of engines) {
    const weak = name === "kvm" && weakKvm !== undefined;
    describe(name, () => {
      describe(subject, () => tests({ name, weak, full: test.skipIf(weak) }));
      afterAll(() => Bun.gc(true));
    });
  }
}
