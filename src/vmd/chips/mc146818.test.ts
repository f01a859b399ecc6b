import { beforeEach, describe, expect, test } from "bun:test";
import { type Clock, manualClock, type ManualTime } from "../../vmm/clock.ts";
import { Mc146818, Mc146818Registers } from "./mc146818.ts";

const EPOCH = Date.UTC(2026, 1, 27, 22, 59, 50) * 1e6;

let clock: Clock;
let time: ManualTime;
let rtc: Mc146818;
let line: boolean;

function get(index: number): number {
  rtc.write(0x70, 1, index);
  return rtc.read(0x71, 1);
}

function put(index: number, value: number): void {
  rtc.write(0x70, 1, index);
  rtc.write(0x71, 1, value);
}

function at(ns: number): void {
  time.time = ns;
  clock.sample();
  clock.expire();
}

/** Century, year, month, day, weekday, hours, minutes, seconds. */
const calendar = (): number[] => [0x32, 9, 8, 7, 6, 4, 2, 0].map(get);

beforeEach(() => {
  ({ clock, time } = manualClock());
  clock.epoch = EPOCH;
  line = false;
  rtc = new Mc146818(Mc146818Registers.standalone(), clock, { set: (level) => (line = level) });
  rtc.reset();
});

describe("calendar", () => {
  test("starts as UTC, in BCD and 24 hours", () => {
    expect(calendar()).toEqual([0x20, 0x26, 0x02, 0x27, 6, 0x22, 0x59, 0x50]);
    at(9_999_999_999);
    expect(get(0)).toBe(0x59);
    at(10e9);
    expect(calendar()).toEqual([0x20, 0x26, 0x02, 0x27, 6, 0x23, 0x00, 0x00]);
    at(3610e9);
    expect(calendar()).toEqual([0x20, 0x26, 0x02, 0x28, 7, 0x00, 0x00, 0x00]);
    at((3610 + 86_400) * 1e9);
    expect(calendar()).toEqual([0x20, 0x26, 0x03, 0x01, 1, 0x00, 0x00, 0x00]);
  });

  test("the guest sets it: SET stops it, its release lets it go on", () => {
    put(0x0b, 0x82);
    at(5e9);
    [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58].forEach((byte, i) =>
      put([0x32, 9, 8, 7, 6, 4, 2, 0][i], byte),
    );
    at(7_250_000_000);
    put(0x0b, 0x02);
    expect(calendar()).toEqual([0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58]);
    at(8e9);
    expect(get(0)).toBe(0x59);
    at(9e9);
    expect(calendar()).toEqual([0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00]);
  });

  test("binary and 12 hours, when the guest stores it so", () => {
    put(0x0b, 0x84);
    [20, 24, 2, 28, 4, 0x80 | 11, 59, 59].forEach((byte, i) =>
      put([0x32, 9, 8, 7, 6, 4, 2, 0][i], byte),
    );
    put(0x0b, 0x04);
    at(1e9);
    expect(calendar()).toEqual([20, 24, 2, 29, 5, 12, 0, 0]);
    at(12 * 3600e9 + 1e9);
    expect(get(4)).toBe(0x80 | 12);
    at(13 * 3600e9 + 1e9);
    expect(get(4)).toBe(0x80 | 1);
  });

  test("UIP announces the update 244 µs ahead, and not while SET", () => {
    expect(get(0x0a)).toBe(0x26);
    at(1e9 - 244_001);
    expect(get(0x0a)).toBe(0x26);
    at(1e9 - 244_000);
    expect(get(0x0a)).toBe(0xa6);
    at(1e9 - 1);
    expect(get(0x0a)).toBe(0xa6);
    put(0x0b, 0x82);
    expect(get(0x0a)).toBe(0x26);
    put(0x0b, 0x02);
    at(1e9);
    expect(get(0x0a)).toBe(0x26);
  });

  test("half a second after the divider's reset comes the first update", () => {
    at(300_000_000);
    put(0x0a, 0x70);
    at(20_300_000_000);
    expect(get(0)).toBe(0x50);
    put(0x0a, 0x26);
    at(20_799_999_999);
    expect(get(0)).toBe(0x50);
    at(20_800_000_000);
    expect(get(0)).toBe(0x51);
    at(21_800_000_000);
    expect(get(0)).toBe(0x52);
  });

  test("a reset of the machine leaves time and NVRAM, and clears the enables", () => {
    put(0x40, 0x5a);
    put(0x0b, 0x42);
    at(3e9);
    rtc.reset();
    expect([get(0x40), get(0x0b), get(0), line]).toEqual([0x5a, 0x02, 0x53, false]);
  });
});

