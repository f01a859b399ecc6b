import { beforeEach, describe, expect, test } from "bun:test";
import { type Clock, manualClock, type ManualTime } from "../../vmm/clock.ts";
import { I8253, I8253Registers, MIN_PERIOD, nsAt, PIT_HZ, ticksAt } from "./i8253.ts";
import { Port61, Port61Registers } from "./port61.ts";

let clock: Clock;
let time: ManualTime;
let pit: I8253;
let line: boolean;
let interrupts: number;

const read = (port: number): number => pit.read(port, 1);
const write = (port: number, ...values: number[]): void => {
  for (const value of values) pit.write(port, 1, value);
};

function at(ns: number): void {
  time.time = ns;
  clock.sample();
  clock.expire();
}

/** Moves to `ticks` after the tick of the last mark. */
let marked: number;
const mark = (): void => void (marked = ticksAt(clock.now));
const after = (ticks: number): void => at(nsAt(marked + ticks));

/** Counter 2's OUT after each of `count` ticks. */
function waveform(count: number): string {
  let levels = "";
  for (let tick = 1; tick <= count; tick++) {
    after(tick);
    levels += pit.out2 ? "1" : "0";
  }
  mark();
  return levels;
}

beforeEach(() => {
  ({ clock, time } = manualClock());
  line = false;
  interrupts = 0;
  pit = new I8253(I8253Registers.standalone(), clock, {
    set: (level) => {
      if (level && !line) interrupts++;
      line = level;
    },
  });
  at(1_000_000_000);
  pit.reset();
  mark();
});

describe("ticks", () => {
  test("a second is 1193182 of them, after months too", () => {
    const days = 100 * 86_400;
    expect(ticksAt(1e9)).toBe(PIT_HZ);
    expect(ticksAt(1e9 - 1)).toBe(PIT_HZ - 1);
    expect(ticksAt(days * 1e9)).toBe(days * PIT_HZ);
    expect(ticksAt(days * 1e9 - 1)).toBe(days * PIT_HZ - 1);
  });

  test("nsAt is the first nanosecond of a tick", () => {
    for (const tick of [0, 1, 2, 3, 65_536, PIT_HZ - 1, PIT_HZ, 1e12 + 7, 9_000_000 * PIT_HZ - 1]) {
      expect(ticksAt(nsAt(tick))).toBe(tick);
      if (tick > 0) expect(ticksAt(nsAt(tick) - 1)).toBe(tick - 1);
    }
  });
});

// The waveforms of the 82C54 data sheet's mode pages; the first level is that of the tick that
// loads the count.
describe("waveforms", () => {
  beforeEach(() => (pit.gate2 = true));

  test("mode 0 rises when the count is used up and stays", () => {
    write(0x43, 0x90);
    expect(pit.out2).toBe(false);
    write(0x42, 4);
    expect(waveform(8)).toBe("00001111");
    write(0x42, 2);
    expect(waveform(4)).toBe("0011");
  });

  test("mode 0 counts only while the gate is up", () => {
    write(0x43, 0x90);
    write(0x42, 3);
    expect(waveform(2)).toBe("00");
    pit.gate2 = false;
    expect(waveform(5)).toBe("00000");
    pit.gate2 = true;
    expect(waveform(3)).toBe("011");
  });

  test("mode 0 stops at the first byte of a new count", () => {
    write(0x43, 0xb0);
    write(0x42, 4, 0);
    expect(waveform(6)).toBe("000011");
    write(0x42, 2);
    expect(waveform(5)).toBe("00000");
    write(0x42, 0);
    expect(waveform(4)).toBe("0011");
  });

  test("mode 1 is a one-shot that the gate triggers, again too", () => {
    write(0x43, 0x92);
    write(0x42, 3);
    expect(waveform(4)).toBe("1111");
    pit.gate2 = false;
    pit.gate2 = true;
    expect(waveform(6)).toBe("000111");
    pit.gate2 = false;
    pit.gate2 = true;
    expect(waveform(2)).toBe("00");
    pit.gate2 = false;
    pit.gate2 = true;
    expect(waveform(5)).toBe("00011");
  });

  test("mode 2 is low for one tick of every period", () => {
    write(0x43, 0x94);
    write(0x42, 3);
    expect(waveform(9)).toBe("110110110");
    write(0x42, 5); // from the next period on
    expect(waveform(9)).toBe("111101111");
    pit.gate2 = false;
    expect(waveform(3)).toBe("111");
    pit.gate2 = true;
    expect(waveform(6)).toBe("111101");
  });

  test("mode 3 is a square wave; an odd tick is high", () => {
    write(0x43, 0x96);
    write(0x42, 4);
    expect(waveform(8)).toBe("11001100");
    write(0x43, 0x96);
    write(0x42, 5);
    expect(waveform(10)).toBe("1110011100");
    pit.gate2 = false;
    expect(pit.out2).toBe(true);
  });

  test("modes 4 and 5 strobe for one tick, once", () => {
    write(0x43, 0x98);
    write(0x42, 3);
    expect(waveform(8)).toBe("11101111");
    write(0x43, 0x9a);
    write(0x42, 3);
    expect(waveform(5)).toBe("11111");
    pit.gate2 = false;
    pit.gate2 = true;
    expect(waveform(6)).toBe("111011");
  });
});

