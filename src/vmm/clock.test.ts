import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Clock, ClockRegisters, manualClock, type ManualTime, type Timer } from "./clock.ts";

let clock: Clock;
let time: ManualTime;
let fired: string[];

beforeEach(() => {
  ({ clock, time } = manualClock());
  fired = [];
});

const timer = (name: string): Timer => clock.timer(() => fired.push(`${name}@${clock.now}`));

describe("time", () => {
  test("is read once until the clock is invalidated", () => {
    let reads = 0;
    const counted = new Clock(ClockRegisters.standalone(), { now: () => ++reads * 10 });
    expect([counted.now, counted.now, counted.utc]).toEqual([10, 10, 10]);
    counted.invalidate();
    expect(counted.now).toBe(20);
    expect(counted.sample()).toBe(30);
    expect(reads).toBe(3);
  });

  test("never goes back", () => {
    let now = 100;
    const odd = new Clock(ClockRegisters.standalone(), { now: () => now });
    expect(odd.now).toBe(100);
    now = 50;
    odd.invalidate();
    expect(odd.now).toBe(100);
    now = 101;
    odd.invalidate();
    expect(odd.now).toBe(101);
  });

  test("UTC is guest time on top of the epoch", () => {
    clock.epoch = 1e18;
    time.time = 5000;
    expect(clock.utc).toBe(1e18 + 5000);
    expect(clock.epoch).toBe(1e18);
  });

  test("is moved by warp where the source can be moved", () => {
    clock.warp(3000);
    expect(clock.now).toBe(3000);
    const fixed = new Clock(ClockRegisters.standalone(), { now: () => 7 });
    fixed.warp(3000);
    expect(fixed.now).toBe(7);
  });
});

describe("timers", () => {
  test("run when due, earliest first, once", () => {
    const [a, b, c] = ["a", "b", "c"].map(timer);
    a.arm(300);
    b.arm(100);
    c.arm(200);
    expect(clock.deadline).toBe(100);
    time.time = 99;
    clock.expire();
    expect(fired).toEqual([]);
    time.time = 250;
    clock.expire();
    expect(fired).toEqual(["b@250", "c@250"]);
    expect(clock.deadline).toBe(300);
    time.time = 300;
    clock.expire();
    clock.expire();
    expect(fired).toEqual(["b@250", "c@250", "a@300"]);
    expect([a.due, clock.deadline]).toEqual([Infinity, Infinity]);
  });

  test("due at the same time run in the order of their making", () => {
    const [a, b] = ["a", "b"].map(timer);
    b.arm(5);
    a.arm(5);
    time.time = 5;
    clock.expire();
    expect(fired).toEqual(["a@5", "b@5"]);
  });

  test("are disarmed, and rearmed by their handlers", () => {
    const a = timer("a");
    a.arm(10);
    a.disarm();
    time.time = 20;
    clock.expire();
    expect(fired).toEqual([]);

    let runs = 0;
    const again: Timer = clock.timer(() => {
      runs++;
      again.arm(again.due === Infinity ? clock.now + 10 : 0);
    });
    again.arm(25);
    time.time = 30;
    clock.expire();
    expect([runs, again.due]).toEqual([1, 40]);
  });

  test("a handler that rearms for the past can't hold expire", () => {
    let runs = 0;
    const greedy: Timer = clock.timer(() => {
      runs++;
      greedy.arm(0);
    });
    timer("a");
    greedy.arm(0);
    clock.expire();
    expect(runs).toBeLessThanOrEqual(2);
    clock.expire();
    expect(runs).toBeLessThanOrEqual(4);
  });

  test("a handler may disarm another that is due", () => {
    const b: { timer?: Timer } = {};
    const a = clock.timer(() => b.timer?.disarm());
    b.timer = timer("b");
    a.arm(1);
    b.timer.arm(2);
    time.time = 5;
    clock.expire();
    expect(fired).toEqual([]);
  });

  test("a change of what is armed shows in `rearmed`", () => {
    const a = timer("a");
    clock.rearmed = false;
    a.arm(10);
    expect(clock.rearmed).toBe(true);
    clock.rearmed = false;
    a.disarm();
    expect(clock.rearmed).toBe(true);
    a.arm(10);
    clock.rearmed = false;
    time.time = 10;
    clock.expire();
    expect(clock.rearmed).toBe(true);
  });

  test("there are 32", () => {
    for (let i = 0; i < 32; i++) timer(`${i}`);
    expect(() => timer("32")).toThrow(RangeError);
  });

  test("what is armed lies in the registers: a copy of them holds it", () => {
    const registers = ClockRegisters.standalone();
    const first = new Clock(registers, { now: () => 0 });
    first.timer(() => {}).arm(123);
    const second = new Clock(registers, { now: () => 200 });
    const copied = second.timer(() => fired.push("copied"));
    expect([copied.due, second.deadline, second.rearmed]).toEqual([123, 123, true]);
    second.expire();
    expect(fired).toEqual(["copied"]);
  });
});

test("expire runs exactly what is due, in order of time, whatever was armed", () => {
  const steps = fc.array(
    fc.record({ timer: fc.nat(7), at: fc.nat(1000), pass: fc.nat(100), disarm: fc.boolean() }),
    { maxLength: 60 },
  );
  fc.assert(
    fc.property(steps, (list) => {
      const made = manualClock();
      const ran: [number, number][] = [];
      const due = Array<number>(8).fill(Infinity);
      const timers = due.map((_, i) => made.clock.timer(() => ran.push([i, due[i]])));
      for (const step of list) {
        due[step.timer] = step.disarm ? Infinity : step.at;
        if (step.disarm) timers[step.timer].disarm();
        else timers[step.timer].arm(step.at);
        expect(made.clock.deadline).toBe(Math.min(...due));
        made.time.time += step.pass;
        const now = made.time.time;
        const wanted = due
          .map((at, i): [number, number] => [i, at])
          .filter(([, at]) => at <= now)
          .toSorted(([i, a], [j, b]) => a - b || i - j);
        ran.length = 0;
        made.clock.expire();
        expect(ran).toEqual(wanted);
        for (const [i] of wanted) due[i] = Infinity;
      }
    }),
    { seed: 3, numRuns: 300 },
  );
});
