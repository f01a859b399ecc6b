import { expect, test } from "bun:test";
import fc from "fast-check";
import { manualClock } from "../../vmm/clock.ts";
import { I8253, I8253Registers, MIN_PERIOD, nsAt } from "./i8253.ts";

/** One counter of an 82C54, tick by tick, as the data sheet's mode pages tell it. */
class Reference {
  mode = 3;
  access = 3;
  bcd = false;
  control = 0x36;
  out = true;
  gate: boolean;
  /** CR; undefined until a count is written. */
  reload: number | undefined = 0x10000;
  /** CE, and the count that it started from. */
  element = 0x10000;
  started: number | undefined = 0x10000;
  /** CR is moved to CE at the next tick. */
  transfer = false;
  stopped = false;
  /** The terminal count of modes 0, 1, 4, 5 has effect. */
  live = false;
  null = false;
  firstByte: number | undefined;
  readMsb = false;
  latches: number[] = [];
  statusLatch: number | undefined;
  rises = 0;

  constructor(gate: boolean) {
    this.gate = gate;
  }

  setOut(level: boolean): void {
    if (level && !this.out) this.rises++;
    this.out = level;
  }

  get top(): number {
    return this.bcd ? 9999 : 0xffff;
  }

  tick(): void {
    const { mode } = this;
    const strobing = (mode === 4 || mode === 5) && !this.out;
    if (strobing) this.setOut(true);
    if (this.transfer) {
      this.transfer = false;
      this.load();
      this.live = true;
      if (mode === 1) this.setOut(false);
      return;
    }
    if (this.started === undefined || this.stopped) return;
    if (!this.gate && mode !== 1 && mode !== 5) return;
    if (mode === 2) this.tickRate();
    else if (mode === 3) this.tickSquare();
    else {
      this.element = this.element === 0 ? this.top : this.element - 1;
      if (this.element === 0 && this.live) {
        this.live = false;
        this.setOut(mode === 0 || mode === 1);
      }
    }
  }

  load(): void {
    this.started = this.reload!;
    this.null = false;
    this.element = this.mode === 3 && this.started % 2 === 1 ? this.started - 1 : this.started;
  }

  tickRate(): void {
    if (this.element === 1) {
      this.load();
      this.setOut(true);
    } else {
      this.element--;
      if (this.element === 1) this.setOut(false);
    }
  }

  tickSquare(): void {
    const odd = this.started! % 2 === 1;
    // An even count expires on reaching zero, an odd one stays there for a tick while OUT is high.
    const expires = odd && this.out ? this.element === 0 : this.element === 2;
    if (!expires) {
      this.element -= 2;
      return;
    }
    this.load();
    this.setOut(this.started === 1 ? true : !this.out);
  }

  setGate(level: boolean): void {
    const rose = level && !this.gate;
    this.gate = level;
    if (rose && [1, 2, 3, 5].includes(this.mode) && this.reload !== undefined) this.transfer = true;
    if (!level && (this.mode === 2 || this.mode === 3)) this.setOut(true);
  }

  program(control: number): void {
    this.control = control;
    this.access = control >> 4;
    this.mode = (control >> 1) & 7;
    if (this.mode > 5) this.mode -= 4;
    this.bcd = (control & 1) === 1;
    this.setOut(this.mode !== 0);
    this.reload = this.started = this.firstByte = this.statusLatch = undefined;
    this.transfer = this.stopped = this.live = this.readMsb = false;
    this.null = true;
    this.latches = [];
  }

  write(byte: number): void {
    if (this.mode === 0) this.setOut(false);
    if (this.access === 3 && this.firstByte === undefined) {
      this.firstByte = byte;
      if (this.mode === 0) this.stopped = true;
      return;
    }
    let word = byte;
    if (this.access === 2) word = byte * 256;
    if (this.access === 3) word = byte * 256 + this.firstByte!;
    this.firstByte = undefined;
    this.stopped = false;
    if (this.bcd) {
      word = [12, 8, 4, 0].reduce((value, shift) => value * 10 + ((word >> shift) & 15), 0);
      word %= 10_000;
    }
    this.reload = word === 0 ? this.top + 1 : word;
    this.null = true;
    if (this.mode === 0 || this.mode === 4) this.transfer = true;
    if ((this.mode === 2 || this.mode === 3) && this.started === undefined) this.transfer = true;
  }

  get bytes(): [number, number] {
    let value = this.element % (this.top + 1);
    if (this.bcd) value = Number.parseInt(String(value), 16);
    return [value % 256, value >> 8];
  }

  latchCount(): void {
    if (this.latches.length > 0) return;
    const [low, high] = this.bytes;
    this.latches = this.access === 1 ? [low] : this.access === 2 ? [high] : [low, high];
    this.readMsb = false;
  }

  latchStatus(): void {
    this.statusLatch ??= (this.out ? 0x80 : 0) | (this.null ? 0x40 : 0) | this.control;
  }

  read(): number {
    const status = this.statusLatch;
    this.statusLatch = undefined;
    if (status !== undefined) return status;
    const latched = this.latches.shift();
    if (latched !== undefined) return latched;
    const msb = this.access === 2 || (this.access === 3 && this.readMsb);
    if (this.access === 3) this.readMsb = !this.readMsb;
    return this.bytes[msb ? 1 : 0];
  }
}

const byte = fc.oneof(fc.nat(6), fc.nat(0xff));
const control = fc.tuple(fc.integer({ min: 1, max: 3 }), fc.nat(15)).map(([a, m]) => (a << 4) | m);

