/**
 * Devices behind a driver that does anything: port accesses of every kind, rings and descriptors
 * that are overwritten at any time, buffers over the rings. What must hold: nothing throws, an
 * answer fits its size, a step's work has a bound, and after a reset the device serves a good driver.
 */
import { expect, test } from "bun:test";
import fc from "fast-check";
import type { GuestMemory } from "../../vmm/memory.ts";
import type { Size } from "../device.ts";
import { Balloon, BalloonRegisters } from "./balloon.ts";
import { Console, ConsoleRegisters } from "./console.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { Rng } from "./rng.ts";
import { Scsi, ScsiRegisters } from "./scsi.ts";
import { MockDriver, type MockQueue, type Part } from "./mock-driver.ts";
import { Region } from "./transport.ts";

const SIZE = 2 ** 22;
/** Calls of a backend in one step: more would be work without a bound. */
const CALLS_MAX = 70_000;

/** A byte, another each time. */
const seed = () => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 24;
let state = 1;

interface Subject {
  name: string;
  create(
    call: () => void,
    later: (finish: () => void) => void,
  ): (transport: VirtioTransport, memory: GuestMemory) => VirtioDevice;
  /** A request that it serves, of several kinds. */
  good(kind: number): { queue: number; parts: Part[] };
  /** Something from the host's side. */
  event?(device: VirtioDevice): void;
  /** A request, and whether it was served. */
  probe(queues: readonly MockQueue[], device: VirtioDevice): boolean;
}

const subjects: Subject[] = [
  {
    name: "rng",
    create: (call) => (transport) =>
      new Rng(transport, (into) => {
        call();
        into.fill(seed());
      }),
    good: (kind) => ({ queue: 0, parts: [8 * kind, 1] }),
    probe: ([queue]) => queue.request([16]).written === 16,
  },
  {
    name: "scsi",
    create: (call, later) => (transport) =>
      new Scsi(ScsiRegisters.standalone(), transport, {
        size: 2 ** 27,
        read: (_offset, chain, at, length, done) => {
          call();
          // The test's driver has no more memory than that anyway.
          const bytes = new Uint8Array(Math.min(length, 5000)).fill(length);
          later(() => {
            chain.write(at, bytes);
            done(true);
          });
        },
      }),
    good: (kind) => {
      if (kind % 4 === 0) {
        const bytes = new Uint8Array(24);
        bytes[4] = kind >> 2;
        bytes[8] = 1;
        return { queue: 0, parts: [bytes, 1] };
      }
      const bytes = new Uint8Array(51);
      bytes[0] = 1;
      // READ(10), or INQUIRY
      bytes.set(kind % 4 === 1 ? [0x12, 0, 0, 0, 36] : [0x28, 0, 0, 0, 0, kind, 0, 0, 2], 19);
      return { queue: 2, parts: [bytes, 108, 5000] };
    },
    probe: (queues) => {
      // TEST UNIT READY
      const bytes = new Uint8Array(51);
      bytes[0] = 1;
      const { data } = queues[2].request([bytes, 108]);
      return data[10] === 0 && data[11] === 0;
    },
  },
  {
    name: "console",
    create: (call) => (transport) =>
      new Console(ConsoleRegisters.standalone(), transport, {
        output: call,
        blocked: () => seed() < 25,
      }),
    event: (device) => {
      (device as Console).input(new Uint8Array(300).fill(7));
      (device as Console).resize(seed(), 24);
    },
    good: (kind) => ({
      queue: kind & 1,
      parts: [(kind & 1) === 0 ? 40 * kind : new Uint8Array(40 * kind)],
    }),
    probe: ([receive], device) => {
      receive.add([1]);
      receive.kick();
      (device as Console).input(new Uint8Array(1));
      return receive.used().length === 1;
    },
  },
  {
    name: "balloon",
    create: (call) => (transport, memory) =>
      new Balloon(BalloonRegisters.standalone(), transport, memory, {
        discard: (address, length) => {
          call();
          memory.fill(address, length, 0);
        },
      }),
    event: (device) => {
      (device as Balloon).askStatistics();
      (device as Balloon).target(8 * seed());
    },
    good: (kind) => ({
      queue: kind % 5,
      parts: kind % 5 < 3 ? [new Uint8Array(40).fill(kind)] : [8192],
    }),
    probe: ([queue]) => queue.request([new Uint8Array([0, 3, 0, 0])]).written === 0,
  },
];

