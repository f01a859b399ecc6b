/** What holds of every chip: no guest makes it throw, and its registers are all of its state. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Clock, ClockRegisters, ManualTime } from "../../vmm/clock.ts";
import { GuestMemory } from "../../vmm/memory.ts";
import type { Declaration, RegisterLayout, Registers } from "../../vmm/registers.ts";
import type { PortDevice, Resettable, Size } from "../device.ts";
import {
  DebugPort,
  FwCfg,
  FwCfgRegisters,
  HOST_BRIDGE,
  I8253,
  I8253Registers,
  I8259,
  I8259Registers,
  IsaDebugExit,
  Mc146818,
  Mc146818Registers,
  Ns8250,
  Ns8250Registers,
  Pci,
  PciFunction,
  PciFunctionRegisters,
  PciRegisters,
  Port61,
  Port61Registers,
  Reset,
  ResetRegisters,
} from "./index.ts";

const RAM = 0x1000;

/** Registers, a clock and memory, and what the chips on them did to the outside. */
class Board {
  readonly image: ArrayBuffer;
  readonly time = new ManualTime();
  readonly clock: Clock;
  readonly memory = GuestMemory.standalone(RAM);
  effects: unknown[] = [];
  #end = 0;

  constructor(image: ArrayBuffer, now: number) {
    this.image = image;
    this.time.time = now;
    this.clock = new Clock(this.bind(ClockRegisters), this.time);
    this.time.clock = this.clock;
  }

  /** The same registers and memory, elsewhere. */
  copy(): Board {
    const copy = new Board(this.image.slice(0), this.time.time);
    const ram = new Uint8Array(RAM);
    this.memory.read(0, ram);
    copy.memory.write(0, ram);
    return copy;
  }

  /** Whether registers and memory are those of another. */
  equals(other: Board): boolean {
    const [mine, theirs] = [new Uint8Array(RAM), new Uint8Array(RAM)];
    this.memory.read(0, mine);
    other.memory.read(0, theirs);
    return Bun.deepEquals([this.image, mine], [other.image, theirs]);
  }