function operations(ticks: fc.Arbitrary<number>) {
  return fc.oneof(
    { weight: 6, arbitrary: ticks.map((value) => ({ do: "pass" as const, value })) },
    { weight: 2, arbitrary: control.map((value) => ({ do: "program" as const, value })) },
    { weight: 4, arbitrary: byte.map((value) => ({ do: "count" as const, value })) },
    { weight: 2, arbitrary: fc.nat(1).map((value) => ({ do: "gate" as const, value })) },
    { weight: 4, arbitrary: fc.constant({ do: "read" as const, value: 0 }) },
    { weight: 1, arbitrary: fc.constant({ do: "latch" as const, value: 0 }) },
    { weight: 1, arbitrary: fc.nat(3).map((value) => ({ do: "read back" as const, value })) },
  );
}

/** Counter 2 and its reference, moved in step. */
function check(ticks: fc.Arbitrary<number>, numRuns: number): void {
  const program = fc.array(operations(ticks), { maxLength: 40, size: "max" });
  fc.assert(
    fc.property(program, control, (ops, first) => {
      const { clock, time } = manualClock();
      const pit = new I8253(I8253Registers.standalone(), clock, { set: () => {} });
      pit.reset();
      const model = new Reference(false);
      let now = 0;
      for (const op of [{ do: "program" as const, value: first }, ...ops]) {
        if (op.do === "pass") {
          for (let i = 0; i < op.value; i++) model.tick();
          now += op.value;
          time.time = nsAt(now);
        } else if (op.do === "program") {
          pit.write(0x43, 1, 0x80 | op.value);
          model.program(op.value);
        } else if (op.do === "count") {
          pit.write(0x42, 1, op.value);
          model.write(op.value);
        } else if (op.do === "gate") {
          pit.gate2 = op.value === 1;
          model.setGate(op.value === 1);
        } else if (op.do === "read") {
          expect(pit.read(0x42, 1)).toBe(model.read());
        } else if (op.do === "latch") {
          pit.write(0x43, 1, 0x80);
          model.latchCount();
        } else {
          pit.write(0x43, 1, 0xc8 | (op.value << 4));
          if ((op.value & 2) === 0) model.latchCount();
          if ((op.value & 1) === 0) model.latchStatus();
        }
        expect(pit.out2).toBe(model.out);
      }
      pit.write(0x43, 1, 0xc8);
      model.latchCount();
      model.latchStatus();
      for (let i = 0; i < 6; i++) expect(pit.read(0x42, 1)).toBe(model.read());
    }),
    { numRuns },
  );
}

test("count, status and OUT are those of a counter that ticks", () => {
  check(fc.oneof(fc.nat(4), fc.nat(40)), 10_000);
});

test("over long times too, around the wrap of the counter", () => {
  check(fc.oneof(fc.nat(300), fc.integer({ min: 9990, max: 20_010 }), fc.nat(140_000)), 60);
});

type Operation = { do: "pass" | "program" | "count" | "read"; value: number };
const pass = (value: number): Operation => ({ do: "pass", value });
const program = (value: number): Operation => ({ do: "program", value });
const count = (value: number): Operation => ({ do: "count", value });

/** OUT rises by a control word at the very time of an interrupt, and after it. */
const RISES_BESIDE_INTERRUPTS: [Operation[]][] = [
  [[program(0x10), program(0x12), program(0x10), pass(0), program(0x12)]],
  [[program(0x30), count(4), count(6), pass(378), pass(1163), count(0), program(0x12)]],
];

test("every rise of counter 0's OUT interrupts at its tick, or with others soon after", () => {
  const operation = fc.oneof(
    fc.nat(3000).map(pass),
    control.map(program),
    byte.map(count),
    fc.constant<Operation>({ do: "read", value: 0 }),
  );
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 20, size: "max" }), (ops) => {
      const { clock, time } = manualClock();
      const model = new Reference(true);
      let now = 0;
      // When the first rise since the last interrupt was, and when that interrupt was, ns. A rise at
      // the very time of an interrupt, but after it, belongs to the next.
      let rise: number | undefined;
      let last = -Infinity;
      const noteRises = (): void => {
        if (model.rises > 0) rise ??= nsAt(now);
        model.rises = 0;
      };
      const pit = new I8253(I8253Registers.standalone(), clock, {
        set: (level) => {
          if (!level) return;
          expect(rise).toBeDefined();
          expect(time.time).toBe(Math.max(rise!, last + MIN_PERIOD));
          rise = undefined;
          last = time.time;
        },
      });
      const expireUntil = (ns: number): void => {
        while (clock.deadline <= ns) {
          time.time = Math.max(time.time, clock.deadline);
          clock.expire();
        }
      };
      pit.reset();
      for (const op of [...ops, pass(100)]) {
        if (op.do === "pass") {
          for (const end = now + op.value; now < end;) {
            expireUntil(nsAt(now + 1) - 1);
            now++;
            model.tick();
            noteRises();
          }
          expireUntil(nsAt(now));
          time.time = nsAt(now);
        } else if (op.do === "program") {
          pit.write(0x43, 1, op.value);
          model.program(op.value);
        } else if (op.do === "count") {
          pit.write(0x40, 1, op.value);
          model.write(op.value);
        } else {
          pit.read(0x40, 1);
        }
        noteRises();
      }
      if (rise !== undefined) expect(Math.max(rise, last + MIN_PERIOD)).toBeGreaterThan(time.time);
    }),
    { numRuns: 10_000, seed: 1, examples: RISES_BESIDE_INTERRUPTS },
  );
});
