/** A queue against virtio 1.2, § 2.7: what drivers may do, and every way to do it wrong. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { GuestMemory } from "../../vmm/memory.ts";
import type { Chain } from "./chain.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { Driver, EVENT_IDX, Flags, INDIRECT_DESC } from "./testing.ts";

/** Takes chains, and gives them back when it is told to. */
class Holder implements VirtioDevice {
  readonly type = 42;
  readonly features: readonly [number, number] = [0, 0];
  readonly queueSizes = [64, 16];
  readonly configSize = 0;
  readonly held: Chain[] = [];
  readonly #transport: VirtioTransport;

  constructor(transport: VirtioTransport) {
    this.#transport = transport;
  }

  readConfig(): number {
    return 0;
  }

  reset(): void {
    this.held.length = 0;
  }

  notify(index: number): void {
    const queue = this.#transport.queue(index);
    for (let i = 0; i < 64; i++) {
      const chain = queue.pop();
      if (chain === undefined) return;
      this.held.push(chain);
    }
  }

  giveBack(written = 0, queue = 0): void {
    for (const chain of this.held.splice(0)) this.#transport.queue(queue).push(chain, written);
    this.#transport.notifyUsed(this.#transport.queue(queue));
  }
}

const driver = (features: number[] = [], sizes?: number[], memory?: GuestMemory) =>
  new Driver((transport) => new Holder(transport), memory).start(features, sizes);

describe("what a driver may change meanwhile", () => {
  // A second reading of a descriptor, or of the ring, could find another than was checked.
  test.each([[false], [true]])(
    "is read once for each chain (in an indirect table: %p)",
    (indirect) => {
      const d = driver([INDIRECT_DESC]);
      const reads = new Map<number, number>();
      d.add([new Uint8Array(8), new Uint8Array(8), 16, 16, 16], { indirect });
      d.memory.observeReads((address, length) => {
        // The device's own looks at the available index are between chains.
        for (let at = address; at < address + length; at += 2) {
          reads.set(at, (reads.get(at) ?? 0) + 1);
        }
      });
      const chain = d.transport.queue(0).pop() as Chain;
      const counts = [...reads.values()];
      // Index and head, and for each descriptor its eight half-words.
      expect(counts).toHaveLength(2 + 8 * (indirect ? 6 : 5));
      expect(Math.max(...counts)).toBe(1);
      expect(chain.count).toBe(5);
      // What becomes of the descriptors now is nothing to the chain.
      const [first] = reads.keys();
      const before = [...chain.address];
      for (const at of reads.keys()) if (at !== first) d.memory.write16(at, 0xffff);
      expect([...chain.address]).toEqual(before);
      expect([chain.readableBytes, chain.writableBytes]).toEqual([16, 48]);
    },
  );
});

