/** virtio-net against virtio 1.2, § 5.1. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Clock, ClockRegisters, ManualTime } from "../../vmm/clock.ts";
import type { Chain } from "./chain.ts";
import { Net, type NetBackend, type NetOffloads } from "./net.ts";
import { RateLimit, RateLimitRegisters } from "./rate-limit.ts";
import { Driver } from "./testing.ts";

const [CSUM, GUEST_CSUM, MTU, MAC, GUEST_TSO4, HOST_TSO4, HOST_TSO6, MRG, STATUS] = [
  0, 1, 3, 5, 7, 11, 12, 15, 16,
];
const RX = 0;
const TX = 1;
const HEADER = 12;
const OWN = [0xfe, 0xe1, 0xbb, 0xd1, 0, 1];

/** Frames come and go when the test says so. */
class Wire implements NetBackend {
  settle(): void {}
  readonly offloads: boolean;
  started: { accepted: NetOffloads; merge: boolean } | undefined;
  stops = 0;
  sentFrames: Uint8Array[] = [];
  /** Frames are gone at once. */
  atOnce = true;
  /** Frames that it takes before some are gone. */
  room = 256;
  length = 0;
  buffers = 0;
  #offered: Chain[] = [];
  #gone = 0;
  #pending = 0;
  #received: { length: number; buffers: number }[] = [];

  constructor(offloads: boolean) {
    this.offloads = offloads;
  }

  start(accepted: NetOffloads, merge: boolean): void {
    this.started = { accepted, merge };
  }

  stop(): void {
    this.stops++;
    this.#offered = [];
    this.#received = [];
    this.#pending = 0;
    this.#gone = 0;
  }

  get canSend(): boolean {
    return this.#pending < this.room;
  }

  send(header: Uint8Array, chain: Chain, skip: number): boolean {
    const frame = new Uint8Array(header.length + chain.readableBytes - skip);
    frame.set(header);
    chain.read(skip, frame.subarray(header.length));
    this.sentFrames.push(frame);
    if (!this.atOnce) this.#pending++;
    return this.atOnce;
  }

  finish(): void {
    this.#gone += this.#pending;
    this.#pending = 0;
  }

  offer(chain: Chain): void {
    this.#offered.push(chain);
  }

  get offered(): number {
    return this.#offered.length;
  }

  /** A frame with its header comes, into as many buffers as it needs. */
  arrive(frame: Uint8Array): void {
    let buffers = 0;
    for (let done = 0; done < frame.length || buffers === 0; buffers++) {
      const chain = this.#offered.shift();
      if (chain === undefined) throw new Error("no buffer is left");
      done += chain.write(0, frame.subarray(done));
    }
    this.#received.push({ length: frame.length, buffers });
  }

  flush(): void {}

  look(): boolean {
    return true;
  }

  sent(): number {
    const count = this.#gone;
    this.#gone = 0;
    return count;
  }

  receive(): boolean {
    const next = this.#received.shift();
    if (next === undefined) return false;
    this.length = next.length;
    this.buffers = next.buffers;
    return true;
  }

  filled(): void {}
}

function card(
  features: number[] = [],
  { offloads = true, locked = false, mtu = undefined as number | undefined } = {},
) {
  const wire = new Wire(offloads);
  const d = new Driver(
    (transport) => new Net(transport, wire, { mac: Uint8Array.from(OWN), locked, mtu }),
  ).start([MAC, STATUS, ...features]);
  return { d, wire };
}

function frame(source = OWN, length = 60): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes.fill(0xff, 0, 6);
  bytes.set(source, 6);
  bytes[12] = 8;
  return bytes;
}

function header(
  fields: Partial<Record<"flags" | "type" | "length" | "size" | "start" | "offset", number>> = {},
) {
  const bytes = new Uint8Array(HEADER);
  const view = new DataView(bytes.buffer);
  bytes[0] = fields.flags ?? 0;
  bytes[1] = fields.type ?? 0;
  view.setUint16(2, fields.length ?? 0, true);
  view.setUint16(4, fields.size ?? 0, true);
  view.setUint16(6, fields.start ?? 0, true);
  view.setUint16(8, fields.offset ?? 0, true);
  return bytes;
}