describe("interrupts", () => {
  test("no timer without an enabled interrupt, though flags are kept", () => {
    expect(clock.deadline).toBe(Infinity);
    at(2e9);
    expect(get(0x0c)).toBe(0x50);
    expect(get(0x0c)).toBe(0x00);
  });

  test("periodic: every rate, once per reading of C", () => {
    for (let rate = 1; rate < 16; rate++) {
      const hz = rate < 3 ? 512 >> rate : 65_536 >> rate;
      put(0x0a, 0x20 | rate);
      put(0x0b, 0x42);
      get(0x0c);
      const from = clock.now;
      let count = 0;
      while (clock.deadline <= from + 1e9) {
        at(clock.deadline);
        expect(line).toBe(true);
        expect(clock.deadline).toBe(Infinity);
        expect(get(0x0c) & 0xc0).toBe(0xc0);
        expect(line).toBe(false);
        count++;
      }
      expect(count).toBe(hz);
    }
    put(0x0a, 0x20);
    expect(clock.deadline).toBe(Infinity);
  });

  test("update-ended comes with the new second", () => {
    put(0x0b, 0x12);
    expect(clock.deadline).toBe(1e9);
    at(1e9);
    expect(line).toBe(true);
    expect(get(0)).toBe(0x51);
    expect(get(0x0c) & 0x90).toBe(0x90);
    expect(clock.deadline).toBe(2e9);
    put(0x0b, 0x92);
    expect(get(0x0b)).toBe(0x82); // SET clears UIE
    expect(clock.deadline).toBe(Infinity);
  });

  test("the alarm, and its don't-care codes", () => {
    put(1, 0x05);
    put(3, 0x00);
    put(5, 0x23);
    put(0x0b, 0x22);
    expect(clock.deadline).toBe(15e9);
    at(15e9);
    expect(line).toBe(true);
    expect(get(0x0c) & 0xa0).toBe(0xa0);
    expect(clock.deadline).toBe((15 + 86_400) * 1e9);
    put(5, 0xff);
    expect(clock.deadline).toBe((15 + 3600) * 1e9);
    put(3, 0xc0);
    expect(clock.deadline).toBe((15 + 60) * 1e9);
    put(1, 0xc0);
    expect(clock.deadline).toBe(16e9);
    put(1, 0x6a);
    expect(clock.deadline).toBe(Infinity);
  });

  test("an alarm flag rises while nobody looks", () => {
    put(1, 0x55);
    put(3, 0xff);
    put(5, 0xff);
    get(0x0c);
    at(4e9);
    expect(get(0x0c) & 0x20).toBe(0);
    at(400e9);
    expect(get(0x0c) & 0x20).toBe(0x20);
  });
});

describe("NVRAM", () => {
  test("a jump of UTC moves the calendar, to either side, and the alarm's timer", () => {
    put(5, 0x23);
    put(3, 0x30);
    put(1, 0x00);
    put(0x0b, 0x22);
    expect(clock.deadline).toBe(1810e9);
    clock.epoch += 1000e9;
    rtc.moved();
    expect(calendar()).toEqual([0x20, 0x26, 0x02, 0x27, 6, 0x23, 0x16, 0x30]);
    expect(clock.deadline).toBe(810e9);
    clock.epoch -= 86_400e9 + 2000e9;
    rtc.moved();
    expect(calendar()).toEqual([0x20, 0x26, 0x02, 0x26, 5, 0x22, 0x43, 0x10]);
    expect([clock.deadline, line]).toEqual([2810e9, false]);
    clock.epoch += 2900e9;
    rtc.moved();
    expect(line).toBe(true);
    expect(get(0x0c) & 0xa0).toBe(0xa0);
  });

  test("index keeps the NMI mask, and reads back", () => {
    rtc.write(0x70, 1, 0xb2);
    expect(rtc.read(0x70, 1)).toBe(0xb2);
    expect(rtc.read(0x71, 1)).toBe(0x20);
    expect(get(0x0d)).toBe(0x80);
  });

  test("tells firmware the machine's sizes", () => {
    rtc.configure({ low: 512 * 2 ** 20, high: 3 * 2 ** 30, cpus: 2, boot: ["cdrom", "disk"] });
    expect([get(0x15), get(0x16)]).toEqual([0x80, 0x02]);
    expect([get(0x17), get(0x18), get(0x30), get(0x31)]).toEqual([0xff, 0xff, 0xff, 0xff]);
    expect([get(0x34), get(0x35)]).toEqual([0x00, 0x1f]);
    expect([get(0x5b), get(0x5c), get(0x5d)]).toEqual([0x00, 0xc0, 0x00]);
    expect([get(0x5f), get(0x3d), get(0x38)]).toEqual([1, 0x23, 0]);
    rtc.configure({ low: 8 * 2 ** 20, high: 0, cpus: 1 });
    expect([get(0x17), get(0x18), get(0x34), get(0x35)]).toEqual([0x00, 0x1c, 0, 0]);
    expect([get(0x3d), get(0x38)]).toEqual([0x32, 0x40]);
  });
});
