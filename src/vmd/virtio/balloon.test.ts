/** The memory balloon against virtio 1.2, § 5.5. */
import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { GuestMemory } from "../../vmm/memory.ts";
import {
  Balloon,
  BalloonFeature,
  BalloonRegisters,
  CHAIN_MAX,
  PAGE,
  Statistic,
} from "./balloon.ts";
import { MockDriver } from "./mock-driver.ts";

const SIZE = 2 ** 23;
const PAGES = SIZE / PAGE;
const { MUST_TELL_HOST, STATS_VQ, DEFLATE_ON_OOM, PAGE_REPORTING } = BalloonFeature;
const [INFLATE, DEFLATE, THIRD, FOURTH, FIFTH] = [0, 1, 2, 3, 4];

let discarded: [number, number][] = [];
let told = 0;
/** Whether discarded pages are emptied, as they would be. */
let real = false;
let driver: MockDriver<Balloon>;

const make = (memory = GuestMemory.standalone(SIZE)) =>
  new MockDriver(
    (transport, memory) =>
      new Balloon(BalloonRegisters.standalone(), transport, memory, {
        discard: (address, length) => {
          discarded.push([address / PAGE, length / PAGE]);
          if (real) memory.fill(address, length, 0);
        },
        statistics: () => void told++,
      }),
    memory.size,
    memory,
  );

beforeEach(() => {
  discarded = [];
  told = 0;
  real = false;
  driver = make();
});

const numbers = (...pages: number[]) => new Uint8Array(Uint32Array.from(pages).buffer);
const statistics = (...entries: [number, number][]) => {
  const view = new DataView(new ArrayBuffer(10 * entries.length));
  entries.forEach(([tag, value], i) => {
    view.setUint16(10 * i, tag, true);
    view.setBigUint64(10 * i + 2, BigInt(value), true);
  });
  return new Uint8Array(view.buffer);
};

test("offers its features, and five queues of 128: § 5.5.2, § 5.5.3", () => {
  expect(driver.device.type).toBe(5);
  expect(driver.offered[0] & 0xffffff).toBe(0b100111);
  expect([MUST_TELL_HOST, STATS_VQ, DEFLATE_ON_OOM, PAGE_REPORTING]).toEqual([0, 1, 2, 5]);
  expect([driver.read(0x12, 2), driver.read(0x18, 2)]).toEqual([5, 128]);
});

describe("the configuration, § 5.5.4", () => {
  test("says what the host wants, as long as memory is there", () => {
    driver.start();
    driver.device.target(300);
    expect(driver.readConfig(0, 4)).toBe(300);
    expect(driver.interrupted()).toEqual({ queue: false, config: true });
    driver.device.target(300);
    expect(driver.interrupted().config).toBe(false);
    driver.device.target(1e9);
    expect(driver.readConfig(0, 4)).toBe(PAGES);
    driver.device.target(-1);
    expect(driver.readConfig(0, 4)).toBe(0);
  });

  test("takes what the driver gave, which a reset ends; the target stays", () => {
    driver.start();
    driver.device.target(300);
    driver.writeConfig(4, 4, 299);
    driver.writeConfig(0, 4, 1);
    driver.writeConfig(4, 1, 1);
    expect(driver.device.actual).toBe(299);
    expect([driver.readConfig(0, 4), driver.readConfig(4, 4)]).toEqual([300, 299]);
    driver.status = 0;
    expect([driver.readConfig(0, 4), driver.readConfig(4, 4)]).toEqual([300, 0]);
  });
});