const send = (d: Driver<Net>, ...parts: Uint8Array[]) => {
  const { head } = d.add(parts, { queue: TX });
  d.notify(TX);
  return head;
};

describe("configuration", () => {
  test("has the address, the link's state and the MTU: § 5.1.4", () => {
    const { d } = card([MTU], { mtu: 1400 });
    expect(Array.from({ length: 6 }, (_, i) => d.config(i, 1))).toEqual(OWN);
    expect(d.config(6, 2)).toBe(1);
    expect(d.config(10, 2)).toBe(1400);
  });

  test("offloads are offered where the backend can", () => {
    expect([CSUM, GUEST_CSUM, HOST_TSO4, MRG].map((bit) => card().d.offers(bit))).toEqual([
      true,
      true,
      true,
      true,
    ]);
    const { d } = card([], { offloads: false });
    expect([CSUM, GUEST_CSUM, HOST_TSO4, MRG].map((bit) => d.offers(bit))).toEqual([
      false,
      false,
      false,
      true,
    ]);
  });

  test("the backend is told what was accepted: segments need checksums, § 5.1.3.1", () => {
    expect(card([GUEST_CSUM, GUEST_TSO4, MRG]).wire.started).toEqual({
      accepted: { checksum: true, tso4: true, tso6: false },
      merge: true,
    });
    expect(card([GUEST_TSO4]).wire.started?.accepted.tso4).toBe(false);
  });
});

describe("sending", () => {
  test("gives header and frame to the backend, in whatever segments", () => {
    const { d, wire } = card();
    const head = send(
      d,
      header().slice(0, 5),
      header().slice(5),
      frame().slice(0, 20),
      frame().slice(20),
    );
    expect(wire.sentFrames).toEqual([Uint8Array.from([...header(), ...frame()])]);
    expect(d.used(TX)).toEqual([{ head, length: 0 }]);
  });

  test("answers a frame that takes time when it is gone", () => {
    const { d, wire } = card();
    wire.atOnce = false;
    const heads = [1, 2, 3].map(() => send(d, header(), frame()));
    expect(d.used(TX)).toEqual([]);
    wire.finish();
    d.transport.poll();
    expect(d.used(TX).map(({ head }) => head)).toEqual(heads);
    expect(d.isr & 1).toBe(1);
  });

  test("drops what is no frame: § 5.1.6.2", () => {
    const { d, wire } = card();
    send(d, header(), new Uint8Array(13));
    send(d, header(), new Uint8Array(70_000));
    expect(d.used(TX)).toHaveLength(2);
    expect(wire.sentFrames).toEqual([]);
    expect(d.broken).toEqual([]);
  });

  test("of a frame without a header breaks the queue", () => {
    const { d } = card();
    send(d, new Uint8Array(11));
    expect(d.broken).toHaveLength(1);
    expect(d.needsReset).toBe(true);
  });

  test("what was not negotiated in a header means nothing: § 5.1.6.2.1", () => {
    const { d, wire } = card();
    send(d, header({ flags: 1, type: 1, size: 1000, start: 14, offset: 6 }), frame());
    expect(wire.sentFrames[0].slice(0, HEADER)).toEqual(header());
  });

  test("with CSUM and TSO, headers are put in order or their frames dropped", () => {
    const { d, wire } = card([CSUM, HOST_TSO4]);
    const cases: [Uint8Array, Uint8Array | undefined][] = [
      [header({ flags: 1, start: 34, offset: 16 }), header({ flags: 1, start: 34, offset: 16 })],
      [header({ flags: 0xff, start: 34, offset: 16 }), header({ flags: 1, start: 34, offset: 16 })],
      // The checksum's place lies beyond the frame.
      [header({ flags: 1, start: 58, offset: 1 }), undefined],
      [header({ flags: 1, start: 0xffff, offset: 0xffff }), undefined],
      [header({ flags: 0, start: 9, offset: 9 }), header()],
      [
        header({ flags: 1, type: 1, length: 54, size: 1448, start: 34, offset: 16 }),
        header({ flags: 1, type: 1, length: 54, size: 1448, start: 34, offset: 16 }),
      ],
      // Segments of nothing, without a checksum, of a kind that wasn't negotiated, of none at all.
      [header({ flags: 1, type: 1, size: 0, start: 34, offset: 16 }), undefined],
      [header({ flags: 0, type: 1, size: 1448 }), undefined],
      [header({ flags: 1, type: 4, size: 1448, start: 34, offset: 16 }), undefined],
      [header({ flags: 1, type: 3, size: 1448, start: 34, offset: 16 }), undefined],
    ];
    for (const [given, expected] of cases) {
      wire.sentFrames = [];
      send(d, given, frame());
      expect(wire.sentFrames.map((sent) => new Uint8Array(sent.slice(0, HEADER)))).toEqual(
        expected === undefined ? [] : [new Uint8Array(expected)],
      );
    }
    expect(d.used(TX)).toHaveLength(cases.length);
    expect(HOST_TSO6).toBe(12);
  });

  test("from another address is dropped when the address is locked", () => {
    const { d, wire } = card([], { locked: true });
    send(d, header(), frame([2, 2, 2, 2, 2, 2]));
    send(d, header(), frame());
    // The address may be anywhere in the segments.
    send(d, header(), frame().slice(0, 9), frame().slice(9));
    expect(wire.sentFrames).toHaveLength(2);
    expect(wire.sentFrames[1]).toEqual(Uint8Array.from([...header(), ...frame()]));
  });
});

