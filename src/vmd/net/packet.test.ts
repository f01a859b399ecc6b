/** Packets that a guest writes: which are right (virtio 1.2 §5.1.6), and what they are without offloads. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { checksum, get16, get32 } from "./ipv4.ts";
import { checkPacket, completePacket } from "./switch.ts";
import { ethernet, mac, tcpPacket } from "./testing.ts";

const SEED = 20261129;
const A = mac("fe:e1:bb:d1:00:0a");
const B = mac("fe:e1:bb:d1:00:0b");

function plain(payload: number, header: number[] = []): Uint8Array {
  const packet = new Uint8Array(12 + 14 + payload);
  packet.set(header);
  packet.set(ethernet(B, A, 0x88b5, new Uint8Array(payload)), 12);
  return packet;
}

const segments = (change: (packet: Uint8Array) => void = () => {}) => {
  const packet = tcpPacket({ to: B, from: A, payload: 4000, segment: 1460 });
  change(packet);
  return packet;
};

describe("a packet is right", () => {
  test.each([
    ["with nothing in it", plain(0)],
    ["as long as the MTU, with a VLAN tag", plain(1504)],
    ["with a checksum to be completed", plain(100, [1, 0, 0, 0, 0, 0, 34, 0, 6])],
    ["with a checksum at its very end", plain(100, [1, 0, 0, 0, 0, 0, 34, 0, 78])],
    ["with segments to be cut", segments()],
    [
      "with segments over IPv6",
      tcpPacket({ to: B, from: A, payload: 9000, segment: 1440, v6: true }),
    ],
    [
      "with segments in a VLAN",
      tcpPacket({ to: B, from: A, payload: 9000, segment: 1460, vlan: true }),
    ],
  ])("%s", (_, packet) => {
    const before = packet.slice();
    expect(checkPacket(packet)).toBe(true);
    before[10] = 1;
    expect(packet).toEqual(before);
  });

  test("and what means nothing in its header is 0 then", () => {
    const packet = plain(60, [0xfe, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(checkPacket(packet)).toBe(true);
    expect([...packet.subarray(0, 12)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
  });
});

describe("a packet is wrong", () => {
  test.each([
    ["without a header", new Uint8Array(5)],
    ["without a whole frame", new Uint8Array(25)],
    ["longer than the MTU", plain(1505)],
    ["longer than anything", new Uint8Array(65_600)],
    ["with a checksum behind its end", plain(100, [1, 0, 0, 0, 0, 0, 34, 0, 79])],
    ["with a checksum far behind its end", plain(100, [1, 0, 0, 0, 0, 0, 255, 255, 255, 255])],
    ["with a checksum in its addresses", plain(100, [1, 0, 0, 0, 0, 0, 13, 0, 6])],
    ["with segments, but no checksum to complete", segments((p) => (p[0] = 0))],
    ["with UDP fragments", segments((p) => (p[1] = 3))],
    ["with UDP segments", segments((p) => (p[1] = 5))],
    ["with ECN segments", segments((p) => (p[1] = 0x81))],
    ["with segments of another IP", segments((p) => (p[1] = 4))],
    ["with segments of nothing", segments((p) => p.fill(0, 4, 6))],
    ["with tiny segments", segments((p) => p.set([47, 0], 4))],
    ["with segments longer than the MTU", segments((p) => p.set([181, 5], 4))],
    ["with segments of UDP", segments((p) => (p[26 + 9] = 17))],
    ["with segments of a fragment", segments((p) => (p[26 + 6] = 0x20))],
    ["with a short IP header", segments((p) => (p[26] = 0x44))],
    ["with a short TCP header", segments((p) => (p[46 + 12] = 0x40))],
    ["with no TCP where its checksum is", segments((p) => p.set([38, 0], 6))],
    ["with headers alone", segments().subarray(0, 66)],
  ])("%s", (_, packet) => {
    expect(checkPacket(packet)).toBe(false);
  });
});

/** Whether IP's and TCP's lengths and checksums are right. */
function expectRight(frame: Uint8Array, ip: number, v6: boolean): Uint8Array {
  const tcp = v6 ? ip + 40 : ip + 20;
  if (v6) expect(get16(frame, ip + 4)).toBe(frame.length - tcp);
  else {
    expect(get16(frame, ip + 2)).toBe(frame.length - ip);
    expect(checksum(frame, ip, tcp)).toBe(0);
  }
  const addresses = v6 ? frame.subarray(ip + 8, ip + 40) : frame.subarray(ip + 12, ip + 20);
  const pseudo = ~checksum(addresses, 0, addresses.length, 6 + frame.length - tcp) & 0xffff;
  expect(checksum(frame, tcp, frame.length, pseudo)).toBe(0);
  return frame.subarray(tcp);
}