describe("chains", () => {
  test("of several parts are taken once and given back once, with what was written", () => {
    const d = driver();
    const { head, at } = d.add([new Uint8Array([1, 2, 3]), new Uint8Array([4]), 10, 20]);
    d.notify();
    expect(d.device.held).toHaveLength(1);
    const [chain] = d.device.held;
    expect([chain.readableBytes, chain.writableBytes]).toEqual([4, 30]);
    const bytes = new Uint8Array(6);
    expect(chain.read(0, bytes)).toBe(4);
    expect([...bytes]).toEqual([1, 2, 3, 4, 0, 0]);
    expect(chain.write(8, new Uint8Array([7, 8, 9]))).toBe(3);
    expect([...d.bytes(at[2] + 8, 2), ...d.bytes(at[3], 2)]).toEqual([7, 8, 9, 0]);
    expect(chain.write(29, new Uint8Array([1, 2]))).toBe(1);
    expect(d.used()).toEqual([]);
    d.device.giveBack(11);
    expect(d.used()).toEqual([{ head, length: 11 }]);
    expect(d.interrupt).toBe(true);
    expect(d.isr).toBe(1);
    expect(d.interrupt).toBe(false);
  });

  test("are the same whichever way the driver cuts them: § 2.7.4.1", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 40 }),
        fc.array(fc.nat(40), { maxLength: 8 }),
        fc.boolean(),
        (bytes, cuts, indirect) => {
          const d = driver([INDIRECT_DESC]);
          const ends = [...new Set([...cuts.map((cut) => cut % bytes.length), bytes.length])];
          ends.sort((a, b) => a - b);
          const parts = ends.map((end, i) => bytes.slice(i === 0 ? 0 : ends[i - 1], end));
          d.add([...parts, 3], { indirect });
          d.notify();
          const into = new Uint8Array(bytes.length);
          expect(d.device.held[0].read(0, into)).toBe(bytes.length);
          expect(into).toEqual(bytes);
        },
      ),
    );
  });

  test("of no length are segments that nobody sees", () => {
    const d = driver();
    d.add([new Uint8Array(), new Uint8Array([5]), 0, 4]);
    d.notify();
    const [chain] = d.device.held;
    expect([chain.count, chain.readableBytes, chain.writableBytes]).toEqual([2, 1, 4]);
  });

  test("may have direct descriptors before an indirect one: § 2.7.5.3.2", () => {
    const d = driver([INDIRECT_DESC]);
    const table = d.allocate(32);
    d.putDescriptor(table, 0x100000, 8, Flags.NEXT, 1);
    d.putDescriptor(table + 16, 0x100010, 4, Flags.WRITE, 0);
    d.putDescriptor(d.descriptorAddress(0, 0), 0x100020, 2, Flags.NEXT, 1);
    // The device ignores WRITE of a descriptor that refers to a table.
    d.putDescriptor(d.descriptorAddress(0, 1), table, 32, Flags.INDIRECT | Flags.WRITE, 0);
    d.offer(0);
    d.notify();
    expect(d.broken).toEqual([]);
    expect(d.device.held[0].address.slice(0, 3)).toEqual([0x100020, 0x100000, 0x100010]);
  });

  test("wrap around the ring, and their counters around 65536", () => {
    const d = driver([], [4]);
    for (let i = 0; i < 70_000; i++) {
      const { head } = d.add([new Uint8Array(2), 2]);
      d.notify();
      d.device.giveBack(i & 0xff);
      expect(d.used()).toEqual([{ head, length: i & 0xff }]);
    }
  });
});

test("chains that a device holds are as many as its descriptors: § 2.7.13", () => {
  const d = driver([], [4]);
  for (let i = 0; i < 4; i++) {
    d.add([2]);
    d.notify();
  }
  expect(d.device.held).toHaveLength(4);
  // The first is out, and is made available once more.
  d.setAvailable(5);
  d.notify();
  expect(d.device.held).toHaveLength(4);
  expect(d.broken[0]).toMatch(/5 chains of 4 descriptors are available or out/);
});

