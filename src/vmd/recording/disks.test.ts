/** Disks that were recorded do the same again without what was behind them. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { GuestMemory } from "../../vmm/memory.ts";
import type { BlockBackend } from "../virtio/blk.ts";
import { Chain } from "../virtio/chain.ts";
import type { EventKind, RecordedEvent } from "./events.ts";
import { RecordedDisk } from "./recorded-disk.ts";
import { type DiskEvents, ReplayedDisk } from "./replayed-disk.ts";

const SECTOR = 512;
const SECTORS = 40;
const MEMORY = 2 ** 16;

/**
 * A disk in memory, which fails what it is told to. It says that it is done when it is asked, or at
 * once, as an image does that has nothing there.
 */
class TestDisk implements BlockBackend {
  done: (tag: number, ok: boolean) => void = () => {};
  readonly size = SECTORS * SECTOR;
  readonly readOnly = false;
  readonly bytes = new Uint8Array(this.size);
  fails = false;
  isQuick = false;
  #waiting: (() => void)[] = [];

  constructor(seed: number) {
    this.bytes.forEach((_, i) => {
      this.bytes[i] = (i * 31 + (i >> 9) * seed) & 0xff;
    });
  }

  #later(tag: number, work: () => void): void {
    const { fails } = this;
    this.#waiting.push(() => {
      if (!fails) work();
      this.done(tag, !fails);
    });
    if (this.isQuick) this.settle();
  }

  read(tag: number, chain: Chain, offset: number, length: number, at = 0): void {
    // Of what fails, some has come.
    chain.write(at, this.bytes.subarray(offset, offset + SECTOR));
    this.#later(tag, () => void chain.write(at, this.bytes.subarray(offset, offset + length)));
  }

  write(tag: number, chain: Chain, at: number, offset: number, length: number): void {
    this.#later(tag, () => void chain.read(at, this.bytes.subarray(offset, offset + length)));
  }

  flush(tag: number): void {
    this.#later(tag, () => {});
  }

  discard(tag: number, offset: number, length: number): void {
    this.#later(tag, () => void this.bytes.fill(0xdd, offset, offset + length));
  }

  zero(tag: number, offset: number, length: number): void {
    this.#later(tag, () => void this.bytes.fill(0, offset, offset + length));
  }

  poll(): void {}

  settle(): void {
    for (const one of this.#waiting.splice(0)) one();
  }

  abandon(): void {}
}

interface Step {
  kind: "read" | "write" | "flush" | "discard" | "zero";
  first: number;
  count: number;
  fails: boolean;
  isQuick: boolean;
  address: number;
}

const step = fc
  .record({
    kind: fc.constantFrom(
      "read" as const,
      "write" as const,
      "flush" as const,
      "zero" as const,
      "discard" as const,
    ),
    first: fc.nat(SECTORS - 1),
    count: fc.integer({ min: 1, max: 12 }),
    fails: fc.boolean(),
    isQuick: fc.boolean(),
    address: fc.nat(MEMORY - 16 * SECTOR),
  })
  .map((one): Step => ({ ...one, count: Math.min(one.count, SECTORS - one.first) }));

/** Does the steps on a disk; what the guest sees of it. */
function run(memory: GuestMemory, disk: BlockBackend, steps: Step[], before: (step: Step) => void) {
  const seen: string[] = [];
  disk.done = (tag, ok) => seen.push(`${tag} ${ok}`);
  steps.forEach((one, tag) => {
    before(one);
    const chain = new Chain(memory);
    const length = one.count * SECTOR;
    chain.clear(0);
    // In two segments that don't lie side by side.
    const cut = Math.floor(length / 3);
    chain.add(one.address, cut, one.kind !== "write", 0);
    chain.add(one.address + cut + 100, length - cut, one.kind !== "write", 0);
    const offset = one.first * SECTOR;
    if (one.kind === "read") disk.read(tag, chain, offset, length);
    else if (one.kind === "write") disk.write(tag, chain, 0, offset, length);
    else if (one.kind === "flush") disk.flush(tag);
    else if (one.kind === "zero") disk.zero(tag, offset, length, true);
    else disk.discard(tag, offset, length);
  });
  const all = new Uint8Array(MEMORY);
  memory.read(0, all);
  return { seen, memory: new Bun.CryptoHasher("sha256").update(all).digest("hex") };
}

function guest(): GuestMemory {
  const memory = GuestMemory.standalone(MEMORY);
  memory.write(
    0,
    Uint8Array.from({ length: MEMORY }, (_, i) => (i * 7) & 0xff),
  );
  return memory;
}

test("a guest sees the same of a disk that was recorded", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.nat(255), (steps, seed) => {
      const events: Pick<RecordedEvent, "kind" | "device" | "value" | "data">[] = [];
      const note = (kind: EventKind, device: number, value: number, data: Uint8Array) => {
        events.push({ kind, device, value, data: data.slice() });
      };
      const disk = new TestDisk(seed);
      const memory = guest();
      const then = run(
        memory,
        new RecordedDisk(disk, memory, 3, note),
        steps,
        ({ fails, isQuick }) => {
          disk.fails = fails;
          disk.isQuick = isQuick;
        },
      );
      const source: DiskEvents = {
        take: (device, request) => {
          const [next] = events;
          if (next === undefined || next.device !== device || next.value !== request) return;
          return events.shift() as RecordedEvent;
        },
        diverged: (what) => {
          throw new Error(what);
        },
      };
      // Only what fails does so.
      expect(then.seen).toEqual(steps.map(({ fails }, tag) => `${tag} ${!fails}`));
      const again = guest();
      const replayed = new ReplayedDisk({ size: disk.size, readOnly: false }, 3, source);
      expect(run(again, replayed, steps, () => {})).toEqual(then);
      expect(events).toEqual([]);
    }),
  );
});

test("what was read once, or written, is not recorded again", () => {
  let bytes = 0;
  const disk = new TestDisk(1);
  const memory = guest();
  const read = (first: number, count: number): Step => {
    return { kind: "read", first, count, fails: false, isQuick: false, address: 0 };
  };
  const write: Step = { ...read(20, 4), kind: "write" };
  const recorded = new RecordedDisk(disk, memory, 0, (_, __, ___, data) => {
    bytes += data.length - 8;
  });
  run(memory, recorded, [read(0, 8), read(0, 8), read(4, 8), write, read(19, 6)], () => {});
  // 0 to 7, 8 to 11, 19 and 24.
  expect(bytes).toBe((8 + 4 + 2) * SECTOR);
});

test("a guest that reads what it didn't read then is another one", () => {
  const events: DiskEvents = {
    take: () => undefined,
    diverged: (what) => {
      throw new Error(what);
    },
  };
  const disk = new ReplayedDisk({ size: 8192, readOnly: false }, 1, events);
  const steps: Step[] = [
    { kind: "read", first: 2, count: 2, fails: false, isQuick: false, address: 0 },
  ];
  expect(() => run(guest(), disk, steps, () => {})).toThrow(
    "disk 1: 1024 bytes at 1024 are read, which were not then",
  );
});