describe("inflating, § 5.5.6", () => {
  const inflate = (...pages: number[]) => {
    expect(driver.queues[INFLATE].request([numbers(...pages)]).written).toBe(0);
    return discarded.splice(0);
  };
  beforeEach(() => driver.start());

  test("discards pages, those that follow each other at once", () => {
    expect(inflate(5)).toEqual([[5, 1]]);
    expect(inflate(5, 6, 7, 9, 10)).toEqual([
      [5, 3],
      [9, 2],
    ]);
    expect(inflate(20, 19, 18)).toEqual([[18, 3]]);
    expect(inflate(20, 21, 19, 20, 22)).toEqual([[19, 4]]);
    expect(inflate(0, PAGES - 1)).toEqual([
      [0, 1],
      [PAGES - 1, 1],
    ]);
    expect(inflate()).toEqual([]);
  });

  test("leaves alone what is no RAM", () => {
    expect(inflate(PAGES, 2 ** 32 - 1, 3, PAGES + 1)).toEqual([[3, 1]]);
    expect(driver.needsReset).toBe(false);
  });

  test("ignores what is no whole number", () => {
    driver.queues[INFLATE].request([numbers(7, 9).slice(0, 7), 12]);
    expect(discarded).toEqual([[7, 1]]);
  });

  test("of a long array looks at its beginning: pages may stay", () => {
    const long = Uint32Array.from({ length: CHAIN_MAX + 1 }, (_, i) => (i < CHAIN_MAX ? 1 : 2));
    driver.queues[INFLATE].request([new Uint8Array(long.buffer)]);
    expect(discarded).toEqual([[1, 1]]);
  });

  test("of one notification has an end; polls go on", () => {
    const [queue] = driver.queues;
    const long = new Uint8Array(Uint32Array.from({ length: CHAIN_MAX }, (_, i) => i % 2).buffer);
    const address = driver.buffer(long.length);
    driver.memory.write(address, long);
    for (let i = 0; i < 5; i++) queue.add([{ address, length: long.length, writable: false }]);
    queue.kick();
    expect(queue.used()).toHaveLength(2);
    driver.transport.poll();
    expect(queue.used()).toHaveLength(2);
    driver.transport.poll();
    expect(queue.used()).toHaveLength(1);
  });

  test("does not join ranges of RAM that touch", () => {
    const half = SIZE / 2;
    const ranges = [0, half].map((base) => ({ base, size: half, readonly: false, host: 0 }));
    driver = make(new GuestMemory(ranges, (_, __, length) => new ArrayBuffer(length)));
    driver.start();
    const edge = half / PAGE;
    expect(inflate(edge - 2, edge - 1, edge, edge + 1)).toEqual([
      [edge - 2, 2],
      [edge, 2],
    ]);
  });

  test("discards no ROM", () => {
    const rom = { base: SIZE, size: PAGE, readonly: true, host: 0 };
    const ram = { base: 0, size: SIZE, readonly: false, host: 0 };
    driver = make(new GuestMemory([ram, rom], (_, __, length) => new ArrayBuffer(length)));
    driver.start();
    expect(inflate(PAGES - 1, PAGES)).toEqual([[PAGES - 1, 1]]);
  });

  test("that takes its own queue ends; after a reset all is well", () => {
    real = true;
    const [queue] = driver.queues;
    for (const at of [queue.descriptors, queue.available, queue.usedRing]) {
      driver.start();
      for (let i = 0; i < 4; i++) queue.add([numbers(at / PAGE)]);
      queue.kick();
      driver.transport.poll();
      driver.start();
      expect(discarded.splice(0)[0]).toEqual([at / PAGE, 1]);
      expect(inflate(9)).toEqual([[9, 1]]);
    }
  });

  test("that takes its own array is served from a copy", () => {
    real = true;
    const address = 700 * PAGE;
    driver.memory.write(address, numbers(700, 701, 800));
    driver.queues[INFLATE].request([{ address, length: 12, writable: false }]);
    expect(discarded).toEqual([
      [700, 2],
      [800, 1],
    ]);
  });
});

test("deflating is acknowledged, and no page is touched: § 5.5.6", () => {
  driver.start();
  expect(driver.queues[DEFLATE].request([numbers(1, 2, 3)]).written).toBe(0);
  expect(driver.interrupted().queue).toBe(true);
  expect(discarded).toEqual([]);
});

