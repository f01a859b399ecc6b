import { expect, test } from "bun:test";
import fc from "fast-check";
import { manualClock } from "../../vmm/clock.ts";
import { Ns8250, Ns8250Registers } from "./ns8250.ts";

const TRIGGER = [1, 4, 8, 14];

interface Character {
  readonly byte: number;
  isBreak: boolean;
}

/** A 16550A in the data sheet's terms, with lists for FIFOs; bytes take no time. */
class Reference {
  ier = 0;
  lcr = 0;
  mcr = 0;
  scr = 0;
  divisor = 1;
  fifos = false;
  trigger = 1;
  received: Character[] = [];
  sending: number[] = [];
  overrun = false;
  breakSeen = false;
  transmitterEmptied = false;
  timedOut = false;
  /** When the receive FIFO was last written or read. */
  touched = 0;
  wires = 0xb0;
  deltas = 0;
  now = 0;
  sent: number[] = [];

  constructor(readonly accepts: () => boolean) {}

  get loop(): boolean {
    return (this.mcr & 0x10) !== 0;
  }

  get depth(): number {
    return this.fifos ? 16 : 1;
  }

  get room(): number {
    return this.loop ? 0 : this.depth - this.received.length;
  }

  /** Pending interrupts by IIR code, the most urgent first. */
  get cause(): number {
    if (this.ier & 4 && (this.overrun || this.breakSeen)) return 6;
    if (this.ier & 1 && this.received.length >= this.trigger) return 4;
    if (this.ier & 1 && this.timedOut) return 12;
    if (this.ier & 2 && this.transmitterEmptied) return 2;
    if (this.ier & 8 && this.deltas) return 0;
    return 1;
  }

  get line(): boolean {
    return (this.mcr & 8) !== 0 && this.cause !== 1;
  }

  arrive(byte: number, isBreak = false): void {
    this.touch();
    if (this.received.length >= this.depth) {
      this.overrun = true;
      if (!this.fifos) this.received = [{ ...this.received[0], byte }];
      return;
    }
    this.received.push({ byte, isBreak });
    this.expose();
  }

  /** The head of the FIFO shows its break. */
  expose(): void {
    const [head] = this.received;
    if (head?.isBreak) {
      this.breakSeen = true;
      head.isBreak = false;
    }
  }

  touch(): void {
    this.touched = this.now;
  }

  get fourCharacters(): number {
    const parity = this.lcr & 8 ? 1 : 0;
    const stop = this.lcr & 4 ? 2 : 1;
    const bits = 1 + 5 + (this.lcr & 3) + parity + stop;
    return Math.ceil((4 * bits * (this.divisor || 1) * 1e9) / 115_200);
  }

  pass(ns: number): void {
    this.now += ns;
    const waiting = this.ier & 1 && this.received.length > 0 && this.received.length < this.trigger;
    if (waiting && this.now >= this.touched + this.fourCharacters) this.timedOut = true;
  }

  drain(): void {
    if (this.sending.length === 0) return;
    while (this.sending.length > 0) {
      if (!this.accepts()) return;
      this.sent.push(this.sending.shift()!);
    }
    this.transmitterEmptied = true;
  }

  get modem(): number {
    if (!this.loop) return this.wires;
    const [dtr, rts, out1, out2] = [1, 2, 4, 8].map((bit) => (this.mcr & bit) !== 0);
    return (rts ? 0x10 : 0) | (dtr ? 0x20 : 0) | (out1 ? 0x40 : 0) | (out2 ? 0x80 : 0);
  }

  changeModem(change: () => void): void {
    const before = this.modem;
    change();
    const after = this.modem;
    for (const [bit, delta] of [
      [0x10, 1],
      [0x20, 2],
      [0x80, 8],
    ]) {
      if ((before & bit) !== (after & bit)) this.deltas |= delta;
    }
    if (before & 0x40 && !(after & 0x40)) this.deltas |= 4;
  }

  read(register: number): number {
    const dlab = (this.lcr & 0x80) !== 0;
    switch (register) {
      case 0:
        return dlab ? this.divisor & 0xff : this.readData();
      case 1:
        return dlab ? this.divisor >> 8 : this.ier;
      case 2: {
        const cause = this.cause;
        if (cause === 2) this.transmitterEmptied = false;
        return cause | (this.fifos ? 0xc0 : 0);
      }
      case 3:
        return this.lcr;
      case 4:
        return this.mcr;
      case 5:
        return this.readLineStatus();
      case 6: {
        const value = this.modem | this.deltas;
        this.deltas = 0;
        return value;
      }
      default:
        return this.scr;
    }
  }

  readData(): number {
    this.timedOut = false;
    const head = this.received.shift();
    if (head === undefined) return 0;
    this.touch();
    this.expose();
    return head.byte;
  }

  readLineStatus(): number {
    let value = this.sending.length === 0 ? 0x60 : 0;
    if (this.received.length > 0) value |= 0x01;
    if (this.overrun) value |= 0x02;
    if (this.breakSeen) value |= 0x10;
    if (this.fifos && (this.breakSeen || this.received.some((c) => c.isBreak))) value |= 0x80;
    this.overrun = this.breakSeen = false;
    return value;
  }

