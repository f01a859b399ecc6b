/** The entropy device against virtio 1.2, § 5.4. */
import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Rng } from "./rng.ts";
import { MockDriver } from "./mock-driver.ts";

let drawn = 0;
let driver: MockDriver<Rng>;

beforeEach(() => {
  drawn = 0;
  driver = new MockDriver((transport) => {
    return new Rng(transport, (into) => {
      for (let i = 0; i < into.length; i++) into[i] = 1 + (drawn++ % 255);
    });
  });
});

test("is device 4 with one queue of 64 and no configuration", () => {
  expect(driver.device.type).toBe(4);
  expect(driver.read(0x12, 2)).toBe(1);
  expect(driver.read(0x18, 2)).toBe(64);
  expect(driver.readConfig(0, 4)).toBe(0);
});

describe("a request", () => {
  beforeEach(() => driver.start());

  test("is filled, over all of its segments: § 5.4.6", () => {
    const { written, data } = driver.queues[0].request([3, 60, 100]);
    expect(written).toBe(163);
    expect(data).toEqual(new Uint8Array(163).map((_, i) => 1 + (i % 255)));
    expect(driver.interrupted()).toEqual({ queue: true, config: false });
    expect(driver.line).toBe(false);
  });

  test("gets 64 KiB at most, and what lies behind is left alone: § 5.4.6.2", () => {
    const { written, data } = driver.queues[0].request([65_000, 1000]);
    expect(written).toBe(65_536);
    expect(data.subarray(0, 65_536).includes(0)).toBe(false);
    expect(data.subarray(65_536).every((byte) => byte === 0)).toBe(true);
  });

  test("without room gets nothing; one with a readable part, the rest: § 5.4.6.1", () => {
    expect(driver.queues[0].request([new Uint8Array(9)]).written).toBe(0);
    expect(driver.queues[0].request([]).written).toBe(0);
    expect(driver.queues[0].request([new Uint8Array(9), 7]).written).toBe(7);
    expect(driver.broke).toEqual([]);
  });

  test("of 64 bytes draws no more", () => {
    driver.queues[0].request([64]);
    expect(drawn).toBe(64);
  });
});

test("whatever the chains, each comes back once, filled", () => {
  const chain = fc.record({
    parts: fc.array(fc.oneof(fc.nat(300), fc.uint8Array({ maxLength: 20 })), { maxLength: 8 }),
    indirect: fc.boolean(),
    kick: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(chain, { maxLength: 100, size: "max" }), fc.boolean(), (chains, plain) => {
      if (plain) driver.startPlain();
      else driver.start();
      const [queue] = driver.queues;
      let back = 0;
      for (const { parts, indirect, kick } of chains) {
        parts.sort((a, b) => Number(typeof a === "number") - Number(typeof b === "number"));
        if (queue.room < 8) back += queue.used().length;
        // An empty table is a broken rule: § 2.7.5.3.
        queue.add(parts, { indirect: indirect && !plain && parts.length > 0 });
        if (!kick && queue.room >= 8) continue;
        queue.kick();
        for (const { written, data } of queue.used()) {
          expect(written).toBe(data.length);
          expect(data.includes(0)).toBe(false);
          back++;
        }
        expect(queue.out).toBe(0);
      }
      queue.kick();
      expect(back + queue.used().length).toBe(chains.length);
      expect(driver.broke).toEqual([]);
    }),
    { seed: 20270101, numRuns: 300 },
  );
});

test("a buffer over its own rings ends", () => {
  // What is written there is an index, heads and descriptors, again and again.
  const rings = fc.record({ start: fc.nat(12_000), length: fc.nat(70_000) });
  fc.assert(
    fc.property(rings, fc.boolean(), ({ start, length }, plain) => {
      if (plain) driver.startPlain();
      else driver.start();
      const [queue] = driver.queues;
      const address = queue.descriptors + start;
      for (let i = 0; i < 3; i++) queue.add([{ address, length, writable: true }]);
      const before = drawn;
      queue.kick(true);
      for (let i = 0; i < 5; i++) driver.transport.poll();
      expect(drawn - before).toBeLessThanOrEqual(6 * 64 * 65_536);
      // After a reset it is as new.
      driver.start();
      expect(driver.queues[0].request([16]).written).toBe(16);
    }),
    { seed: 20270102, numRuns: 200 },
  );
});

test("a chain that was not announced is found by a poll", () => {
  driver.start();
  driver.queues[0].add([16]);
  driver.transport.poll();
  expect(driver.queues[0].used()).toHaveLength(1);
});

test("is silent before DRIVER_OK, and after a broken rule: § 2.1.2", () => {
  driver.negotiate(0);
  driver.queues[0].setUp();
  driver.queues[0].add([16]);
  driver.queues[0].kick(true);
  expect(driver.queues[0].used()).toEqual([]);
  driver.start();
  driver.queues[0].offer(64);
  driver.queues[0].kick(true);
  expect(driver.needsReset).toBe(true);
  expect(driver.interrupted()).toEqual({ queue: false, config: true });
  expect(driver.broke).toHaveLength(1);
});
