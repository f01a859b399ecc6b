/** Taps, bridges and the way out of local interfaces, on a host of their own: a network namespace. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { pollInput } from "../channel.ts";
import { Bridge } from "./bridge.ts";
import { NetworkError } from "./host-command.ts";
import { get16, get32, parseIpv4 } from "./ipv4.ts";
import { findLink, ip } from "./link.ts";
import { hostResolver, LocalNetwork } from "./local-network.ts";
import { formatMac } from "./mac.ts";
import { Offload } from "./switch.ts";
import { openTap, setTapOffloads, type Tap, type TapOptions } from "./tap.ts";
import { isInside, testInNamespace } from "./testing-namespace.ts";
import { arp, BROADCAST_MAC, ethernet, ipv4, mac, tcpPacket, udp } from "./testing.ts";

setDefaultTimeout(60_000);

const HOST = parseIpv4("100.64.3.2")!;
const GUEST = parseIpv4("100.64.3.3")!;
const OUTSIDE = parseIpv4("192.0.2.1")!;
const hostMac = mac("fe:e1:ba:d1:12:34");
const guestMac = mac("fe:e1:bb:d1:12:34");

// The host outside: it says whom it hears, at its echo port and at its resolver's.
const SERVER = `
for (const port of [7, 53]) await Bun.udpSocket({ port, socket: {
  data(socket, data, port, address) { socket.send(data + " " + address, port, address); },
} });
`;

const taps: Tap[] = [];
const others: Disposable[] = [];
afterEach(() => {
  for (const { descriptor } of taps.splice(0)) closeSync(descriptor);
  for (const one of others.splice(0)) one[Symbol.dispose]();
});

function open(options: TapOptions = {}): Tap {
  const tap = openTap(options);
  taps.push(tap);
  return tap;
}

function send({ descriptor }: Tap, frame: Uint8Array): void {
  const packet = new Uint8Array(12 + frame.length);
  packet.set(frame, 12);
  expect(Number(processLibrary().vmm_write(descriptor, ptr(packet), packet.length))).toBe(
    packet.length,
  );
}

/** The next packet that is wanted, of those that come within a second; ARP is answered meanwhile. */
function receive(tap: Tap, wanted: (frame: Uint8Array) => boolean): Uint8Array | undefined {
  const buffer = new Uint8Array(70_000);
  const end = performance.now() + 1000;
  while (performance.now() < end) {
    pollInput(tap.descriptor, 100);
    const length = Number(processLibrary().vmm_read(tap.descriptor, ptr(buffer), buffer.length));
    if (length <= 0) continue;
    const frame = buffer.slice(12, length);
    if (wanted(frame)) return buffer.slice(0, length);
    if (get16(frame, 12) !== 0x0806 || get32(frame, 38) !== GUEST) continue;
    const answer = { operation: 2, mac: guestMac, address: GUEST, target: HOST } as const;
    send(tap, ethernet(frame.subarray(6, 12), guestMac, 0x0806, arp(answer)));
  }
  return undefined;
}

const isUdp = (frame: Uint8Array) => get16(frame, 12) === 0x0800 && frame[23] === 17;

/** Asks by UDP, and returns the answer's text. */
function ask(tap: Tap, to: number, port: number, from = GUEST): string | undefined {
  const payload = udp(4000, port, new TextEncoder().encode("hello"));
  send(tap, ethernet(hostMac, guestMac, 0x0800, ipv4({ from, to, protocol: 17, payload })));
  const packet = receive(tap, isUdp);
  if (packet === undefined) return undefined;
  expect(get32(packet, 12 + 26)).toBe(to);
  return new TextDecoder().decode(packet.subarray(12 + 42));
}

function tapTests(): void {
  test("is the next that is free, or the one that is named", () => {
    expect(open().name).toBe("tap0");
    expect(open().name).toBe("tap1");
    expect(open({ name: "tap7" }).name).toBe("tap7");
    expect(() => openTap({ name: "tap7" })).toThrow(new NetworkError("tap7 is in use"));
    expect(() => openTap({ name: "wire0" })).toThrow(
      new NetworkError("wire0 is an interface already, and no tap"),
    );
    expect(() => openTap({ name: "tap/1" })).toThrow(NetworkError);
    expect(() => openTap({ name: "a".repeat(16) })).toThrow(NetworkError);
  });

  test("is configured, and gone with its descriptor", () => {
    const options = { mac: hostMac, mtu: 1400, description: "vm3-if0-web", address: HOST };
    const { name, mac: address } = open(options);
    expect(address).toEqual(hostMac);
    const [link] = JSON.parse(ip("-json", "address", "show", "dev", name));
    expect(link).toMatchObject({ address: formatMac(hostMac), mtu: 1400 });
    expect(ip("link", "show", "dev", name)).toContain("alias vm3-if0-web");
    expect(link.flags).toContain("UP");
    expect(link.addr_info).toContainEqual(
      expect.objectContaining({ local: "100.64.3.2", prefixlen: 31 }),
    );
    closeSync(taps.pop()!.descriptor);
    expect(findLink(name)).toBeUndefined();
  });

  test("that can't be configured isn't left behind", () => {
    expect(() => openTap({ name: "tap5", bridge: "nobridge" })).toThrow(
      /^ip link set dev tap5 .*nobridge/,
    );
    expect(findLink("tap5")).toBeUndefined();
  });

  test("takes a guest's frames, and has an address of its own when none is given", () => {
    const tap = open({ address: HOST });
    expect(formatMac(tap.mac)).toBe(findLink(tap.name)!.address);
    const question = arp({ operation: 1, mac: guestMac, address: GUEST, target: HOST });
    send(tap, ethernet(BROADCAST_MAC, guestMac, 0x0806, question));
    const isAnswer = (frame: Uint8Array) => get16(frame, 12) === 0x0806 && frame[21] === 2;
    const answer = receive(tap, isAnswer);
    expect(answer?.subarray(12 + 22, 12 + 28)).toEqual(tap.mac);
  });

  test("is told what its guest takes", () => {
    const { descriptor } = open();
    setTapOffloads(descriptor, Offload.CSUM | Offload.TSO4 | Offload.TSO6);
    setTapOffloads(descriptor, 0);
    expect(() => setTapOffloads(descriptor, Offload.TSO4)).toThrow("EINVAL");
  });
}

