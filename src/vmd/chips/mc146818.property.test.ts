import { expect, test } from "bun:test";
import fc from "fast-check";
import { manualClock } from "../../vmm/clock.ts";
import { dayOfWeek, daysBefore, monthOf, yearOf } from "./calendar.ts";
import { Mc146818, Mc146818Registers } from "./mc146818.ts";

const SECOND = 1e9;
const BINARY = 0x04;
const HOURS_24 = 0x02;
const SET = 0x80;

interface Rig {
  pass(ns: number): void;
  get(index: number): number;
  put(index: number, value: number): void;
  readonly deadline: number;
  readonly line: boolean;
}

/** A clock chip whose guest time starts at UTC `start`, ms. */
function rig(start: number): Rig {
  const { clock, time } = manualClock();
  clock.epoch = start * 1e6;
  let line = false;
  const rtc = new Mc146818(Mc146818Registers.standalone(), clock, {
    set: (level) => (line = level),
  });
  rtc.reset();
  return {
    pass(ns) {
      time.time += ns;
      clock.expire();
    },
    get(index) {
      rtc.write(0x70, 1, index);
      return rtc.read(0x71, 1);
    },
    put(index, value) {
      rtc.write(0x70, 1, index);
      rtc.write(0x71, 1, value);
    },
    get deadline() {
      return clock.deadline;
    },
    get line() {
      return line;
    },
  };
}

const bcd = (value: number): number => Number.parseInt(String(value), 16);

/** The calendar's bytes as a chip in mode `b` holds them, by index. */
function encoded(date: Date, b: number): [number, number][] {
  const byte = (value: number): number => (b & BINARY ? value : bcd(value));
  const hours = date.getUTCHours();
  const twelve = byte(hours % 12 === 0 ? 12 : hours % 12) + (hours < 12 ? 0 : 0x80);
  const year = date.getUTCFullYear();
  return [
    [0x00, byte(date.getUTCSeconds())],
    [0x02, byte(date.getUTCMinutes())],
    [0x04, b & HOURS_24 ? byte(hours) : twelve],
    [0x06, byte(date.getUTCDay() + 1)],
    [0x07, byte(date.getUTCDate())],
    [0x08, byte(date.getUTCMonth() + 1)],
    [0x09, byte(year % 100)],
    [0x32, byte(Math.floor(year / 100))],
  ];
}

const indices = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32];
const mode = fc.constantFrom(0, BINARY, HOURS_24, BINARY | HOURS_24);
/** Dates of years 1000 to 8999, those near the ends of months and years often. */
const date = fc
  .tuple(
    fc.oneof(fc.integer({ min: 1970, max: 2099 }), fc.integer({ min: 1000, max: 8999 })),
    fc.nat(11),
    fc.oneof(fc.integer({ min: 26, max: 31 }), fc.integer({ min: 1, max: 31 })),
    fc.oneof(fc.integer({ min: 86_390, max: 86_399 }), fc.nat(86_399)),
  )
  .map(([year, month, day, second]) => new Date(Date.UTC(year, month, day, 0, 0, second)));
const span = fc.oneof(
  fc.nat(2_500_000_000),
  fc.nat(90_000).map((s) => s * SECOND),
  fc.nat(4_000).map((days) => days * 86_400 * SECOND),
);

test("days, months and years are those of JavaScript's dates", () => {
  fc.assert(
    fc.property(fc.integer({ min: -700_000, max: 2_900_000 }), (days) => {
      const d = new Date(days * 86_400_000);
      const year = yearOf(days);
      const month = monthOf(days, year);
      expect([year, month, days - daysBefore(year, month) + 1, dayOfWeek(days)]).toEqual([
        d.getUTCFullYear(),
        d.getUTCMonth(),
        d.getUTCDate(),
        d.getUTCDay() + 1,
      ]);
    }),
    { numRuns: 10_000, seed: 1 },
  );
});

