/** virtio-blk against virtio 1.2, § 5.2. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Blk, type BlockBackend, BlkRegisters } from "./blk.ts";
import type { Chain } from "./chain.ts";
import type { VirtioTransport } from "./device.ts";
import { Driver, EVENT_IDX, INDIRECT_DESC, type Part } from "./testing.ts";

const FLUSH = 9;
const DISCARD = 13;
const WRITE_ZEROES = 14;
const CONFIG_WCE = 11;
const [IN, OUT, FLUSH_REQUEST, GET_ID, DISCARD_REQUEST, ZEROES_REQUEST] = [0, 1, 4, 8, 11, 13];
const [OK, IOERR, UNSUPP] = [0, 1, 2];

/** A disk in memory, whose requests are done when the test says so. */
class MemoryBackend implements BlockBackend {
  settle(): void {
    this.poll();
  }
  readonly bytes: Uint8Array;
  readonly readOnly: boolean;
  done: (tag: number, ok: boolean) => void = () => {};
  readonly log: string[] = [];
  delayed = false;
  failing = false;
  abandoned = 0;
  #waiting: (() => void)[] = [];

  constructor(size: number, readOnly = false) {
    this.bytes = new Uint8Array(size);
    this.readOnly = readOnly;
  }

  get size(): number {
    return this.bytes.length;
  }

  #do(what: string, tag: number, work: () => void): void {
    this.log.push(what);
    const run = () => {
      if (!this.failing) work();
      this.done(tag, !this.failing);
    };
    if (this.delayed) this.#waiting.push(run);
    else run();
  }

  read(tag: number, chain: Chain, offset: number, length: number): void {
    this.#do(`read ${offset} ${length}`, tag, () => {
      chain.write(0, this.bytes.subarray(offset, offset + length));
    });
  }

  write(tag: number, chain: Chain, at: number, offset: number, length: number): void {
    this.#do(`write ${offset} ${length}`, tag, () => {
      chain.read(at, this.bytes.subarray(offset, offset + length));
    });
  }

  flush(tag: number): void {
    this.#do("flush", tag, () => {});
  }

  discard(tag: number, offset: number, length: number): void {
    this.#do(`discard ${offset} ${length}`, tag, () => {});
  }

  zero(tag: number, offset: number, length: number, unmap: boolean): void {
    this.#do(`zero ${offset} ${length} ${unmap}`, tag, () => {
      this.bytes.fill(0, offset, offset + length);
    });
  }

  poll(): void {}

  abandon(): void {
    this.abandoned++;
    this.#waiting = [];
  }

  /** In the other order: nothing says that requests are done in theirs. */
  finish(): void {
    for (const run of this.#waiting.splice(0).toReversed()) run();
  }
}

function disk({
  size = 64 * 512,
  readOnly = false,
  features = [FLUSH, DISCARD, WRITE_ZEROES, INDIRECT_DESC],
} = {}) {
  const backend = new MemoryBackend(size, readOnly);
  const make = (transport: VirtioTransport) =>
    new Blk(BlkRegisters.standalone(), transport, backend, "serial");
  const d = new Driver(make).start(features.filter((bit) => !readOnly || bit < 10 || bit > 20));
  return { d, backend };
}

function header(type: number, sector: number): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(8, sector % 2 ** 32, true);
  view.setUint32(12, Math.floor(sector / 2 ** 32), true);
  return bytes;
}

function range(sector: number, count: number, flags = 0): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, sector % 2 ** 32, true);
  view.setUint32(4, Math.floor(sector / 2 ** 32), true);
  view.setUint32(8, count, true);
  view.setUint32(12, flags, true);
  return bytes;
}

/** One request to its end; its status, and where its parts are. */
function request(d: Driver<Blk>, parts: Part[], options = {}) {
  const { head, at } = d.add([...parts, 1], options);
  d.memory.write8(at[at.length - 1], 0xee);
  d.notify();
  const used = d.used();
  expect(used.map((element) => element.head)).toEqual([head]);
  return { status: d.memory.read8(at[at.length - 1]), at, length: used[0].length };
}

const sectors = (count: number, byte: number) => new Uint8Array(512 * count).fill(byte);

describe("configuration", () => {
  test("has capacity, segments, and what can be cleared: § 5.2.4", () => {
    const { d } = disk({ size: 3 * 512 + 100 });
    expect(d.config(0x00, 4)).toBe(3);
    expect(d.config(0x04, 4)).toBe(0);
    expect(d.config(0x0c, 4)).toBe(126);
    expect(d.config(0x14, 4)).toBe(512);
    expect([d.config(0x24, 4), d.config(0x28, 4), d.config(0x34, 4)]).toEqual([2 ** 21, 1, 1]);
    expect(d.config(0x38, 1)).toBe(1);
    expect(d.broken).toEqual([]);
  });

  test("a read-only disk says so, and offers nothing that writes", () => {
    const { d } = disk({ readOnly: true });
    const offered = [5, CONFIG_WCE, DISCARD, WRITE_ZEROES].map((bit) => d.offers(bit));
    expect(offered).toEqual([true, false, false, false]);
  });

  test("the write cache is the driver's to switch, if it said it would: § 5.2.5.1", () => {
    const { d } = disk({ features: [FLUSH] });
    d.write(0x320, 1, 0);
    expect(d.config(0x20, 1)).toBe(1);
    const other = disk({ features: [FLUSH, CONFIG_WCE] });
    other.d.write(0x320, 1, 0);
    expect(other.d.config(0x20, 1)).toBe(0);
    request(other.d, [header(OUT, 0), sectors(1, 1)]);
    expect(other.backend.log).toEqual(["write 0 512", "flush"]);
  });
});