describe("a driver that does wrong breaks its queue, and is told", () => {
  const wrong = (
    what: string,
    features: number[],
    act: (d: Driver<Holder>) => void,
    why: RegExp,
  ): void => {
    test(what, () => {
      const d = driver(features);
      act(d);
      d.notify();
      expect(d.device.held).toEqual([]);
      expect(d.broken).toHaveLength(1);
      expect(d.broken[0]).toMatch(why);
      // § 2.1.2: NEEDS_RESET, and a configuration interrupt.
      expect(d.needsReset).toBe(true);
      expect(d.isr & 2).toBe(2);
      // Nothing more is taken before a reset, and after one all is well.
      d.add([4]);
      d.notify();
      expect(d.device.held).toEqual([]);
      expect(d.used()).toEqual([]);
      d.start(features);
      d.add([new Uint8Array([1]), 4]);
      d.notify();
      expect(d.device.held).toHaveLength(1);
      d.device.giveBack();
      expect(d.used()).toHaveLength(1);
    });
  };
  const put = (
    d: Driver<Holder>,
    index: number,
    address: number,
    length: number,
    flags = 0,
    next = 0,
  ) => d.putDescriptor(d.descriptorAddress(0, index), address, length, flags, next);
  const { NEXT, WRITE, INDIRECT } = Flags;

  wrong(
    "an available index that jumps by more than the queue's size: § 2.7.6.1",
    [],
    (d) => d.setAvailable(65),
    /jumped by 65/,
  );
  wrong("... or goes back", [], (d) => d.setAvailable(0xffff), /jumped by 65535/);
  wrong("a head that isn't there: § 2.7.6", [], (d) => d.offer(64), /descriptor 64 of 64/);
  wrong(
    "a next descriptor that isn't there: § 2.7.5",
    [],
    (d) => {
      put(d, 0, 0x100000, 8, NEXT, 64);
      d.offer(0);
    },
    /descriptor 64 of 64/,
  );
  wrong(
    "a chain in a circle: § 2.7.5.2",
    [],
    (d) => {
      put(d, 0, 0x100000, 8, NEXT, 1);
      put(d, 1, 0x100000, 8, NEXT, 0);
      d.offer(0);
    },
    /more descriptors than the queue/,
  );
  wrong(
    "a descriptor that is its own next",
    [],
    (d) => {
      put(d, 0, 0x100000, 8, NEXT, 0);
      d.offer(0);
    },
    /more descriptors than the queue/,
  );
  wrong(
    "a segment outside RAM: § 2.7.5.1",
    [],
    (d) => {
      put(d, 0, 4 * 2 ** 20 - 4, 8);
      d.offer(0);
    },
    /a segment lies at 0x3ffffc, 8 bytes/,
  );
  wrong(
    "a segment whose end wraps around 2^64",
    [],
    (d) => {
      const at = d.descriptorAddress(0, 0);
      put(d, 0, 0, 0x2000);
      d.memory.write32(at, 0xfffff000);
      d.memory.write32(at + 4, 0xffffffff);
      d.offer(0);
    },
    /a segment lies at 0x/,
  );
  wrong(
    "a readable segment behind a writable one: § 2.7.4.2",
    [],
    (d) => {
      put(d, 0, 0x100000, 8, WRITE | NEXT, 1);
      put(d, 1, 0x100000, 8);
      d.offer(0);
    },
    /device-readable segment follows/,
  );
  wrong(
    "an indirect table that was not negotiated: § 2.7.5.3.1",
    [],
    (d) => {
      put(d, 0, 0x100000, 16, INDIRECT);
      d.offer(0);
    },
    /not negotiated/,
  );
  wrong(
    "an indirect descriptor with a next one: § 2.7.5.3.1",
    [INDIRECT_DESC],
    (d) => {
      put(d, 0, 0x100000, 16, INDIRECT | NEXT, 1);
      d.offer(0);
    },
    /has a next one/,
  );
  for (const length of [0, 8, 15, 17]) {
    wrong(
      `an indirect table of ${length} bytes: § 2.7.5.3`,
      [INDIRECT_DESC],
      (d) => {
        put(d, 0, 0x100000, length, INDIRECT);
        d.offer(0);
      },
      new RegExp(`table has ${length} bytes`),
    );
  }
  wrong(
    "an indirect table outside RAM",
    [INDIRECT_DESC],
    (d) => {
      put(d, 0, 4 * 2 ** 20 - 16, 32, INDIRECT);
      d.offer(0);
    },
    /table lies at/,
  );
  wrong(
    "an indirect table in an indirect table: § 2.7.5.3.1",
    [INDIRECT_DESC],
    (d) => {
      d.putDescriptor(0x100000, 0x100000, 16, INDIRECT, 0);
      put(d, 0, 0x100000, 16, INDIRECT);
      d.offer(0);
    },
    /refers to another/,
  );
  wrong(
    "a next index beyond an indirect table",
    [INDIRECT_DESC],
    (d) => {
      d.putDescriptor(0x100000, 0x100100, 16, NEXT, 1);
      put(d, 0, 0x100000, 16, INDIRECT);
      d.offer(0);
    },
    /descriptor 1 of 1/,
  );
  wrong(
    "an indirect table with more entries in use than the queue has: § 2.7.5.3.1",
    [INDIRECT_DESC],
    (d) => {
      for (let i = 0; i < 65; i++) {
        d.putDescriptor(0x100000 + 16 * i, 0x180000, 1, i < 64 ? NEXT : 0, i + 1);
      }
      put(d, 0, 0x100000, 16 * 65, INDIRECT);
      d.offer(0);
    },
    /more descriptors than the queue/,
  );

  test("a chain of more than 4 GiB: § 2.7.5.2", () => {
    // RAM of that size isn't needed: the check comes before any access.
    const memory = GuestMemory.standalone(4 * 2 ** 20);
    const locate = memory.locate.bind(memory);
    memory.locate = (address, length) => (length > 2 ** 30 ? 0 : locate(address, length));
    const d = driver([], undefined, memory);
    put(d, 0, 0x100000, 0xffffffff, NEXT, 1);
    put(d, 1, 0x100000, 0xffffffff);
    d.offer(0);
    d.notify();
    expect(d.broken[0]).toMatch(/longer than 4 GiB/);
  });
});