describe("receiving", () => {
  test("fills buffers in order; num_buffers is 1 without MRG_RXBUF, too: § 5.1.6.4.1", () => {
    const { d, wire } = card();
    const first = d.add([1526], { queue: RX });
    const second = d.add([12, 1514], { queue: RX });
    d.notify(RX);
    expect(wire.offered).toBe(2);
    wire.arrive(Uint8Array.from([...header(), ...frame()]));
    wire.arrive(Uint8Array.from([...header(), ...frame()]));
    d.transport.poll();
    expect(d.used(RX)).toEqual([
      { head: first.head, length: 72 },
      { head: second.head, length: 72 },
    ]);
    expect([...d.bytes(first.at[0] + 10, 2)]).toEqual([1, 0]);
    expect([...d.bytes(second.at[0] + 10, 2)]).toEqual([1, 0]);
    expect(d.bytes(second.at[1], 60)).toEqual(frame());
    expect(d.isr & 1).toBe(1);
  });

  test("with MRG_RXBUF a frame takes as many buffers as it needs, all at once", () => {
    const { d, wire } = card([MRG]);
    const buffers = [1, 2, 3, 4].map(() => d.add([100], { queue: RX }));
    d.notify(RX);
    wire.arrive(Uint8Array.from([...header(), ...frame(OWN, 200)]));
    d.transport.poll();
    expect(d.used(RX)).toEqual([
      { head: buffers[0].head, length: 100 },
      { head: buffers[1].head, length: 100 },
      { head: buffers[2].head, length: 12 },
    ]);
    expect([...d.bytes(buffers[0].at[0] + 10, 2)]).toEqual([3, 0]);
  });

  test("buffers that were there before DRIVER_OK are used", () => {
    const { d, wire } = card();
    d.negotiate([MAC, 32]);
    d.setUpQueues();
    d.add([1526], { queue: RX });
    d.status = d.status | 4;
    expect(wire.offered).toBe(1);
  });

  test("a buffer without room for a header breaks the queue", () => {
    const { d } = card();
    d.add([11], { queue: RX });
    d.notify(RX);
    expect(d.broken).toHaveLength(1);
  });

  test("a reset takes everything back: § 2.4", () => {
    const { d, wire } = card();
    d.add([1526], { queue: RX });
    d.notify(RX);
    wire.atOnce = false;
    send(d, header(), frame());
    d.status = 0;
    expect(wire.stops).toBe(1);
    d.start([MAC]);
    wire.finish();
    d.transport.poll();
    expect([...d.used(RX), ...d.used(TX)]).toEqual([]);
  });
});

