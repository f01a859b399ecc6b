/** DHCP and BOOTP against RFC 951, 1542, 2131, 2132, and frames that nobody should send. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { dhcpReply, type LocalLease } from "./dhcp.ts";
import { checksum, get16, get32, parseIpv4, put16, put32 } from "./ipv4.ts";
import { bootFrame, ethernet, ipv4, mac, type Request, udp } from "./testing.ts";

const SEED = 20261129;
const HOST = parseIpv4("100.64.3.2")!;
const GUEST = parseIpv4("100.64.3.3")!;
const OTHER = parseIpv4("10.0.0.7")!;
const guestMac = mac("fe:e1:bb:d1:12:34");
const hostMac = mac("fe:e1:ba:d0:12:34");
const lease: LocalLease = { mac: guestMac, hostMac, hostAddress: HOST, guestAddress: GUEST };

const address = (value: number) => [
  value >>> 24,
  (value >>> 16) & 255,
  (value >>> 8) & 255,
  value & 255,
];
const type = (value: number) => [53, [value]] as const;
const ask = (request: Partial<Request>, from = lease) =>
  dhcpReply(bootFrame({ mac: guestMac, ...request }), from);

/** A reply, taken apart; its lengths and checksums are right. */
function read(frame: Uint8Array | undefined) {
  expect(frame).toBeDefined();
  const bytes = frame!;
  expect(bytes.length).toBeLessThanOrEqual(1500);
  expect(get16(bytes, 12)).toBe(0x0800);
  expect(checksum(bytes, 14, 34)).toBe(0);
  expect(get16(bytes, 16)).toBe(bytes.length - 14);
  const length = get16(bytes, 38);
  expect(length).toBe(bytes.length - 34);
  const pseudo = new Uint8Array(12 + length);
  pseudo.set(bytes.subarray(26, 34));
  pseudo[9] = 17;
  put16(pseudo, 10, length);
  pseudo.set(bytes.subarray(34), 12);
  expect(get16(bytes, 40)).not.toBe(0);
  expect(checksum(pseudo, 0, pseudo.length)).toBe(0);
  expect([get16(bytes, 34), get16(bytes, 36)]).toEqual([67, 68]);
  const message = bytes.subarray(42);
  expect(message.length).toBeGreaterThanOrEqual(300);
  expect([...message.subarray(0, 3)]).toEqual([2, 1, 6]);
  expect(get32(message, 236)).toBe(0x63825363);
  const options = new Map<number, number[]>();
  let at = 240;
  for (; message[at] !== 255; at += 2 + message[at + 1]) {
    expect(options.has(message[at])).toBe(false);
    options.set(message[at], [...message.subarray(at + 2, at + 2 + message[at + 1])]);
  }
  expect(message.subarray(at + 1).every((byte) => byte === 0)).toBe(true);
  const text = (from: number, to: number) =>
    new TextDecoder().decode(message.subarray(from, to)).replace(/\0+$/, "");
  return {
    to: bytes.subarray(0, 6).toHex(),
    from: bytes.subarray(6, 12).toHex(),
    ip: { from: get32(bytes, 26), to: get32(bytes, 30) },
    xid: get32(message, 4),
    flags: get16(message, 10),
    ciaddr: get32(message, 12),
    yiaddr: get32(message, 16),
    siaddr: get32(message, 20),
    chaddr: message.subarray(28, 34).toHex(),
    file: text(108, 236),
    options,
  };
}

const network = {
  mask: [255, 255, 255, 254],
  host: address(HOST),
};

