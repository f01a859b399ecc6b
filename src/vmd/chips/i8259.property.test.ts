import { expect, test } from "bun:test";
import fc from "fast-check";
import { I8259, I8259Registers } from "./i8259.ts";

/** One 8259A in the data sheet's terms, plainly. */
class Reference {
  /** Inputs, the one of highest priority first. */
  order = [0, 1, 2, 3, 4, 5, 6, 7];
  readonly line = Array<boolean>(8).fill(false);
  readonly edge = Array<boolean>(8).fill(false);
  readonly level = Array<boolean>(8).fill(false);
  readonly masked = Array<boolean>(8).fill(false);
  readonly served = Array<boolean>(8).fill(false);
  base = 0;
  /** Initialisation words still to come; undefined before the first ICW1. */
  expected: ("icw2" | "icw3" | "icw4")[] | undefined;
  single = false;
  autoEoi = false;
  specialNested = false;
  rotateInAutoEoi = false;
  specialMask = false;
  polled = false;
  showServed = false;

  constructor(readonly master: boolean) {}

  requests(input: number): boolean {
    return this.edge[input] || (this.level[input] && this.line[input]);
  }

  drive(input: number, up: boolean): void {
    if (up && !this.line[input] && !this.level[input]) this.edge[input] = true;
    this.line[input] = up;
  }

  /** The input to be served next. */
  next(): number | undefined {
    if (this.expected === undefined || this.expected.length > 0) return undefined;
    for (const input of this.order) {
      const transparent =
        (this.specialMask && this.masked[input]) ||
        (this.master && this.specialNested && input === 2);
      if (this.requests(input) && !this.masked[input]) {
        if (!this.served[input] || transparent) return input;
      }
      if (this.served[input] && !transparent) return undefined;
    }
    return undefined;
  }

  accept(input: number): void {
    this.edge[input] = false;
    if (!this.autoEoi) this.served[input] = true;
    else if (this.rotateInAutoEoi) this.makeLowest(input);
  }

  makeLowest(input: number): void {
    while (this.order[7] !== input) this.order.push(this.order.shift()!);
  }

  command(value: number): void {
    if (value & 0x10) {
      for (const bits of [this.edge, this.masked, this.served]) bits.fill(false);
      this.order = [0, 1, 2, 3, 4, 5, 6, 7];
      this.rotateInAutoEoi = this.specialMask = this.polled = this.showServed = false;
      this.single = (value & 2) !== 0;
      this.expected = this.single ? ["icw2"] : ["icw2", "icw3"];
      if (value & 1) this.expected.push("icw4");
      else this.autoEoi = this.specialNested = false;
    } else if (value & 0x08) {
      if (value & 0x04) this.polled = true;
      if (value & 0x02) this.showServed = (value & 1) !== 0;
      if (value & 0x40) this.specialMask = (value & 0x20) !== 0;
    } else {
      this.endOfInterrupt((value & 0x80) !== 0, (value & 0x40) !== 0, value);
    }
  }

  endOfInterrupt(rotate: boolean, specific: boolean, value: number): void {
    if ((value & 0x20) === 0) {
      if (!specific) this.rotateInAutoEoi = rotate;
      else if (rotate) this.makeLowest(value & 7);
      return;
    }
    let input: number | undefined = value & 7;
    if (!specific) {
      input = this.order.find((i) => this.served[i] && !(this.specialMask && this.masked[i]));
    }
    if (input === undefined) return;
    this.served[input] = false;
    if (rotate) this.makeLowest(input);
  }

  data(value: number): void {
    switch (this.expected?.shift()) {
      case "icw2":
        this.base = value & 0xf8;
        break;
      case "icw3":
        break;
      case "icw4":
        this.autoEoi = (value & 2) !== 0;
        this.specialNested = (value & 0x10) !== 0;
        break;
      default:
        for (let i = 0; i < 8; i++) this.masked[i] = ((value >> i) & 1) !== 0;
    }
  }
}

const pack = (bit: (input: number) => boolean): number =>
  [0, 1, 2, 3, 4, 5, 6, 7].reduce((sum, i) => sum | (bit(i) ? 1 << i : 0), 0);

/** The two of them, wired. */
class ReferencePair {
  readonly chips = [new Reference(true), new Reference(false)];
  slaveAsks = false;

  settle(): void {
    const asks = this.chips[1].next() !== undefined;
    if (asks && !this.slaveAsks) this.chips[0].edge[2] = true;
    this.slaveAsks = asks;
  }

  get pending(): boolean {
    return this.chips[0].next() !== undefined;
  }

  drive(irq: number, up: boolean): void {
    this.chips[irq >> 3].drive(irq & 7, up);
    this.settle();
  }

  acceptSlave(): number | undefined {
    const input = this.chips[1].next();
    if (input !== undefined) {
      this.chips[1].accept(input);
      this.slaveAsks = false;
    }
    return input;
  }