test("a used ring that lies on the available ring ends in no endless loop", () => {
  const { d } = card();
  d.negotiate([MAC, 32]);
  d.setUpQueue(RX);
  const avail = 0x10000 + 0x10000 + 0x5000;
  d.setUpQueue(TX, 256, { used: avail });
  d.status = d.status | 4;
  d.add([header(), frame()], { queue: TX });
  for (let i = 0; i < 1000; i++) {
    d.notify(TX);
    d.transport.poll();
  }
  d.start([MAC]);
  expect(d.needsReset).toBe(false);
});

function limitedCard() {
  const wire = new Wire(true);
  const clock = new Clock(ClockRegisters.standalone(), new ManualTime());
  const limit = () => new RateLimit(RateLimitRegisters.standalone(), clock, {}, () => {});
  const d = new Driver((transport) => {
    const net = new Net(transport, wire, { mac: Uint8Array.from(OWN), locked: false });
    net.limits = { send: limit(), receive: limit() };
    return net;
  }).start([MAC, STATUS, MRG]);
  return { d, wire };
}

test("with a limit, frames for which the host had no room go once it has", () => {
  const { d, wire } = limitedCard();
  wire.atOnce = false;
  wire.room = 2;
  for (let i = 0; i < 5; i++) d.add([header(), frame()], { queue: TX });
  d.notify(TX);
  for (const sent of [2, 4, 5]) {
    expect(wire.sentFrames.length).toBe(sent);
    wire.finish();
    d.transport.poll();
  }
  expect(d.used(TX)).toHaveLength(5);
});

test("with a limit few buffers wait, but enough for a long frame in Linux's smallest", () => {
  const { d, wire } = limitedCard();
  for (let i = 0; i < 100; i++) d.add([1536], { queue: RX });
  d.notify(RX);
  expect(wire.offered).toBeGreaterThanOrEqual(Math.ceil((12 + 18 + 65_535) / 1536));
  expect(wire.offered).toBeLessThan(64);
});

test("whatever is sent and arrives, each head comes back once", () => {
  const step = fc.oneof(
    fc.record({
      kind: fc.constant("send" as const),
      bytes: fc.uint8Array({ minLength: 12, maxLength: 90 }),
    }),
    fc.record({ kind: fc.constant("offer" as const), length: fc.integer({ min: 12, max: 200 }) }),
    fc.record({ kind: fc.constant("arrive" as const), length: fc.integer({ min: 12, max: 200 }) }),
    fc.record({ kind: fc.constant("finish" as const) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.boolean(), (steps, atOnce) => {
      const { d, wire } = card([MRG, CSUM, HOST_TSO4]);
      wire.atOnce = atOnce;
      const added: number[][] = [[], []];
      const back: number[][] = [[], []];
      for (const one of steps) {
        if (one.kind === "send") added[TX].push(send(d, one.bytes));
        else if (one.kind === "offer") {
          added[RX].push(d.add([one.length], { queue: RX }).head);
          d.notify(RX);
        } else if (one.kind === "finish") wire.finish();
        else if (wire.offered > 16) wire.arrive(new Uint8Array(one.length));
        d.transport.poll();
        for (const queue of [RX, TX]) back[queue].push(...d.used(queue).map(({ head }) => head));
      }
      wire.finish();
      d.transport.poll();
      back[TX].push(...d.used(TX).map(({ head }) => head));
      back[RX].push(...d.used(RX).map(({ head }) => head));
      expect(d.broken).toEqual([]);
      expect(back[TX].toSorted()).toEqual(added[TX].toSorted());
      expect(back[RX]).toEqual(added[RX].slice(0, back[RX].length));
      expect(back[RX].length + wire.offered).toBe(added[RX].length);
    }),
    { numRuns: 300 },
  );
});