describe("DHCP", () => {
  test("DISCOVER is answered with OFFER, to the guest's own address", () => {
    const reply = read(ask({ xid: 0xdeadbeef, options: [type(1)] }));
    expect(reply).toMatchObject({
      to: guestMac.toHex(),
      from: hostMac.toHex(),
      ip: { from: HOST, to: GUEST },
      xid: 0xdeadbeef,
      ciaddr: 0,
      yiaddr: GUEST,
      siaddr: HOST,
      chaddr: guestMac.toHex(),
      file: "",
    });
    expect([...reply.options]).toEqual([
      [53, [2]],
      [54, network.host],
      [51, [255, 255, 255, 255]],
      [1, network.mask],
      [3, network.host],
      [6, network.host],
    ]);
  });

  test("a client that can't take unicasts yet is sent a broadcast", () => {
    const reply = read(ask({ flags: 0x8000, options: [type(1)] }));
    expect(reply.to).toBe("ffffffffffff");
    expect(reply.ip.to).toBe(0xffffffff);
    expect(reply.flags).toBe(0x8000);
  });

  // RFC 2131 §4.3.2, table 4.
  test.each([
    ["selecting", { options: [type(3), [54, address(HOST)], [50, address(GUEST)]] }, 5],
    [
      "selecting another address",
      { options: [type(3), [54, address(HOST)], [50, address(OTHER)]] },
      6,
    ],
    ["init-reboot", { options: [type(3), [50, address(GUEST)]] }, 5],
    ["init-reboot elsewhere", { options: [type(3), [50, address(OTHER)]] }, 6],
    ["renewing", { ciaddr: GUEST, options: [type(3)] }, 5],
    ["renewing another address", { ciaddr: OTHER, options: [type(3)] }, 6],
    ["naming no address", { options: [type(3)] }, 6],
    ["naming half an address", { options: [type(3), [50, [100, 64]]] }, 6],
  ] as [string, Partial<Request>, number][])("REQUEST when %s", (_, request, answer) => {
    const reply = read(ask(request));
    expect(reply.options.get(53)).toEqual([answer]);
    expect(reply.options.get(54)).toEqual(network.host);
    if (answer === 5) {
      expect(reply.yiaddr).toBe(GUEST);
      expect(reply.ciaddr).toBe(request.ciaddr ?? 0);
      expect(reply.options.get(51)).toEqual([255, 255, 255, 255]);
    } else {
      // Table 3: a NAK has no address and no configuration, and is broadcast.
      expect([reply.yiaddr, reply.siaddr, reply.ciaddr]).toEqual([0, 0, 0]);
      expect([...reply.options.keys()]).toEqual([53, 54]);
      expect(reply.to).toBe("ffffffffffff");
    }
  });

  test("a REQUEST to another server isn't answered", () => {
    const options = [type(3), [54, address(OTHER)], [50, address(GUEST)]] as const;
    expect(ask({ options })).toBeUndefined();
  });

  test("INFORM is answered with no address and no lease, where the client is", () => {
    const reply = read(ask({ ciaddr: OTHER, options: [type(8)] }));
    expect(reply).toMatchObject({ ip: { to: OTHER }, yiaddr: 0, ciaddr: OTHER });
    expect(reply.options.get(53)).toEqual([5]);
    expect(reply.options.has(51)).toBe(false);
    expect(reply.options.get(1)).toEqual(network.mask);
    expect(ask({ options: [type(8)] })).toBeUndefined();
  });

  test.each([2, 4, 5, 6, 7, 9, 0, 255])("a message of type %i has no answer", (value) => {
    expect(ask({ options: [type(value)] })).toBeUndefined();
  });

  test("a guest that boots from the network is told its file and its name", () => {
    const net = { ...lease, bootFile: "auto_install", hostName: "web" };
    const reply = read(ask({ options: [type(1)] }, net));
    expect(reply.file).toBe("auto_install");
    expect(reply.options.get(12)).toEqual([..."web"].map((c) => c.charCodeAt(0)));
  });

  test("the client identifier comes back", () => {
    const id = [1, ...guestMac];
    expect(read(ask({ options: [type(1), [61, id]] })).options.get(61)).toEqual(id);
    expect(read(ask({ options: [type(3), [61, id]] })).options.get(61)).toEqual(id);
  });

  test("no reply is longer than the client takes", () => {
    const long = Array.from({ length: 255 }, (_, i) => i);
    const net = { ...lease, hostName: "n".repeat(63), bootFile: "f".repeat(300) };
    const usual = ask({ options: [type(1), [61, long]] }, net)!;
    expect(usual.length - 14).toBeLessThanOrEqual(576);
    expect(read(usual).options.has(12)).toBe(false);
    const more = read(ask({ options: [type(1), [61, long], [57, [5, 220]]] }, net));
    expect(more.options.has(12)).toBe(true);
    expect(more.file).toBe("f".repeat(127));
    // RFC 2132 §9.10: the minimum is 576, whatever is asked for.
    expect(read(ask({ options: [type(1), [57, [0, 1]]] })).options.has(6)).toBe(true);
  });

  test("options may lie in the file and server name fields", () => {
    const frame = bootFrame({ mac: guestMac, options: [[52, [3]]] });
    frame.set([53, 1, 3, 255], 42 + 108);
    frame.set([50, 4, ...address(GUEST), 255], 42 + 44);
    expect(read(dhcpReply(frame, lease)).options.get(53)).toEqual([5]);
  });
});

