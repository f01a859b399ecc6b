/** The switch, in this process: what goes from which port to which. */
import { afterEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { closeSync } from "node:fs";
import { NativeError, processLibrary, ptr } from "../../vmm/native.ts";
import { LONGEST_PACKET, Offload, offloadMessage, Switch } from "./switch.ts";
import { BROADCAST_MAC, ethernet, mac, tcpPacket } from "./testing.ts";

const SEED = 20261129;
const HEADER = Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
const EAGAIN = -11;

const A = mac("fe:e1:bb:d1:00:0a");
const B = mac("fe:e1:bb:d1:00:0b");
const C = mac("fe:e1:bb:d1:00:0c");

const open: Disposable[] = [];
afterEach(() => {
  for (const one of open.splice(0)) one[Symbol.dispose]();
});

class Port {
  readonly descriptor: number;
  readonly number: number;
  #open = true;

  constructor(sw: Switch, locked?: Uint8Array) {
    const [ours, theirs] = Switch.pair();
    this.descriptor = theirs;
    try {
      this.number = sw.add(ours, locked);
    } catch (error) {
      closeSync(ours);
      closeSync(theirs);
      throw error;
    }
    open.push(this);
  }

  /** @returns what the kernel says to it. */
  send(packet: Uint8Array): number {
    return Number(processLibrary().vmm_send(this.descriptor, ptr(packet), packet.length, null, 0));
  }

  frame(to: Uint8Array, from: Uint8Array, text = "text"): Uint8Array {
    const frame = ethernet(to, from, 0x88b5, new TextEncoder().encode(text));
    const packet = new Uint8Array(Buffer.concat([HEADER, frame]));
    expect(this.send(packet)).toBe(packet.length);
    return packet;
  }

  /** All that came. */
  receive(): Uint8Array[] {
    const packets: Uint8Array[] = [];
    const buffer = new Uint8Array(LONGEST_PACKET + 1);
    for (;;) {
      const { vmm_receive } = processLibrary();
      const length = Number(vmm_receive(this.descriptor, ptr(buffer), buffer.length, null, 0));
      if (length <= 0) return packets;
      packets.push(buffer.slice(0, length));
    }
  }

  [Symbol.dispose](): void {
    if (this.#open) closeSync(this.descriptor);
    this.#open = false;
  }
}

function make(count: number, options: ConstructorParameters<typeof Switch>[0] = {}) {
  const sw = new Switch(options);
  open.push(sw);
  return { sw, ports: Array.from({ length: count }, () => new Port(sw)) };
}

describe("frames", () => {
  test("to everybody, and to whom nobody knows, go to all but where they came from", () => {
    const { sw, ports } = make(3);
    const all = ports[0].frame(BROADCAST_MAC, A);
    const unknown = ports[0].frame(C, A);
    const group = ports[0].frame(mac("33:33:00:00:00:01"), A);
    sw.run(0);
    expect(ports.map((port) => port.receive())).toEqual([
      [],
      [all, unknown, group],
      [all, unknown, group],
    ]);
  });

  test("go where their address was last seen, and only there", () => {
    const { sw, ports } = make(3);
    ports[0].frame(BROADCAST_MAC, A);
    sw.run(0);
    ports.forEach((port) => port.receive());
    const one = ports[1].frame(A, B);
    const two = ports[2].frame(B, C);
    sw.run(0);
    expect(ports.map((port) => port.receive())).toEqual([[one], [two], []]);
    // A has moved.
    ports[2].frame(B, A);
    sw.run(0);
    ports.forEach((port) => port.receive());
    const three = ports[1].frame(A, B);
    sw.run(0);
    expect(ports.map((port) => port.receive())).toEqual([[], [], [three]]);
  });

  test("never come back to where they came from", () => {
    const { sw, ports } = make(2);
    ports[0].frame(BROADCAST_MAC, A);
    ports[0].frame(BROADCAST_MAC, B);
    sw.run(0);
    ports[1].receive();
    ports[0].frame(A, B);
    sw.run(0);
    expect(ports.map((port) => port.receive())).toEqual([[], []]);
  });

  test("keep their order, whatever is between them", () => {
    const { sw, ports } = make(3);
    ports[1].frame(BROADCAST_MAC, B);
    ports[2].frame(BROADCAST_MAC, C);
    sw.run(0);
    ports.forEach((port) => port.receive());
    const sent = Array.from({ length: 100 }, (_, i) =>
      ports[0].frame([B, BROADCAST_MAC, C][i % 3], A, `${i}`),
    );
    sw.run(0);
    expect(ports[1].receive()).toEqual(sent.filter((_, i) => i % 3 !== 2));
    expect(ports[2].receive()).toEqual(sent.filter((_, i) => i % 3 !== 0));
  });

  test("for switches themselves end here", () => {
    const { sw, ports } = make(2);
    for (const last of ["00", "01", "0e"]) ports[0].frame(mac(`01:80:c2:00:00:${last}`), A);
    ports[0].frame(mac("01:80:c2:00:00:10"), A);
    sw.run(0);
    expect(ports[1].receive()).toHaveLength(1);
  });

  test("from an address that nothing can have are refused", () => {
    const { sw, ports } = make(2);
    ports[0].frame(B, BROADCAST_MAC);
    ports[0].frame(B, new Uint8Array(6));
    sw.run(0);
    expect(ports[1].receive()).toEqual([]);
    expect(sw.counts(ports[0].number)).toMatchObject({ received: 0, refused: 2 });
  });
});

describe("what is remembered", () => {
  test("is forgotten after a time", () => {
    const { sw, ports } = make(3, { ageing: 40 });
    ports[0].frame(BROADCAST_MAC, A);
    sw.run(0);
    Bun.sleepSync(60);
    ports[1].frame(A, B);
    sw.run(0);
    expect(ports[2].receive()).toHaveLength(2);
  });

  test("is forgotten with the port", () => {
    const { sw, ports } = make(3);
    ports[0].frame(BROADCAST_MAC, A);
    sw.run(0);
    sw.remove(ports[0].number);
    ports[1].frame(A, B);
    sw.run(0);
    expect(ports[2].receive()).toHaveLength(2);
  });

  test("of one port is little, and no other port's", () => {
    const { sw, ports } = make(3);
    ports[1].frame(BROADCAST_MAC, B);
    sw.run(0);
    // 20,000 made-up addresses.
    for (let i = 0; i < 20_000; i += 50) {
      for (let j = i; j < i + 50; j++) {
        ports[0].frame(B, Uint8Array.of(2, 0, 0, j >> 16, (j >> 8) & 255, j & 255));
      }
      sw.run(0);
      ports.forEach((port) => port.receive());
    }
    const known = ports[2].frame(B, C);
    sw.run(0);
    expect(ports.map((port) => port.receive())).toEqual([[], [known], []]);
    // Its last are remembered, its first aren't.
    const last = ports[2].frame(Uint8Array.of(2, 0, 0, 0, 19_999 >> 8, 19_999 & 255), C);
    sw.run(0);
    expect(ports.map((port) => port.receive())).toEqual([[last], [], []]);
    const first = ports[2].frame(Uint8Array.of(2, 0, 0, 0, 0, 1), C);
    sw.run(0);
    expect(ports.map((port) => port.receive())).toEqual([[first], [first], []]);
  });
});

describe("a locked address", () => {
  test("is the only one of its port, and no other port's", () => {
    const { sw, ports } = make(1);
    const locked = new Port(sw, B);
    ports[0].frame(BROADCAST_MAC, B);
    locked.frame(BROADCAST_MAC, C);
    sw.run(0);
    expect([ports[0].receive(), locked.receive()]).toEqual([[], []]);
    const right = locked.frame(BROADCAST_MAC, B);
    const answer = ports[0].frame(B, A);
    sw.run(0);
    expect([ports[0].receive(), locked.receive()]).toEqual([[right], [answer]]);
    expect(() => new Port(sw, B)).toThrow(NativeError);
    sw.remove(locked.number);
    expect(new Port(sw, B).number).toBe(locked.number);
  });
});

describe("ports", () => {
  test("that are gone are said to be, and can be added again", () => {
    const { sw, ports } = make(2);
    expect(sw.run(0)).toEqual({ control: false, ended: false });
    ports[0][Symbol.dispose]();
    expect(sw.run(1000)).toEqual({ control: false, ended: true });
    expect(sw.ended()).toBe(ports[0].number);
    sw.remove(ports[0].number);
    expect(sw.ended()).toBeUndefined();
    expect(sw.run(0).ended).toBe(false);
    expect(() => sw.remove(ports[0].number)).toThrow("ENOENT");
    expect(new Port(sw).number).toBe(ports[0].number);
  });

  test("that don't read lose packets, and nobody waits", () => {
    const { sw, ports } = make(3);
    const big = new Uint8Array(1400);
    for (let i = 0; i < 3000; i++) {
      const frame = ethernet(BROADCAST_MAC, A, 0x88b5, big);
      if (ports[0].send(new Uint8Array(Buffer.concat([HEADER, frame]))) === EAGAIN) i--;
      if (i % 32 === 0) {
        sw.run(0);
        ports[2].receive();
      }
    }
    sw.run(0);
    const full = sw.counts(ports[1].number);
    expect(full.dropped).toBeGreaterThan(0);
    expect(full.sent + full.dropped).toBe(3000);
    expect(sw.counts(ports[2].number)).toMatchObject({ sent: 3000, dropped: 0 });
  });

  test("are not more than there is room for", () => {
    const { sw, ports } = make(256);
    expect(ports.at(-1)?.number).toBe(255);
    expect(() => new Port(sw)).toThrow("ENOSPC");
  });

  test("get segments as they are where they take them, and cut where they don't", () => {
    const { sw, ports } = make(3);
    ports[1].send(offloadMessage(Offload.CSUM | Offload.TSO4));
    ports[1].frame(BROADCAST_MAC, B);
    ports[2].frame(BROADCAST_MAC, C);
    sw.run(0);
    ports.forEach((port) => port.receive());
    const segments = (to: Uint8Array) => tcpPacket({ to, from: A, payload: 4000, segment: 1460 });
    ports[0].send(segments(B));
    ports[0].send(segments(C));
    sw.run(0);
    expect(ports[1].receive()).toEqual([segments(B)]);
    expect(ports[2].receive().map(({ length }) => length)).toEqual([1526, 1526, 1146]);
    expect(sw.counts(ports[2].number)).toMatchObject({ sentBytes: 18 + 4162 });
    // To all of them, they aren't cut.
    ports[0].send(segments(BROADCAST_MAC));
    sw.run(0);
    expect(ports.map((port) => port.receive().length)).toEqual([0, 1, 0]);
    expect(sw.counts(ports[2].number).dropped).toBe(1);
  });

  test("that take no checksums get them completed", () => {
    const { sw, ports } = make(2);
    ports[0].send(tcpPacket({ to: BROADCAST_MAC, from: A, payload: 100 }));
    sw.run(0);
    const [packet] = ports[1].receive();
    expect([...packet.subarray(0, 12)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
  });
});

test("whatever ports send, nobody gets anything but whole packets of others", () => {
  const { sw, ports } = make(3);
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(2), fc.uint8Array({ minLength: 1, maxLength: 120 })), {
        maxLength: 40,
      }),
      (sent) => {
        for (const [port, packet] of sent) ports[port].send(packet);
        expect(sw.run(0)).toEqual({ control: false, ended: false });
        for (const port of ports) {
          for (const packet of port.receive()) {
            expect(packet.length).toBeGreaterThanOrEqual(26);
            expect(packet[0] & ~1).toBe(0);
          }
        }
      },
    ),
    { seed: SEED, numRuns: 300 },
  );
});