  bind<D extends Declaration>(layout: RegisterLayout<D>): Registers<D> {
    const registers = layout.bind(this.image, this.#end);
    this.#end += layout.size;
    return registers;
  }

  readonly note = (...effect: unknown[]): void => void this.effects.push(effect);

  line(name: string): { set(level: boolean): void } {
    return { set: (level) => this.note(name, level) };
  }
}

interface Rig {
  readonly chips: readonly (PortDevice & Partial<Resettable>)[];
  /** What else the world does to the chip. */
  event?(which: number, value: number): unknown;
}

interface Subject {
  readonly ports: readonly number[];
  build(board: Board): Rig;
}

const subjects: Record<string, Subject> = {
  i8259: {
    ports: [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1],
    build(board) {
      const pic = new I8259(board.bind(I8259Registers));
      const lines = Array.from({ length: 32 }, (_, i) => pic.line(i & 15));
      return {
        chips: [pic],
        event: (which, value) =>
          which < 6 ? lines[value & 31].set(which < 3) : [pic.pending, pic.acknowledge()],
      };
    },
  },
  "i8253 and port 0x61": {
    ports: [0x40, 0x41, 0x42, 0x43, 0x61],
    build(board) {
      const pit = new I8253(board.bind(I8253Registers), board.clock, board.line("irq"));
      return { chips: [pit, new Port61(board.bind(Port61Registers), board.clock, pit)] };
    },
  },
  mc146818: {
    ports: [0x70, 0x71],
    build(board) {
      const irq = board.line("irq");
      return { chips: [new Mc146818(board.bind(Mc146818Registers), board.clock, irq)] };
    },
  },
  ns8250: {
    ports: [0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff],
    build(board) {
      const transmit = (byte: number): boolean => {
        board.note("transmit", byte);
        return (byte & 3) !== 0;
      };
      const uart = new Ns8250(
        board.bind(Ns8250Registers),
        board.clock,
        board.line("irq"),
        { transmit },
        () => board.note("wanted"),
      );
      return {
        chips: [uart],
        event(which, value) {
          if (which < 4) return uart.receive(value & 0xff);
          if (which < 6) return uart.receiveBreak();
          return which === 6 ? uart.drain() : uart.setModem(value & 0xff);
        },
      };
    },
  },
  reset: {
    ports: [0x60, 0x64, 0x92, 0xcf9],
    build: (board) => ({ chips: [new Reset(board.bind(ResetRegisters), board.note)] }),
  },
  "debug ports": {
    ports: [0x402, 0xf4],
    build: (board) => ({ chips: [new DebugPort(board.note), new IsaDebugExit(board.note)] }),
  },
  pci: {
    ports: [0xcf8, 0xcf8, 0xcfc, 0xcfd, 0xcfe, 0xcff],
    build(board) {
      const pci = new Pci(board.bind(PciRegisters));
      pci.add(new PciFunction(board.bind(PciFunctionRegisters), HOST_BRIDGE));
      const f = new PciFunction(
        board.bind(PciFunctionRegisters),
        {
          ...HOST_BRIDGE,
          irq: 5,
          bars: [
            { index: 0, space: "io", size: 0x100, address: 0x1000 },
            { index: 1, space: "memory", size: 0x1000 },
            { index: 2, space: "memory", size: 0x10000, wide: true },
          ],
          capabilities: [{ id: 9, data: new Uint8Array(6), writable: new Uint8Array(6).fill(15) }],
        },
        board.line("inta"),
        (bar, from, to) => board.note("bar", bar.index, from, to),
      );
      pci.add(f);
      return { chips: [pci], event: (_, value) => f.interrupt((value & 1) !== 0) };
    },
  },
  fw_cfg: {
    ports: [0x510, 0x511, 0x514, 0x518],
    build(board) {
      const files = ["a", "b"].map((name) => ({ name, data: new Uint8Array(77).fill(7) }));
      const { memory } = board;
      return {
        chips: [new FwCfg(board.bind(FwCfgRegisters), memory, { cpus: 1, files })],
        event: (which, value) => memory.write8(0x100 + which, value & 0xff),
      };
    },
  },
};

/** Values that mean something to some chip, among any. */
const value = fc.oneof(
  fc.nat(0xff),
  fc.nat(0x3f),
  fc.nat(0xffff),
  fc.integer({ min: 0, max: 0xffffffff }),
  fc.constantFrom(0x80000800, 0x80000810, 0x80000814, 0x80000804, 0x00010000, 0x1001, 0xffffffff),
);

const step = fc.oneof(
  fc.record({
    do: fc.constant("read" as const),
    port: fc.nat(7),
    size: fc.constantFrom<Size>(1, 1, 2, 4),
  }),
  fc.record({
    do: fc.constant("write" as const),
    port: fc.nat(7),
    size: fc.constantFrom<Size>(1, 1, 2, 4),
    value,
  }),
  fc.record({ do: fc.constant("event" as const), which: fc.nat(7), value }),
  fc.record({
    do: fc.constant("pass" as const),
    ns: fc.oneof(fc.nat(2000), fc.nat(3_000_000), fc.nat(1e10), fc.double({ min: 0, max: 1e17 })),
  }),
  { weight: 1, arbitrary: fc.constant({ do: "reset" as const }) },
);

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const ONES: Record<Size, number> = { 1: 0xff, 2: 0xffff, 4: 0xffffffff };

/** Takes one step; what came of it. */
function take(board: Board, rig: Rig, ports: readonly number[], s: Step): unknown {
  if (s.do === "pass") {
    board.time.time += s.ns;
    board.clock.expire();
    return board.clock.deadline;
  }
  if (s.do === "event") return rig.event?.(s.which, s.value);
  if (s.do === "reset") return rig.chips.forEach((chip) => chip.reset?.());
  const index = s.port % ports.length;
  // The last chip has the last port; the others belong to the first.
  const chip = index === ports.length - 1 ? rig.chips[rig.chips.length - 1] : rig.chips[0];
  const port = ports[index];
  if (s.do === "write") {
    return chip.write(port, s.size, (s.value & ONES[s.size]) >>> 0);
  }
  const got = chip.read(port, s.size);
  if (!Number.isInteger(got) || got < 0 || got > ONES[s.size]) {
    throw new Error(`read of port ${port}, ${s.size} bytes, gave ${got}`);
  }
  return got;
}

describe.each(Object.entries(subjects))("%s", (_, { ports, build }) => {
  test("answers anything, and goes on the same from a copy of its registers", () => {
    const steps = fc.array(step, { maxLength: 30, size: "max" });
    fc.assert(
      fc.property(steps, steps, fc.boolean(), (before, after, powered) => {
        const original = new Board(new ArrayBuffer(0x1000), 0);
        const rig = build(original);
        if (powered) rig.chips.forEach((chip) => chip.reset?.());
        for (const s of before) take(original, rig, ports, s);

        const copy = original.copy();
        const twin = build(copy);
        expect(copy.equals(original)).toBe(true); // making the twin wrote no register

        original.effects = [];
        for (const s of after) {
          expect(take(copy, twin, ports, s)).toEqual(take(original, rig, ports, s));
        }
        expect(copy.effects).toEqual(original.effects);
        expect(copy.equals(original)).toBe(true);
      }),
      { numRuns: 10_000, seed: 1 },
    );
  });
});