describe("reading", () => {
  test("a latched count stands still, low byte first, until it is read", () => {
    write(0x43, 0x34);
    write(0x40, 0x00, 0x10);
    after(1);
    write(0x43, 0x00);
    after(0x100);
    write(0x43, 0x00);
    expect([read(0x40), read(0x40)]).toEqual([0x00, 0x10]);
    expect([read(0x40), read(0x40)]).toEqual([0x01, 0x0f]);
  });

  test("BCD counts down in decimal", () => {
    write(0x43, 0x31);
    write(0x40, 0x00, 0x10);
    after(2);
    write(0x43, 0x00);
    expect([read(0x40), read(0x40)]).toEqual([0x99, 0x09]);
    after(1002);
    write(0x43, 0x00);
    expect([read(0x40), read(0x40)]).toEqual([0x99, 0x99]);
  });

  test("read-back: status first, with OUT and null count, then the count", () => {
    write(0x43, 0x30);
    write(0x43, 0xe2);
    expect(read(0x40)).toBe(0x70);
    write(0x40, 0x05, 0x00);
    write(0x43, 0xe2);
    expect(read(0x40)).toBe(0x70);
    after(1);
    write(0x43, 0xc2);
    expect([read(0x40), read(0x40), read(0x40)]).toEqual([0x30, 5, 0]);
    after(6);
    write(0x43, 0xe2);
    expect(read(0x40)).toBe(0xb0);
  });

  test("one-byte access reads and writes one byte", () => {
    write(0x43, 0x24); // high byte only
    write(0x40, 0x12);
    after(1);
    expect([read(0x40), read(0x40)]).toEqual([0x12, 0x12]);
    expect(read(0x43)).toBe(0xff);
  });
});

describe("IRQ 0", () => {
  test("after reset it comes 18.2 times a second", () => {
    for (let ms = 1; ms <= 10_000; ms++) at(1e9 + ms * 1e6);
    expect(interrupts).toBe(182);
  });

  test("the timer is armed for the very tick", () => {
    write(0x43, 0x34);
    write(0x40, 0x9c, 0x2e); // 11932
    mark();
    const due = nsAt(marked + 1 + 11_932);
    expect(clock.deadline).toBe(due);
    at(due - 1);
    expect(interrupts).toBe(0);
    at(due);
    expect(interrupts).toBe(1);
    expect(clock.deadline).toBe(nsAt(marked + 1 + 2 * 11_932));
  });

  test("it neither drifts nor piles up", () => {
    write(0x43, 0x34);
    write(0x40, 0x9c, 0x2e);
    const start = ticksAt(clock.now) + 1;
    for (let i = 0; i < 1000; i++) at(clock.deadline + 77_777);
    expect(interrupts).toBe(1000);
    at(86_400e9 * 30);
    expect(interrupts).toBe(1001);
    expect((ticksAt(clock.deadline) - start) % 11_932).toBe(0);
  });

  test("mode 0 interrupts once; a new control word calls it off", () => {
    write(0x43, 0x30);
    write(0x40, 0xe8, 0x03);
    expect(clock.deadline).toBe(nsAt(marked + 1001));
    write(0x43, 0x30);
    expect(clock.deadline).toBe(Infinity);
    write(0x40, 0xe8, 0x03);
    after(1001);
    after(500_000);
    expect(interrupts).toBe(1);
    expect(clock.deadline).toBe(Infinity);
  });

  test("a period too short for the host is stretched", () => {
    for (const count of [0, 1, 2, 3]) {
      write(0x43, 0x14);
      write(0x40, count);
      interrupts = 0;
      const start = clock.now;
      for (let i = 0; i < 10_000; i++) {
        at(Math.min(clock.deadline, clock.now + 1_000));
        read(0x40);
      }
      expect(interrupts).toBeLessThanOrEqual((clock.now - start) / MIN_PERIOD + 1);
    }
  });
});

test("a latch command may take guest time", () => {
  pit = new I8253(I8253Registers.standalone(), clock, { set: () => {} }, { latchWarp: 3000 });
  pit.reset();
  const before = time.time;
  write(0x43, 0x00);
  write(0x43, 0x80);
  write(0x43, 0xd2);
  expect(time.time).toBe(before + 6000);
});

describe("port 0x61", () => {
  let port: Port61;
  beforeEach(() => (port = new Port61(Port61Registers.standalone(), clock, pit)));

  test("gates counter 2 and shows its OUT", () => {
    write(0x43, 0xb0);
    port.write(0x61, 1, 0x01);
    write(0x42, 0x10, 0x00);
    mark();
    expect(port.read(0x61, 1) & 0x2f).toBe(0x01);
    after(0x11);
    expect(port.read(0x61, 1) & 0x2f).toBe(0x21);
    port.write(0x61, 1, 0xfe);
    expect(port.read(0x61, 1) & 0xef).toBe(0x2e);
  });

  test("the refresh bit toggles every 15.085 µs", () => {
    const level = port.read(0x61, 1) & 0x10;
    at(clock.now + 15_085);
    expect(port.read(0x61, 1) & 0x10).toBe(level ^ 0x10);
    at(clock.now + 15_085);
    expect(port.read(0x61, 1) & 0x10).toBe(level);
  });
});