describe("where the parts of a queue lie", () => {
  const cases: [string, { desc?: number; avail?: number; used?: number }][] = [
    ["a descriptor table that isn't aligned: § 2.7", { desc: 0x10008 }],
    ["an available ring that isn't aligned", { avail: 0x15001 }],
    ["a used ring that isn't aligned", { used: 0x18002 }],
    ["a descriptor table outside RAM", { desc: 2 ** 40 }],
    ["a descriptor table that ends outside RAM", { desc: 4 * 2 ** 20 - 16 }],
    ["an available ring outside RAM", { avail: 4 * 2 ** 20 - 2 }],
    ["a used ring outside RAM", { used: 4 * 2 ** 20 - 4 }],
  ];
  test.each(cases)("%s", (_, parts) => {
    const d = driver();
    d.negotiate([32]);
    d.setUpQueue(0, 64, parts);
    d.status = d.status | 4;
    expect(d.broken).toHaveLength(1);
    expect(d.needsReset).toBe(true);
    d.notify();
    expect(d.device.held).toEqual([]);
  });

  test("sizes are powers of two, and no larger than offered: § 2.7", () => {
    const d = driver();
    d.negotiate([32]);
    for (const size of [0, 3, 63, 65, 128, 0x8000]) {
      d.write(0x16, 2, 0);
      d.write(0x18, 2, size);
      expect(d.read(0x18, 2)).toBe(64);
    }
    d.write(0x18, 2, 32);
    expect(d.read(0x18, 2)).toBe(32);
  });
});

describe("notifications", () => {
  test("interrupts are held back by the driver's flag: § 2.7.7.2", () => {
    const d = driver();
    d.setAvailableFlags(1);
    d.add([4]);
    d.notify();
    d.device.giveBack();
    expect(d.interrupt).toBe(false);
    d.setAvailableFlags(0);
    d.add([4]);
    d.notify();
    d.device.giveBack();
    expect(d.interrupt).toBe(true);
  });

  test("with EVENT_IDX an interrupt comes when its index is passed: § 2.7.7.2", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 8 }), fc.nat(20)), {
          minLength: 1,
          maxLength: 30,
        }),
        (steps) => {
          const d = driver([EVENT_IDX]);
          // The flag means nothing then.
          d.setAvailableFlags(1);
          let used = 0;
          for (const [count, ahead] of steps) {
            const event = (used + ahead) & 0xffff;
            d.setUsedEvent(event);
            for (let i = 0; i < count; i++) d.add([4]);
            d.notify();
            d.device.giveBack();
            d.used();
            used += count;
            expect(d.interrupt).toBe(ahead < count);
            expect(d.isr & 1).toBe(ahead < count ? 1 : 0);
          }
        },
      ),
    );
  });
});