describe("requests", () => {
  test("write and read, in whatever segments: § 5.2.6", () => {
    const { d, backend } = disk();
    const { status, length } = request(d, [header(OUT, 5), sectors(1, 7), sectors(2, 8)]);
    expect([status, length]).toEqual([OK, 1]);
    expect(backend.bytes[5 * 512]).toBe(7);
    expect(backend.bytes[8 * 512 - 1]).toBe(8);
    const whole = header(IN, 5);
    const read = request(d, [whole.slice(0, 3), whole.slice(3), 100, 412 + 1024], {
      indirect: true,
    });
    expect([read.status, read.length]).toEqual([OK, 3 * 512 + 1]);
    expect(d.bytes(read.at[2], 100)).toEqual(backend.bytes.slice(2560, 2660));
    expect(d.bytes(read.at[3], 1436)).toEqual(backend.bytes.slice(2660, 4096));
  });

  test("flush, tell the serial number, discard, write zeroes", () => {
    const { d, backend } = disk();
    backend.bytes.fill(9);
    expect(request(d, [header(FLUSH_REQUEST, 0)]).status).toBe(OK);
    const id = request(d, [header(GET_ID, 0), 20]);
    expect([id.status, id.length]).toEqual([OK, 21]);
    expect(new TextDecoder().decode(d.bytes(id.at[1], 20))).toBe("serial".padEnd(20, "\0"));
    expect(request(d, [header(GET_ID, 0), 4]).status).toBe(OK);
    expect(request(d, [header(DISCARD_REQUEST, 0), range(8, 8)]).status).toBe(OK);
    expect(request(d, [header(ZEROES_REQUEST, 0), range(16, 1, 1)]).status).toBe(OK);
    expect(request(d, [header(ZEROES_REQUEST, 0), range(17, 1)]).status).toBe(OK);
    expect(backend.log).toEqual([
      "flush",
      "discard 4096 4096",
      "zero 8192 512 true",
      "zero 8704 512 false",
    ]);
    expect(backend.bytes.indexOf(0)).toBe(16 * 512);
  });

  test("without FLUSH a write that is done is durable: § 5.2.6.2", () => {
    const { d, backend } = disk({ features: [] });
    request(d, [header(OUT, 0), sectors(1, 1)]);
    expect(backend.log).toEqual(["write 0 512", "flush"]);
  });

  test("may be many at once, and be done in any order", () => {
    const { d, backend } = disk();
    backend.delayed = true;
    const heads = Array.from(
      { length: 40 },
      (_, i) => d.add([header(OUT, i), sectors(1, i), 1]).head,
    );
    d.notify();
    expect(d.used()).toEqual([]);
    expect(d.interrupt).toBe(false);
    backend.finish();
    d.transport.poll();
    expect(d.interrupt).toBe(true);
    expect(d.used().map(({ head }) => head)).toEqual(heads.toReversed());
  });

  test("that are out at a reset are never answered: § 2.4", () => {
    const { d, backend } = disk();
    backend.delayed = true;
    d.add([header(IN, 0), 512, 1]);
    d.notify();
    d.status = 0;
    expect(backend.abandoned).toBeGreaterThan(0);
    backend.finish();
    d.start([FLUSH]);
    expect(d.used()).toEqual([]);
    backend.delayed = false;
    expect(request(d, [header(IN, 0), 512]).status).toBe(OK);
  });

  test("with EVENT_IDX the driver's next chain is waited for", () => {
    const { d } = disk({ features: [EVENT_IDX, FLUSH] });
    for (let i = 1; i <= 3; i++) {
      request(d, [header(FLUSH_REQUEST, 0)]);
      expect(d.availableEvent()).toBe(i);
    }
  });
});

