/** Limits on what devices move, in guest time. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { Clock, ClockRegisters, ManualTime } from "../../vmm/clock.ts";
import { RateLimit, RateLimitRegisters, type RateLimits } from "./rate-limit.ts";

function make(limits: RateLimits) {
  const time = new ManualTime();
  const clock = new Clock(ClockRegisters.standalone(), time);
  let opened = 0;
  const limit = new RateLimit(RateLimitRegisters.standalone(), clock, limits, () => opened++);
  limit.reset();
  const pass = (ns: number) => {
    time.time += ns;
    clock.invalidate();
    clock.expire();
  };
  return { limit, clock, pass, opened: () => opened };
}

/** Serves requests of this size for so long; how many. */
function serve({ limit, clock, pass }: ReturnType<typeof make>, bytes: number, seconds: number) {
  const end = clock.now + seconds * 1e9;
  let count = 0;
  while (clock.now < end) {
    if (limit.isOpen) {
      limit.charge(bytes);
      count++;
    } else {
      pass(Math.min(clock.deadline - clock.now, end - clock.now));
    }
  }
  return count;
}

test("bytes a second, and a burst", () => {
  const one = make({ bytes: 1_000_000, burst: 200_000 });
  let count = 0;
  while (one.limit.isOpen) {
    one.limit.charge(10_000);
    count++;
  }
  expect(count).toBe(20);
  const served = serve(one, 10_000, 10);
  expect(served).toBeGreaterThanOrEqual(999);
  expect(served).toBeLessThanOrEqual(1001);
});

test("operations a second", () => {
  const served = serve(make({ operations: 500 }), 4096, 4);
  expect(served).toBeGreaterThanOrEqual(2000);
  expect(served).toBeLessThanOrEqual(2051);
});

test("a request that is larger than the burst goes, and is paid afterwards", () => {
  const one = make({ bytes: 1000, burst: 100 });
  expect(one.limit.isOpen).toBe(true);
  one.limit.charge(5000);
  expect(one.limit.isOpen).toBe(false);
  one.pass(4.8e9);
  expect(one.opened()).toBe(0);
  expect(one.limit.isOpen).toBe(false);
  one.pass(0.2e9);
  expect(one.opened()).toBe(1);
  expect(one.limit.isOpen).toBe(true);
});

test("whatever is asked for, no more goes than the limits say", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1000, max: 1e9 }),
      fc.integer({ min: 1, max: 1e5 }),
      fc.integer({ min: 1, max: 1e6 }),
      (bytes, operations, request) => {
        const one = make({ bytes, operations });
        const count = serve(one, request, 2);
        expect(count).toBeLessThanOrEqual(operations * 2.1 + 2);
        expect((count - 1) * request).toBeLessThanOrEqual(bytes * 2.1 + request);
      },
    ),
    { numRuns: 30 },
  );
});