describe("statistics, § 5.5.6.3", () => {
  test("are asked for, and come", () => {
    driver.start();
    const queue = driver.queues[THIRD];
    const { MEMFREE, MEMTOT, HTLB_PGFAIL } = Statistic;
    expect(driver.device.askStatistics()).toBe(false);
    queue.add([statistics([MEMTOT, 2 ** 40], [MEMFREE, 5], [77, 1])]);
    queue.kick();
    expect(queue.used()).toEqual([]);
    expect(told).toBe(1);
    expect(driver.device.statistic(MEMTOT)).toBe(2 ** 40);
    expect(driver.device.statistic(HTLB_PGFAIL)).toBeUndefined();
    driver.transport.poll();
    expect(told).toBe(1);
    for (let i = 0; i < 300; i++) {
      expect(driver.device.askStatistics()).toBe(true);
      expect(driver.device.askStatistics()).toBe(false);
      expect(driver.interrupted().queue).toBe(true);
      expect(queue.used()).toMatchObject([{ written: 0 }]);
      queue.add([statistics([HTLB_PGFAIL, i])]);
      expect(queue.kick()).toBe(true);
      expect(driver.device.statistic(HTLB_PGFAIL)).toBe(i);
      expect(driver.device.statistic(MEMTOT)).toBeUndefined();
    }
    driver.start();
    expect(driver.device.statistic(HTLB_PGFAIL)).toBeUndefined();
    expect(driver.device.askStatistics()).toBe(false);
  });

  test("may be empty, cut short, or endless", () => {
    driver.start();
    const queue = driver.queues[THIRD];
    for (const parts of [[], [new Uint8Array(9)], [new Uint8Array(100_000)], [16]]) {
      queue.add(parts);
      queue.kick();
      expect(driver.device.askStatistics()).toBe(true);
      expect(queue.used()).toHaveLength(1);
    }
  });

  test("are nobody's to ask for when they weren't negotiated", () => {
    driver.start({ without: [STATS_VQ] });
    driver.queues[THIRD].add([statistics([0, 1])]);
    driver.queues[THIRD].kick();
    expect(driver.device.askStatistics()).toBe(false);
    expect(driver.device.statistic(0)).toBeUndefined();
  });
});

describe("free page reporting, § 5.5.6.7", () => {
  const areas = [
    { address: 16 * PAGE, length: 4 * PAGE, writable: true },
    { address: 30 * PAGE, length: PAGE, writable: true },
  ];

  test("discards the areas, in whichever queue it is: § 5.5.2, and without gaps", () => {
    for (const [index, without] of [
      [FIFTH, []],
      [FOURTH, []],
      [THIRD, [STATS_VQ]],
    ] as const) {
      driver.start({ without: [...without] });
      discarded = [];
      expect(driver.queues[index].request(areas, { indirect: true }).written).toBe(0);
      expect(discarded).toEqual([
        [16, 4],
        [30, 1],
      ]);
    }
  });

  test("only of whole pages, and never of what the device should read", () => {
    driver.start();
    driver.queues[FIFTH].request([
      { address: 5 * PAGE, length: PAGE, writable: false },
      { address: 16 * PAGE + 1, length: 2 * PAGE, writable: true },
      { address: 20 * PAGE + 1, length: PAGE, writable: true },
    ]);
    expect(discarded).toEqual([[17, 1]]);
  });

  test("is ignored when it wasn't negotiated", () => {
    driver.start({ without: [PAGE_REPORTING] });
    driver.queues[FIFTH].add(areas);
    driver.queues[FIFTH].kick();
    driver.transport.poll();
    expect(discarded).toEqual([]);
    expect(driver.queues[FIFTH].out).toBe(1);
  });
});

test("whatever is given away, chains come back once, and only named pages go", () => {
  // Beyond the rings, so that the driver can go on.
  const page = fc.oneof(
    fc.integer({ min: PAGES / 2, max: PAGES + 20 }),
    fc.integer({ min: PAGES, max: 2 ** 32 - 1 }),
  );
  const chain = fc.record({
    queue: fc.constantFrom(INFLATE, DEFLATE, FIFTH),
    pages: fc.array(page, { maxLength: 40 }),
    run: fc.nat(20),
  });
  fc.assert(
    fc.property(
      fc.array(chain, { maxLength: 30, size: "max" }),
      fc.boolean(),
      (chains, emptied) => {
        driver.broke.length = 0;
        driver.start();
        real = emptied;
        for (const { queue, pages, run } of chains) {
          discarded = [];
          const all = pages.flatMap((page) =>
            Array.from({ length: run + 1 }, (_, i) => Math.min(page + i, 2 ** 32 - 1)),
          );
          if (queue === FIFTH) {
            driver.queues[queue].request([5000, 100]);
            continue;
          }
          driver.queues[queue].request([numbers(...all)]);
          const gone = new Set(
            discarded.flatMap(([at, n]) => Array.from({ length: n }, (_, i) => at + i)),
          );
          const named = new Set(queue === INFLATE ? all.filter((page) => page < PAGES) : []);
          expect(gone).toEqual(named);
        }
        expect(driver.broke).toEqual([]);
      },
    ),
    { seed: 20270107, numRuns: 200 },
  );
});
