import { beforeEach, describe, expect, test } from "bun:test";
import { type Clock, manualClock, type ManualTime } from "../../vmm/clock.ts";
import { Ns8250, Ns8250Registers } from "./ns8250.ts";

const DATA = 0x3f8;
const IER = 0x3f9;
const IIR = 0x3fa;
const FCR = 0x3fa;
const LCR = 0x3fb;
const MCR = 0x3fc;
const LSR = 0x3fd;
const MSR = 0x3fe;
const SCR = 0x3ff;

let clock: Clock;
let time: ManualTime;
let uart: Ns8250;
let line: boolean;
let edges: number;
let sent: number[];
let accepting: number;
let wanted: number;

const read = (port: number): number => uart.read(port, 1);
const write = (port: number, value: number): void => uart.write(port, 1, value);

function pass(ns: number): void {
  time.time += ns;
  clock.sample();
  clock.expire();
}

beforeEach(() => {
  ({ clock, time } = manualClock());
  line = false;
  edges = 0;
  sent = [];
  accepting = Infinity;
  wanted = 0;
  uart = new Ns8250(
    Ns8250Registers.standalone(),
    clock,
    {
      set: (level) => {
        if (level && !line) edges++;
        line = level;
      },
    },
    {
      transmit: (byte) => {
        if (accepting === 0) return false;
        accepting--;
        sent.push(byte);
        return true;
      },
    },
    () => wanted++,
  );
  uart.reset();
});

test("after reset it is idle, silent, and wired to a modem that is there", () => {
  expect(read(IER)).toBe(0);
  expect(read(IIR)).toBe(0x01);
  expect(read(LSR)).toBe(0x60);
  expect(read(MSR)).toBe(0xb0);
  expect(line).toBe(false);
});

test("the divisor hides behind DLAB, the scratch register keeps what it is given", () => {
  write(LCR, 0x83);
  write(DATA, 0x0c);
  write(IER, 0x01);
  expect([read(DATA), read(IER)]).toEqual([0x0c, 0x01]);
  write(LCR, 0x03);
  expect(read(IER)).toBe(0);
  write(SCR, 0x5a);
  expect(read(SCR)).toBe(0x5a);
  expect(sent).toEqual([]);
});

describe("transmit", () => {
  beforeEach(() => write(MCR, 0x08));

  test("enabling the interrupt with an empty register raises it; reading IIR clears it", () => {
    write(IER, 0x02);
    expect(line).toBe(true);
    expect(read(IIR)).toBe(0x02);
    expect(line).toBe(false);
    expect(read(IIR)).toBe(0x01);
    write(IER, 0x00);
    write(IER, 0x02);
    expect(read(IIR)).toBe(0x02);
  });

  test("every byte that leaves at once is an edge of its own", () => {
    write(IER, 0x02);
    edges = 0;
    write(DATA, 0x41);
    expect(edges).toBe(1);
    expect(read(LSR)).toBe(0x60);
    write(DATA, 0x42);
    expect(edges).toBe(2);
    expect(sent).toEqual([0x41, 0x42]);
  });

  test("what the backend refuses waits, and THRE with it", () => {
    write(FCR, 0x01);
    write(IER, 0x02);
    read(IIR);
    accepting = 0;
    write(DATA, 1);
    write(DATA, 2);
    expect(read(LSR)).toBe(0x00);
    expect(line).toBe(false);
    accepting = 1;
    uart.drain();
    expect(sent).toEqual([1]);
    expect(read(LSR)).toBe(0x00);
    accepting = 9;
    uart.drain();
    expect(sent).toEqual([1, 2]);
    expect(read(LSR)).toBe(0x60);
    expect(read(IIR)).toBe(0xc2);
  });

  test("a full FIFO loses the newest byte; without FIFOs the holding register is overwritten", () => {
    accepting = 0;
    write(DATA, 1);
    write(DATA, 2);
    accepting = Infinity;
    uart.drain();
    expect(sent).toEqual([2]);
    sent = [];
    write(FCR, 0x01);
    accepting = 0;
    for (let i = 0; i < 20; i++) write(DATA, i);
    accepting = Infinity;
    uart.drain();
    expect(sent).toEqual(Array.from({ length: 16 }, (_, i) => i));
  });

  test("resetting the FIFO empties it", () => {
    write(FCR, 0x01);
    accepting = 0;
    write(DATA, 1);
    write(FCR, 0x05);
    expect(read(LSR)).toBe(0x60);
    accepting = 9;
    uart.drain();
    expect(sent).toEqual([]);
  });
});