  acknowledge(): number {
    const [master, slave] = this.chips;
    const input = master.next();
    if (input === undefined) return master.base + 7;
    master.accept(input);
    let vector = master.base + input;
    if (input === 2 && !master.single) vector = slave.base + (this.acceptSlave() ?? 7);
    this.settle();
    return vector;
  }

  read(port: number): number {
    if (port >= 0x4d0) return pack((i) => this.chips[port & 1].level[i]);
    const chip = this.chips[port >> 7];
    if (chip.polled) {
      chip.polled = false;
      const input = chip.master ? chip.next() : this.acceptSlave();
      if (input === undefined) return 0;
      if (chip.master) chip.accept(input);
      this.settle();
      return 0x80 | input;
    }
    if (port & 1) return pack((i) => chip.masked[i]);
    return pack((i) => (chip.showServed ? chip.served[i] : chip.requests(i)));
  }

  write(port: number, value: number): void {
    if (port >= 0x4d0) {
      const chip = this.chips[port & 1];
      for (let i = 0; i < 8; i++) {
        const board = chip.master ? i <= 2 : i === 0 || i === 5;
        chip.level[i] = ((value >> i) & 1) !== 0 && !board;
        if (chip.level[i]) chip.edge[i] = false;
      }
    } else {
      const chip = this.chips[port >> 7];
      if (port & 1) chip.data(value);
      else chip.command(value);
      if (chip.master && !(port & 1) && value & 0x10) this.slaveAsks = false;
    }
    this.settle();
  }
}

const byte = fc.nat(0xff);
const irq = fc.nat(15).filter((n) => n !== 2);
const command = fc.constantFrom(0x20, 0xa0);
const elcr = fc.constantFrom(0x4d0, 0x4d1);
const writes = (...pairs: [number, number][]) => ({ do: "write", pairs }) as const;

const operation = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant("line" as const), irq, up: fc.boolean() }) },
  { weight: 4, arbitrary: fc.constant({ do: "acknowledge" as const }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("pulse" as const), irq }) },
  // EOI of every kind, OCW3, the mask
  { weight: 4, arbitrary: fc.tuple(command, byte).map(([p, v]) => writes([p, v & 0xe7])) },
  { weight: 2, arbitrary: command.map((p) => writes([p, 0x20])) },
  { weight: 2, arbitrary: fc.tuple(command, byte).map(([p, v]) => writes([p, 8 | (v & 0xef)])) },
  {
    weight: 2,
    arbitrary: fc.tuple(command, byte, byte).map(([p, v, w]) => writes([p + 1, v & w])),
  },
  { weight: 1, arbitrary: fc.tuple(elcr, byte).map(([p, v]) => writes([p, v])) },
  { weight: 1, arbitrary: fc.tuple(command, byte).map(([p, v]) => writes([p, 0x10 | (v & 3)])) },
  {
    weight: 3,
    arbitrary: fc.constantFrom(0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1).map((port) => ({
      do: "read" as const,
      port,
    })),
  },
);

test("any sequence goes as in the reference model", () => {
  const start = fc.record({ icw1: fc.constantFrom(0x11, 0x11, 0x11, 0x13), icw4: byte });
  fc.assert(
    fc.property(
      start,
      start,
      fc.array(operation, { maxLength: 60, size: "max" }),
      (master, slave, ops) => {
        const chip = new I8259(I8259Registers.standalone());
        const lines = Array.from({ length: 16 }, (_, i) => chip.line(i));
        const model = new ReferencePair();
        const write = (port: number, value: number): void => {
          chip.write(port, 1, value);
          model.write(port, value);
        };
        const drive = (to: number, up: boolean): void => {
          lines[to].set(up);
          model.drive(to, up);
        };
        const initialise = (port: number, base: number, { icw1, icw4 }: typeof master): void => {
          write(port, icw1);
          write(port + 1, base);
          if ((icw1 & 2) === 0) write(port + 1, 4);
          write(port + 1, icw4);
        };
        initialise(0x20, 0x20, master);
        initialise(0xa0, 0x28, slave);
        for (const op of ops) {
          if (op.do === "line") drive(op.irq, op.up);
          else if (op.do === "write") op.pairs.forEach(([port, value]) => write(port, value));
          else if (op.do === "read") expect(chip.read(op.port, 1)).toBe(model.read(op.port));
          else if (op.do === "acknowledge") expect(chip.acknowledge()).toBe(model.acknowledge());
          else {
            drive(op.irq, true);
            drive(op.irq, false);
          }
          if (chip.pending !== model.pending)
            expect([op, chip.pending]).toEqual([op, model.pending]);
        }
        for (const port of [0x20, 0xa0]) {
          for (const select of [0x0a, 0x0b]) {
            write(port, select);
            expect(chip.read(port, 1)).toBe(model.read(port)); // poll, if it was asked for
            expect(chip.read(port, 1)).toBe(model.read(port));
          }
        }
      },
    ),
    { numRuns: 10_000, seed: 1 },
  );
});