describe("BOOTP", () => {
  test.each([
    ["with a vendor area", {}],
    ["without one", { padding: 0 }],
    ["with RFC 1497's cookie", { options: [] }],
  ])("a request %s gets the address", (_, request) => {
    const reply = read(ask(request));
    expect(reply.yiaddr).toBe(GUEST);
    expect([...reply.options.keys()]).toEqual([1, 3, 6]);
  });
});

describe("frames that aren't for it", () => {
  const discover = () => bootFrame({ mac: guestMac, options: [type(1)] });
  const sum = (frame: Uint8Array) => {
    put16(frame, 24, 0);
    put16(frame, 24, checksum(frame, 14, 34));
  };
  const changes: [string, (frame: Uint8Array) => void][] = [
    ["another source address", (f) => (f[11] ^= 1)],
    ["another destination", (f) => f.set(guestMac)],
    ["another protocol", (f) => ((f[23] = 6), sum(f))],
    ["another ethertype", (f) => put16(f, 12, 0x86dd)],
    ["IPv6 inside", (f) => ((f[14] = 0x65), sum(f))],
    ["a short IP header", (f) => ((f[14] = 0x44), sum(f))],
    ["a wrong IP checksum", (f) => (f[24] ^= 1)],
    ["more fragments", (f) => (put16(f, 20, 0x2000), sum(f))],
    ["a fragment's offset", (f) => (put16(f, 20, 1), sum(f))],
    ["an IP length over the frame's", (f) => (put16(f, 16, f.length), sum(f))],
    ["an IP length of nothing", (f) => (put16(f, 16, 20), sum(f))],
    ["another IP destination", (f) => (put32(f, 30, OTHER), sum(f))],
    ["another port", (f) => put16(f, 36, 53)],
    ["another client port", (f) => put16(f, 34, 67)],
    ["a UDP length over the packet's", (f) => put16(f, 38, f.length)],
    ["a UDP length of nothing", (f) => put16(f, 38, 8)],
    ["a reply", (f) => (f[42] = 2)],
    ["another hardware type", (f) => (f[43] = 6)],
    ["another hardware address length", (f) => (f[44] = 16)],
    ["another hardware address", (f) => (f[42 + 28] ^= 2)],
    ["a relay", (f) => put32(f, 42 + 24, OTHER)],
  ];
  test.each(changes)("%s", (_, change) => {
    const frame = discover();
    expect(dhcpReply(frame, lease)).toBeDefined();
    change(frame);
    expect(dhcpReply(frame, lease)).toBeUndefined();
  });

  test("what is sent to the host itself is", () => {
    const message = bootFrame({ mac: guestMac, ciaddr: GUEST, options: [type(3)] }).subarray(42);
    const packet = ipv4({ from: GUEST, to: HOST, protocol: 17, payload: udp(68, 67, message) });
    const frame = ethernet(hostMac, guestMac, 0x0800, packet);
    expect(read(dhcpReply(frame, lease)).options.get(53)).toEqual([5]);
    expect(dhcpReply(frame, { ...lease, hostMac: undefined })).toBeDefined();
  });
});

test("whatever comes, it doesn't throw, and what it says is right", () => {
  const bytes = (maxLength: number) => fc.uint8Array({ maxLength });
  const options = fc.array(
    fc.tuple(fc.constantFrom(53, 50, 54, 57, 61, 52, 255, 0, 12), bytes(12)),
  );
  const frames = fc.oneof(
    bytes(700),
    // Nearly right ones: options at random, then some bytes changed, then cut.
    fc
      .record({
        options,
        changes: fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 3 }),
        cut: fc.option(fc.nat(400)),
        sum: fc.boolean(),
      })
      .map(({ options: chosen, changes, cut, sum }) => {
        const frame = bootFrame({
          mac: guestMac,
          options: [type(1), ...chosen.map(([code, value]) => [code, [...value]] as const)],
        });
        for (const [at, value] of changes) if (at < frame.length) frame[at] = value;
        if (sum) {
          put16(frame, 24, 0);
          put16(frame, 24, checksum(frame, 14, 34));
        }
        return cut === null ? frame : frame.subarray(0, cut);
      }),
  );
  fc.assert(
    fc.property(frames, (frame) => {
      const reply = dhcpReply(frame, { ...lease, bootFile: "auto_install", hostName: "web" });
      if (reply !== undefined) read(reply);
    }),
    { seed: SEED, numRuns: 5000 },
  );
});