test("without offloads segments are cut, and each is right", () => {
  const cases = fc.record({
    payload: fc.integer({ min: 1, max: 60_000 }),
    segment: fc.integer({ min: 48, max: 1440 }),
    v6: fc.boolean(),
    vlan: fc.boolean(),
    flags: fc.constantFrom(0x10, 0x18, 0x19, 0x99),
  });
  fc.assert(
    fc.property(cases, ({ payload, segment, v6, vlan, flags }) => {
      const whole = tcpPacket({ to: B, from: A, payload, segment, v6, vlan, flags });
      const packets = completePacket(whole);
      expect(packets.length).toBe(Math.ceil(payload / segment));
      const ip = vlan ? 18 : 14;
      let got = 0;
      packets.forEach((packet, i) => {
        expect([...packet.subarray(0, 12)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        const tcp = expectRight(packet.subarray(12), ip, v6);
        expect(get32(tcp, 4)).toBe((0xfffffff0 + got) >>> 0);
        if (!v6) expect(get16(packet, 12 + ip + 4)).toBe(i);
        // Only the last ends or pushes, only the first says that a window was reduced.
        const last = i === packets.length - 1 ? 0xff : 0xf6;
        expect(tcp[13]).toBe(flags & last & (i === 0 ? 0xff : 0x7f));
        const data = whole.subarray(12 + ip + (v6 ? 40 : 20) + 20 + got);
        expect(Buffer.compare(tcp.subarray(20), data.subarray(0, tcp.length - 20))).toBe(0);
        got += tcp.length - 20;
      });
      expect(got).toBe(payload);
    }),
    { seed: SEED, numRuns: 100 },
  );
});

test("without offloads checksums are completed", () => {
  for (const v6 of [false, true]) {
    const [packet] = completePacket(tcpPacket({ to: B, from: A, payload: 777, v6 }));
    expectRight(packet.subarray(12), 14, v6);
  }
});

test("whatever is written, nothing is read or written beyond it", () => {
  // What isn't in the packet must stay as it is: the addresses around it are looked at.
  const packets = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc
      .tuple(
        fc.record({
          to: fc.constant(B),
          from: fc.constant(A),
          payload: fc.nat(3000),
          segment: fc.nat(1500),
          v6: fc.boolean(),
          vlan: fc.boolean(),
        }),
        fc.array(fc.tuple(fc.nat(80), fc.nat(255)), { maxLength: 3 }),
        fc.nat(3200),
      )
      .map(([of, changes, cut]) => {
        const packet = tcpPacket(of);
        for (const [at, value] of changes) if (at < packet.length) packet[at] = value;
        return packet.subarray(0, cut);
      }),
  );
  fc.assert(
    fc.property(packets, (packet) => {
      const around = new Uint8Array(packet.length + 64).fill(0xa5);
      around.set(packet, 32);
      const inside = around.subarray(32, 32 + packet.length);
      const right = checkPacket(inside);
      expect(around.subarray(0, 32).every((byte) => byte === 0xa5)).toBe(true);
      expect(around.subarray(32 + packet.length).every((byte) => byte === 0xa5)).toBe(true);
      expect(inside.subarray(12).toHex()).toBe(packet.subarray(12).toHex());
      const completed = completePacket(packet);
      expect(completed.length > 0).toBe(right);
      for (const one of completed) expect(one.length).toBeLessThanOrEqual(12 + 18 + 1500);
    }),
    { seed: SEED, numRuns: 2000 },
  );
});