/** Rings at random, most of them nearly right. */
const descriptor = fc.record({
  address: fc.oneof(
    { weight: 60, arbitrary: fc.integer({ min: 0x100000, max: 0x3fff00 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0x3ffff0, max: 0x400010 }) },
    { weight: 1, arbitrary: fc.constantFrom(0, 2 ** 32 - 1, 2 ** 52, 2 ** 53 - 1) },
  ),
  length: fc.oneof(
    { weight: 40, arbitrary: fc.nat(0x100) },
    { weight: 8, arbitrary: fc.constantFrom(0, 16, 32, 48) },
    { weight: 1, arbitrary: fc.constantFrom(0xffffffff, 0x80000000, 0x400000) },
  ),
  flags: fc.oneof(
    { weight: 30, arbitrary: fc.constantFrom(0, 2) },
    { weight: 15, arbitrary: fc.constantFrom(1, 3) },
    { weight: 6, arbitrary: fc.constantFrom(4, 6) },
    { weight: 1, arbitrary: fc.nat(0xffff) },
  ),
  next: fc.oneof({ weight: 60, arbitrary: fc.nat(15) }, { weight: 1, arbitrary: fc.nat(0xffff) }),
});

test("100,000 chains, whatever they are: each is given back once, or its queue broken; nothing else is written", () => {
  let chains = 0;
  let back = 0;
  let broken = 0;
  const memory = GuestMemory.standalone(4 * 2 ** 20);
  let wrote: [number, number][] = [];
  memory.observeWrites((address, length) => void wrote.push([address, length]));
  const d = new Driver((transport) => new Holder(transport), memory);
  const property = fc.property(
    fc.array(descriptor, { minLength: 16, maxLength: 16 }),
    fc.array(
      fc.oneof({ weight: 99, arbitrary: fc.nat(15) }, { weight: 1, arbitrary: fc.nat(99) }),
      {
        minLength: 2,
        maxLength: 9,
      },
    ),
    fc.boolean(),
    (table, heads, event) => {
      d.broken.length = 0;
      d.start(event ? [INDIRECT_DESC, EVENT_IDX] : [INDIRECT_DESC], [16]);
      // Tables of tables come from what lies where buffers are.
      table.forEach(({ address, length, flags, next }, i) => {
        d.putDescriptor(d.descriptorAddress(0, i), address, length, flags, next);
        d.putDescriptor(0x100000 + 16 * i, address, length, flags, next);
      });
      for (const head of heads) d.offer(head);
      wrote = [];
      d.notify();
      // Taking chains writes nothing.
      expect(wrote).toEqual([]);
      const taken = d.device.held.map(({ head }) => head);
      for (const chain of d.device.held) {
        expect(chain.count).toBeLessThanOrEqual(16);
        for (let i = 0; i < chain.count; i++) {
          expect(memory.contains(chain.address[i], chain.length[i])).toBe(true);
        }
      }
      chains += heads.length;
      if (d.broken.length > 0) {
        broken++;
        expect(d.needsReset).toBe(true);
        d.device.giveBack();
        expect(d.used()).toEqual([]);
        return;
      }
      expect(taken).toEqual(heads);
      d.device.giveBack(1);
      back += taken.length;
      expect(d.used().map(({ head }) => head)).toEqual(taken);
    },
  );
  fc.assert(property, { numRuns: 20_000, seed: 4 });
  expect(chains).toBeGreaterThan(100_000);
  // Both must have happened often, or this tests nothing.
  expect(back).toBeGreaterThan(10_000);
  expect(broken).toBeGreaterThan(1000);
  console.log(`${chains} chains, ${back} given back, ${broken} queues broken`);
}, 120_000);