describe("what can't be done", () => {
  const cases: [string, Part[], number][] = [
    ["an unknown type", [header(99, 0)], UNSUPP],
    ["a type of SCSI times", [header(2, 0), 512], UNSUPP],
    ["a sector beyond the end", [header(IN, 64), 512], IOERR],
    ["a request that reaches beyond the end", [header(IN, 63), 1024], IOERR],
    ["a sector that makes an offset beyond 2^64", [header(IN, 2 ** 63), 512], IOERR],
    ["a write beyond the end", [header(OUT, 64), sectors(1, 1)], IOERR],
    ["a read of half a sector: § 5.2.6.1", [header(IN, 0), 256], IOERR],
    ["a write of a sector and a byte", [header(OUT, 0), new Uint8Array(513)], IOERR],
    ["a discard beyond the end", [header(DISCARD_REQUEST, 0), range(60, 8)], IOERR],
    ["a discard of too much", [header(DISCARD_REQUEST, 0), range(0, 2 ** 31)], IOERR],
    ["a discard with unmap: § 5.2.6.2", [header(DISCARD_REQUEST, 0), range(0, 1, 1)], UNSUPP],
    ["zeroes with an unknown flag", [header(ZEROES_REQUEST, 0), range(0, 1, 2)], UNSUPP],
    ["a discard without a range", [header(DISCARD_REQUEST, 0)], IOERR],
    ["a discard with half a range", [header(DISCARD_REQUEST, 0), new Uint8Array(8)], IOERR],
    [
      "more ranges than were offered",
      [header(DISCARD_REQUEST, 0), range(0, 1), range(2, 1)],
      IOERR,
    ],
  ];
  test.each(cases)("%s", (_, parts, expected) => {
    const { d, backend } = disk();
    backend.bytes.fill(5);
    expect(request(d, parts).status).toBe(expected);
    expect(backend.log).toEqual([]);
    expect(backend.bytes.every((byte) => byte === 5)).toBe(true);
    // The device goes on.
    expect(request(d, [header(IN, 0), 512]).status).toBe(OK);
  });

  test("what was not negotiated: § 5.2.6.2", () => {
    const { d } = disk({ features: [] });
    expect(request(d, [header(DISCARD_REQUEST, 0), range(0, 1)]).status).toBe(UNSUPP);
    expect(request(d, [header(ZEROES_REQUEST, 0), range(0, 1)]).status).toBe(UNSUPP);
  });

  test("any write to a read-only disk: § 5.2.6.2", () => {
    const { d, backend } = disk({ readOnly: true, features: [FLUSH] });
    expect(request(d, [header(OUT, 0), sectors(1, 1)]).status).toBe(IOERR);
    expect(request(d, [header(ZEROES_REQUEST, 0), range(0, 1)]).status).toBe(UNSUPP);
    expect(request(d, [header(FLUSH_REQUEST, 0)]).status).toBe(OK);
    expect(backend.log).toEqual([]);
  });

  test("what the host fails to do", () => {
    const { d, backend } = disk();
    backend.failing = true;
    for (const parts of [
      [header(IN, 0), 512],
      [header(OUT, 0), sectors(1, 1)],
      [header(FLUSH_REQUEST, 0)],
    ]) {
      expect(request(d, parts).status).toBe(IOERR);
    }
  });

  test.each([
    ["a request without a header", [new Uint8Array(15), 513]],
    ["a request without a status byte", [header(IN, 0)]],
    ["an empty request", [0]],
  ] as [string, Part[]][])("%s breaks the queue", (_, parts) => {
    const { d, backend } = disk();
    d.add(parts);
    d.notify();
    expect(d.broken).toHaveLength(1);
    expect(d.needsReset).toBe(true);
    expect(d.used()).toEqual([]);
    expect(backend.log).toEqual([]);
    d.start([FLUSH]);
    expect(request(d, [header(IN, 0), 512]).status).toBe(OK);
  });
});

test("random requests do to the disk what they do to a model", () => {
  const one = fc.record({
    type: fc.constantFrom(IN, IN, OUT, OUT, FLUSH_REQUEST, ZEROES_REQUEST, 77),
    sector: fc.nat(70),
    count: fc.nat(8),
    byte: fc.nat(255),
    indirect: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(one, { minLength: 1, maxLength: 30 }), (steps) => {
      const { d, backend } = disk();
      const model = new Uint8Array(backend.size);
      for (const { type, sector, count, byte, indirect } of steps) {
        const inside = sector + count <= 64;
        const length = 512 * count;
        if (type === OUT) {
          const { status } = request(d, [header(OUT, sector), sectors(count, byte)], { indirect });
          expect(status).toBe(inside ? OK : IOERR);
          if (inside) model.fill(byte, sector * 512, sector * 512 + length);
        } else if (type === IN) {
          const { status, at } = request(d, [header(IN, sector), length], { indirect });
          expect(status).toBe(inside ? OK : IOERR);
          if (inside) {
            expect(d.bytes(at[1], length)).toEqual(
              model.slice(sector * 512, sector * 512 + length),
            );
          }
        } else if (type === ZEROES_REQUEST) {
          const { status } = request(d, [header(type, 0), range(sector, count)], { indirect });
          expect(status).toBe(inside ? OK : IOERR);
          if (inside) model.fill(0, sector * 512, sector * 512 + length);
        } else {
          const { status } = request(d, [header(type, sector)], { indirect });
          expect(status).toBe(type === 77 ? UNSUPP : OK);
        }
      }
      expect(backend.bytes).toEqual(model);
    }),
    { numRuns: 200 },
  );
});