describe("receive", () => {
  beforeEach(() => write(MCR, 0x08));

  test("one byte without FIFOs, then the sender waits", () => {
    write(IER, 0x01);
    expect(uart.room).toBe(1);
    expect(uart.receive(0x61)).toBe(true);
    expect(uart.room).toBe(0);
    expect(uart.receive(0x62)).toBe(false);
    expect([read(IIR), read(LSR), line]).toEqual([0x04, 0x61, true]);
    expect(wanted).toBe(0);
    expect(read(DATA)).toBe(0x61);
    expect([read(IIR), read(LSR), line, wanted]).toEqual([0x01, 0x60, false, 1]);
    expect(uart.receive(0x62)).toBe(true);
  });

  test("the trigger level, and the timeout of four characters for what stays below it", () => {
    write(LCR, 0x83);
    write(DATA, 12); // 9600
    write(LCR, 0x03);
    write(FCR, 0x41);
    write(IER, 0x01);
    for (const byte of [1, 2, 3]) uart.receive(byte);
    expect(read(IIR)).toBe(0xc1);
    pass(4_166_000); // 40 bits at 9600
    expect(read(IIR)).toBe(0xc1);
    pass(1_000);
    expect(read(IIR)).toBe(0xcc);
    expect(line).toBe(true);
    expect(read(DATA)).toBe(1);
    expect(line).toBe(false);
    uart.receive(4);
    uart.receive(5);
    expect(read(IIR)).toBe(0xc4);
    expect(read(DATA)).toBe(2);
    expect(read(IIR)).toBe(0xc1);
    expect([3, 4, 5].map(() => read(DATA))).toEqual([3, 4, 5]);
    pass(1e9);
    expect(read(IIR)).toBe(0xc1);
  });

  test("sixteen bytes fit, in order, over the ring's end", () => {
    write(FCR, 0xc1);
    for (let round = 0; round < 3; round++) {
      let taken = 0;
      while (uart.receive(0x30 + taken)) taken++;
      expect(taken).toBe(16);
      for (let i = 0; i < 16; i++) expect(read(DATA)).toBe(0x30 + i);
    }
    uart.receive(1);
    write(FCR, 0xc3);
    expect(read(LSR)).toBe(0x60);
  });

  test("a break is a zero with BI, shown when it is next to be read", () => {
    write(FCR, 0x01);
    write(IER, 0x05);
    uart.receive(0x41);
    uart.receiveBreak();
    expect(read(LSR)).toBe(0xe1);
    expect(read(IIR)).toBe(0xc4);
    expect(read(DATA)).toBe(0x41);
    expect(read(IIR)).toBe(0xc6);
    expect(read(LSR)).toBe(0xf1);
    expect(read(LSR)).toBe(0x61);
    expect(read(DATA)).toBe(0);
  });
});

describe("modem control", () => {
  test("OUT2 gates the interrupt line, not IIR", () => {
    write(IER, 0x02);
    expect(line).toBe(false);
    write(MCR, 0x08);
    expect(line).toBe(true);
    write(MCR, 0x00);
    expect(line).toBe(false);
    expect(read(IIR)).toBe(0x02);
  });

  test("changes of the wires raise the interrupt of lowest priority", () => {
    write(MCR, 0x08);
    write(IER, 0x08);
    uart.setModem(0x30);
    expect(read(IIR)).toBe(0x00);
    expect(read(MSR)).toBe(0x38);
    expect(read(IIR)).toBe(0x01);
    uart.setModem(0x70);
    expect(read(MSR)).toBe(0x70); // only RI's trailing edge counts
    uart.setModem(0x30);
    expect(read(MSR)).toBe(0x34);
  });

  test("loopback returns bytes and modem outputs to the guest alone", () => {
    write(MCR, 0x10);
    read(MSR);
    write(DATA, 0x5a);
    expect(sent).toEqual([]);
    expect(read(LSR)).toBe(0x61);
    expect(uart.receive(0x77)).toBe(false);
    write(DATA, 0x5b);
    expect(read(LSR)).toBe(0x63); // overrun
    expect(read(DATA)).toBe(0x5b);
    write(MCR, 0x1a);
    expect(read(MSR) & 0xf0).toBe(0x90); // RTS -> CTS, OUT2 -> DCD
    expect(read(MSR)).toBe(0x90);
    expect(wanted).toBe(0);
    write(MCR, 0x08);
    expect(wanted).toBe(1);
    expect(read(MSR) & 0xf0).toBe(0xb0);
  });
});

test("a guest in a hurry to be told nothing is told once per cause, the most urgent first", () => {
  write(MCR, 0x08);
  write(IER, 0x0f);
  uart.setModem(0);
  uart.receiveBreak();
  expect(read(IIR)).toBe(0x06);
  read(LSR);
  expect(read(IIR)).toBe(0x04);
  read(DATA);
  expect(read(IIR)).toBe(0x02);
  expect(read(IIR)).toBe(0x00);
  read(MSR);
  expect(read(IIR)).toBe(0x01);
  expect(line).toBe(false);
});