function bridges(): void {
  test("is made where there is none, and removed again", () => {
    const bridge = new Bridge({ name: "bridge0", description: "switch0-lan" });
    expect(bridge.isMade).toBe(true);
    expect(findLink("bridge0")?.kind).toBe("bridge");
    const again = new Bridge({ name: "bridge0" });
    expect(again.isMade).toBe(false);
    again[Symbol.dispose]();
    expect(findLink("bridge0")).toBeDefined();
    bridge[Symbol.dispose]();
    expect(findLink("bridge0")).toBeUndefined();
  });

  test("that is something else is refused", () => {
    expect(() => new Bridge({ name: "wire0" })).toThrow(
      new NetworkError("wire0 is an interface already, and no bridge"),
    );
  });

  test("joins its taps, segments as they are where they are taken", () => {
    others.push(new Bridge({ name: "bridge0" }));
    const [one, two, three] = [0, 1, 2].map(() => open({ bridge: "bridge0" }));
    setTapOffloads(two.descriptor, Offload.CSUM | Offload.TSO4);
    const packet = tcpPacket({ to: BROADCAST_MAC, from: guestMac, payload: 4000, segment: 1460 });
    const { vmm_write } = processLibrary();
    expect(Number(vmm_write(one.descriptor, ptr(packet), packet.length))).toBe(packet.length);
    const isTcp = (frame: Uint8Array) => get16(frame, 12) === 0x0800 && frame[23] === 6;
    const whole = receive(two, isTcp)!;
    expect(whole.length).toBe(packet.length);
    expect([whole[0] & 1, whole[1]]).toEqual([1, 1]);
    // The kernel cuts them for who doesn't.
    const first = receive(three, isTcp)!;
    expect(first.length).toBe(12 + 14 + 40 + 1460);
    expect([...first.subarray(0, 2)]).toEqual([0, 0]);
  });
}

function wayOut(): void {
  const one = { host: HOST, guest: GUEST };

  test("is under the host's address", () => {
    const network = new LocalNetwork();
    others.push(network);
    const tap = open({ mac: hostMac, address: HOST });
    network.add({ tap: tap.name, ...one });
    expect(ask(tap, OUTSIDE, 7)).toBe("hello 192.0.2.2");
    // No other guest's address gets out.
    expect(ask(tap, OUTSIDE, 7, parseIpv4("100.64.3.5"))).toBeUndefined();
    network.remove({ tap: tap.name, ...one });
    expect(ask(tap, OUTSIDE, 7)).toBeUndefined();
    network.remove({ tap: tap.name, ...one });
  });

  test("has the host's resolver, where it is told", () => {
    const network = new LocalNetwork({ resolver: OUTSIDE });
    others.push(network);
    const tap = open({ mac: hostMac, address: HOST });
    network.add({ tap: tap.name, ...one });
    expect(ask(tap, HOST, 53)).toBe("hello 192.0.2.2");
  });

  test("is gone with its table, and forwarding is off as it was", () => {
    const forward = () => readFileSync("/proc/sys/net/ipv4/ip_forward", "utf8").trim();
    const tables = () => Bun.spawnSync(["nft", "list", "tables"]).stdout.toString();
    expect(forward()).toBe("0");
    // One that was killed left all of it behind.
    const left = new LocalNetwork();
    const network = new LocalNetwork();
    expect(forward()).toBe("1");
    expect(tables()).toContain("table inet vmd");
    network[Symbol.dispose]();
    expect([forward(), tables()]).toEqual(["0", ""]);
    void left;

    writeFileSync("/proc/sys/net/ipv4/ip_forward", "1");
    new LocalNetwork()[Symbol.dispose]();
    expect(forward()).toBe("1");
    writeFileSync("/proc/sys/net/ipv4/ip_forward", "0");
  });
}

if (isInside) {
  describe("a tap", tapTests);
  describe("a bridge", bridges);
  const hasNft = Bun.which("nft", { PATH: `${process.env.PATH}:/usr/sbin:/sbin` }) !== null;
  describe.skipIf(!hasNft)("a local interface's way out", wayOut);
} else {
  testInNamespace(import.meta.path, SERVER);
}

test("the host's resolver is one that others reach", () => {
  const folder = mkdtempSync(join(tmpdir(), "resolver-"));
  const file = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const stub = file("stub", "# comment\nnameserver 127.0.0.53\nnameserver ::1\noptions edns0\n");
  const real = file("real", "search example.org\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n");
  expect(hostResolver([stub, join(folder, "none"), real])).toBe(parseIpv4("192.0.2.53"));
  expect(hostResolver([stub])).toBeUndefined();
  rmSync(folder, { recursive: true });
});