const offset = fc.oneof(fc.nat(0x3f), fc.nat(0x33f), fc.constant<number>(Region.NOTIFY));
const value = fc.oneof(fc.nat(300), fc.nat(2 ** 32 - 1));
const size = fc.constantFrom<Size>(1, 2, 4);
const step = fc.oneof(
  { weight: 2, arbitrary: fc.record({ do: fc.constant("write" as const), offset, size, value }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("read" as const), offset, size }) },
  {
    // Of a ring or table: where, and which bytes.
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("scribble" as const),
      queue: fc.nat(4),
      part: fc.nat(2),
      at: fc.oneof(fc.nat(20), fc.nat(2100)),
      bytes: fc.uint8Array({ maxLength: 8 }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("chain" as const),
      queue: fc.nat(4),
      parts: fc.array(
        fc.oneof(
          fc.nat(300),
          fc.uint8Array({ maxLength: 120 }),
          // Anywhere, the rings included.
          fc.record({ address: fc.nat(SIZE), length: fc.nat(70_000), writable: fc.boolean() }),
        ),
        { maxLength: 6 },
      ),
      indirect: fc.boolean(),
    }),
  },
  { weight: 12, arbitrary: fc.record({ do: fc.constant("good" as const), kind: fc.nat(31) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("kick" as const), queue: fc.nat(4) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom("poll" as const, "event" as const, "finish" as const, "start" as const),
    }),
  },
);

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

for (const { name, create, good, event, probe } of subjects) {
  test(`${name}: whatever its driver does, it goes on after a reset`, () => {
    let calls = 0;
    let served = 0;
    const pending: (() => void)[] = [];
    const device = create(
      () => void calls++,
      (finish) => void pending.push(finish),
    );
    const driver = new MockDriver(device, SIZE);
    const queueOf = (index: number) => driver.queues[index % driver.queues.length];

    const perform = (step: Step) => {
      switch (step.do) {
        case "write":
          driver.write(step.offset, step.size, step.value % 2 ** (8 * step.size));
          break;
        case "read": {
          const answer = driver.read(step.offset, step.size);
          expect(answer >= 0 && answer < 2 ** (8 * Math.max(step.size, 1))).toBe(true);
          break;
        }
        case "scribble": {
          const queue = queueOf(step.queue);
          const at = [queue.descriptors, queue.available, queue.usedRing][step.part];
          driver.memory.write(at + step.at, step.bytes);
          break;
        }
        case "chain": {
          const queue = queueOf(step.queue);
          if (queue.room < 6) break;
          queue.add(step.parts, { indirect: step.indirect });
          break;
        }
        case "good": {
          const { queue, parts } = good(step.kind);
          if (queueOf(queue).room < 6) break;
          queueOf(queue).add(parts);
          queueOf(queue).kick(true);
          break;
        }
        case "kick":
          queueOf(step.queue).kick(true);
          break;
        case "poll":
          driver.transport.poll();
          break;
        case "event":
          event?.(driver.device);
          break;
        case "finish":
          pending.shift()?.();
          break;
        case "start":
          driver.start();
          break;
      }
    };

    fc.assert(
      fc.property(fc.array(step, { maxLength: 100, size: "max" }), (steps) => {
        driver.start();
        for (const step of steps) {
          calls = 0;
          perform(step);
          expect(calls).toBeLessThan(CALLS_MAX);
        }
        for (const used of driver.registers.nextUsed) served += used;
        driver.start();
        while (pending.length > 0) pending.pop()!();
        for (const queue of driver.queues) expect(queue.used()).toEqual([]);
        expect(driver.needsReset).toBe(false);
        expect(probe(driver.queues, driver.device)).toBe(true);
      }),
      { seed: 20270108, numRuns: 400 },
    );
    // It was no test of a device that needs a reset.
    expect(served).toBeGreaterThan(400);
  });
}