test("the calendar goes as JavaScript's dates do, in every data mode", () => {
  const start = fc.integer({ min: 0, max: 4_000_000_000_000 });
  fc.assert(
    fc.property(start, date, mode, fc.nat(5e9), fc.array(span), (from, to, b, wait, spans) => {
      const rtc = rig(from);
      rtc.pass(wait);
      expect(indices.map((i) => rtc.get(i))).toEqual(
        encoded(new Date(from + Math.floor(wait / 1e6)), HOURS_24).map(([, byte]) => byte),
      );
      rtc.put(0x0b, SET | b);
      for (const [index, byte] of encoded(to, b)) rtc.put(index, byte);
      rtc.pass(wait);
      rtc.put(0x0b, b);
      // The chain's phase is the host's: it doesn't start at the guest's release of SET.
      const phase = ((from % 1000) * 1e6 + 2 * wait) % SECOND;
      let passed = 0;
      for (const ns of spans) {
        rtc.pass(ns);
        passed += ns;
        const seconds = Math.floor((phase + passed) / SECOND);
        const expected = new Date(to.getTime() + seconds * 1000);
        expect(indices.map((i) => rtc.get(i))).toEqual(encoded(expected, b).map(([, x]) => x));
        const left = SECOND - ((phase + passed) % SECOND);
        expect((rtc.get(0x0a) & 0x80) !== 0).toBe(left <= 244_000);
      }
    }),
    { numRuns: 10_000, seed: 1 },
  );
});

test("an alarm comes at the first second that matches it", () => {
  const field = (limit: number) => fc.option(fc.nat(limit - 1));
  fc.assert(
    fc.property(date, mode, field(60), field(60), field(24), (to, b, second, minute, hour) => {
      const rtc = rig(0);
      rtc.put(0x0b, SET | b);
      for (const [index, byte] of encoded(to, b)) rtc.put(index, byte);
      const alarm = new Date(Date.UTC(2000, 0, 1, hour ?? 0, minute ?? 0, second ?? 0));
      const bytes = new Map(encoded(alarm, b));
      rtc.put(1, second === null ? 0xff : bytes.get(0)!);
      rtc.put(3, minute === null ? 0xc0 : bytes.get(2)!);
      rtc.put(5, hour === null ? 0xe5 : bytes.get(4)!);
      rtc.put(0x0b, b | 0x20);
      let ahead = 1;
      const start = to.getUTCHours() * 3600 + to.getUTCMinutes() * 60 + to.getUTCSeconds();
      for (; ahead < 86_400; ahead++) {
        const t = (start + ahead) % 86_400;
        if (second !== null && t % 60 !== second) continue;
        if (minute !== null && Math.floor(t / 60) % 60 !== minute) continue;
        if (hour === null || Math.floor(t / 3600) === hour) break;
      }
      expect(rtc.deadline).toBe(ahead * SECOND);
      rtc.pass(ahead * SECOND - 1);
      expect(rtc.line).toBe(false);
      rtc.pass(1);
      expect(rtc.line).toBe(true);
      expect(rtc.get(0x0c) & 0xa0).toBe(0xa0);
    }),
    { numRuns: 1000, seed: 1 },
  );
});

test("periodic interrupts come at every multiple of the period, whoever reads when", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 15 }), fc.array(fc.nat(3_000_000)), (rate, waits) => {
      const rtc = rig(0);
      const period = ((rate < 3 ? 1 << (rate + 6) : 1 << (rate - 1)) * SECOND) / 32_768;
      rtc.put(0x0a, 0x20 | rate);
      rtc.put(0x0b, 0x42);
      rtc.get(0x0c);
      let now = 0;
      let seen = 0;
      for (const ns of waits) {
        const due = Math.ceil((seen + 1) * period);
        expect(rtc.deadline).toBe(due);
        rtc.pass(ns);
        now += ns;
        expect(rtc.line).toBe(now >= due);
        expect((rtc.get(0x0c) & 0x40) !== 0).toBe(now >= due);
        expect(rtc.line).toBe(false);
        seen = Math.floor(now / period);
      }
    }),
    { numRuns: 10_000, seed: 1 },
  );
});