  write(register: number, value: number): void {
    const dlab = (this.lcr & 0x80) !== 0;
    switch (register) {
      case 0:
        if (dlab) this.divisor = (this.divisor & 0xff00) | value;
        else this.writeData(value);
        break;
      case 1:
        if (dlab) this.divisor = (this.divisor & 0xff) | (value << 8);
        else {
          if (value & 2 && !(this.ier & 2) && this.sending.length === 0) {
            this.transmitterEmptied = true;
          }
          this.ier = value & 15;
        }
        break;
      case 2:
        this.writeFifoControl(value);
        break;
      case 3:
        if (value & 0x40 && !(this.lcr & 0x40) && this.loop) this.arrive(0, true);
        this.lcr = value;
        break;
      case 4:
        this.changeModem(() => (this.mcr = value & 31));
        break;
      case 7:
        this.scr = value;
        break;
    }
  }

  writeData(value: number): void {
    this.transmitterEmptied = false;
    if (this.loop) {
      this.arrive(value);
      if (this.sending.length === 0) this.transmitterEmptied = true;
    } else {
      if (this.sending.length < this.depth) this.sending.push(value);
      else if (!this.fifos) this.sending = [value];
      this.drain();
    }
  }

  writeFifoControl(value: number): void {
    const enable = (value & 1) !== 0;
    const toggled = enable !== this.fifos;
    if (toggled || (enable && value & 2)) {
      this.received = [];
      this.timedOut = false;
    }
    if (toggled || (enable && value & 4)) {
      if (this.sending.length > 0) this.transmitterEmptied = true;
      this.sending = [];
    }
    this.fifos = enable;
    this.trigger = enable ? TRIGGER[value >> 6] : 1;
  }
}

const operation = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("write" as const),
      register: fc.nat(7),
      value: fc.oneof(fc.nat(0xff), fc.nat(0x0f), fc.constantFrom(0x01, 0x41, 0xc1, 0x08, 0x1b)),
    }),
  },
  { weight: 6, arbitrary: fc.record({ do: fc.constant("read" as const), register: fc.nat(7) }) },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant("send" as const), bytes: fc.array(fc.nat(0xff)) }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("receive" as const),
      bytes: fc.array(fc.nat(0xff), { maxLength: 18, size: "max" }),
    }),
  },
  { weight: 2, arbitrary: fc.constant({ do: "break" as const }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("accept" as const), count: fc.nat(20) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("wires" as const), wires: fc.nat(0xff) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("pass" as const), ns: fc.nat(900_000) }) },
  { weight: 1, arbitrary: fc.constant({ do: "pass" as const, ns: 1e12 }) },
);

test("registers, line and bytes are those of the reference model", () => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 50, size: "max" }), (ops) => {
      const { clock, time } = manualClock();
      let line = false;
      let edges = 0;
      let wanted = 0;
      let refused = false;
      const sent: number[] = [];
      // Both are offered the same number of places by their backends.
      const places = { chip: 5, model: 5 };
      const irq = {
        set: (level: boolean): void => {
          if (level && !line) edges++;
          line = level;
        },
      };
      const transmit = (byte: number): boolean => {
        if (places.chip === 0) return false;
        places.chip--;
        sent.push(byte);
        return true;
      };
      const uart = new Ns8250(Ns8250Registers.standalone(), clock, irq, { transmit }, () => {
        wanted++;
      });
      uart.reset();
      const model = new Reference(() => places.model > 0 && places.model-- > 0);
      const write = (register: number, value: number): void => {
        uart.write(0x3f8 + register, 1, value);
        model.write(register, value);
      };
      for (const op of ops) {
        const before = edges;
        const wasUp = line;
        const expectWanted = wanted;
        if (op.do === "write") write(op.register, op.value);
        else if (op.do === "read") {
          expect(uart.read(0x3f8 + op.register, 1)).toBe(model.read(op.register));
        } else if (op.do === "send") op.bytes.forEach((byte) => write(0, byte));
        else if (op.do === "receive") {
          for (const byte of op.bytes) {
            const fits = model.room > 0;
            expect(uart.receive(byte)).toBe(fits);
            if (fits) model.arrive(byte);
            else refused = true;
          }
        } else if (op.do === "break") {
          const fits = model.room > 0;
          expect(uart.receiveBreak()).toBe(fits);
          if (fits) model.arrive(0, true);
        } else if (op.do === "accept") {
          places.chip = places.model = op.count;
          uart.drain();
          model.drain();
        } else if (op.do === "wires") {
          uart.setModem(op.wires);
          model.changeModem(() => (model.wires = op.wires & 0xf0));
        } else {
          time.time += op.ns;
          clock.expire();
          model.pass(op.ns);
        }
        expect(line).toBe(model.line);
        if (line && !wasUp) expect(edges).toBeGreaterThan(before);
        expect(uart.room).toBe(model.room);
        const offered = refused && model.room > 0;
        if (offered) refused = false;
        expect(wanted).toBe(expectWanted + (offered ? 1 : 0));
        expect(sent).toEqual(model.sent);
      }
    }),
    { numRuns: 10_000, seed: 1 },
  );
});
