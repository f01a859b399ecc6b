/** A guest's clock beside a host's whose time is set, and that sleeps. */
import { beforeEach, expect, test } from "bun:test";
import { manualClock } from "../../vmm/clock.ts";
import { TimeSync } from "./time-sync.ts";

const START = 1_700_000_000_250;
let host = START;
let moved = 0;
let { clock, time } = manualClock();
let sync: TimeSync;

beforeEach(() => {
  host = START;
  moved = 0;
  ({ clock, time } = manualClock());
  clock.epoch = START * 1e6;
  sync = new TimeSync(
    clock,
    () => host,
    () => moved++,
  );
  sync.reset();
});

/** So many seconds pass, one by one, for the guest and for the host. */
function pass(seconds: number): void {
  for (let i = 0; i < seconds; i++) {
    host += 1000;
    time.time += 1e9;
    clock.expire();
  }
}

const wrongBy = () => (clock.utc - host * 1e6) / 1e9;

test("as long as both go on alike nothing happens", () => {
  sync.watch(true);
  pass(100);
  expect([moved, wrongBy()]).toEqual([0, 0]);
});

test("up to five seconds are let be", () => {
  sync.watch(true);
  for (const jump of [5000, -5000, -5000, 5000]) {
    host += jump;
    pass(3);
  }
  expect(moved).toBe(0);
});

test("a jump of the host's clock, to either side, moves the guest's once, within a second", () => {
  sync.watch(true);
  for (const [i, jump] of [3_600_000, -86_400_000, 5_001, -5_600].entries()) {
    host += jump;
    pass(1);
    expect(moved).toBe(i + 1);
    expect(Math.abs(wrongBy())).toBeLessThanOrEqual(1);
    pass(10);
    expect(moved).toBe(i + 1);
  }
});

test("the fraction of its second stays", () => {
  sync.watch(true);
  const fraction = clock.epoch % 1e9;
  host += 7_300;
  pass(1);
  expect(moved).toBe(1);
  expect(clock.epoch % 1e9).toBe(fraction);
});

test("small drifts add up", () => {
  sync.watch(true);
  for (let i = 0; i < 51; i++) {
    host += 100;
    pass(1);
  }
  expect(moved).toBe(1);
});

test("a guest that was given another time keeps it", () => {
  clock.epoch = Date.UTC(1999, 11, 31) * 1e6;
  sync.reset();
  sync.watch(true);
  pass(10);
  expect(moved).toBe(0);
  host += 60_000;
  pass(1);
  expect(moved).toBe(1);
  expect(clock.utc / 1e6).toBe(Date.UTC(1999, 11, 31) + 71_000);
});

test("it arms no timer unless it is to look, and again each second", () => {
  expect(clock.deadline).toBe(Infinity);
  sync.watch(true);
  expect(clock.deadline).toBe(1e9);
  time.time = 4e8;
  sync.watch(true);
  expect(clock.deadline).toBe(1e9);
  sync.watch(false);
  expect(clock.deadline).toBe(Infinity);
  host += 60_000;
  pass(5);
  expect(moved).toBe(0);
});
