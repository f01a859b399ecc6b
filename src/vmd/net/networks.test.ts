/** What is at the other end of a VM's interfaces: for root in a network namespace, and for anybody. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync } from "node:fs";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { pollInput } from "../channel.ts";
import { ownConfinement } from "../confinement.ts";
import { dhcpReply } from "./dhcp.ts";
import { NetworkError } from "./host-command.ts";
import { formatIpv4, get32 } from "./ipv4.ts";
import { findLink, ip } from "./link.ts";
import { formatMac } from "./mac.ts";
import { type InterfaceEnd, type InterfaceRequest, Networks } from "./networks.ts";
import { isInside, testInNamespace } from "./testing-namespace.ts";
import { bootFrame, BROADCAST_MAC, ethernet } from "./testing.ts";

setDefaultTimeout(60_000);

const switches = [
  { name: "lan", interface: "bridge0" },
  { name: "off", interface: "bridge1", enable: false },
  { name: "strict", interface: "bridge2", lockedLladdr: true },
];
const warnings: string[] = [];

let networks: Networks | undefined;
const ends: InterfaceEnd[] = [];
afterEach(() => {
  for (const { descriptor } of ends.splice(0)) closeSync(descriptor);
  networks?.[Symbol.dispose]();
  networks = undefined;
  warnings.splice(0);
});

function make(root: boolean): Networks {
  networks = new Networks({
    ...{ switches, root, confine: ownConfinement() },
    warn: (message) => warnings.push(message),
  });
  return networks;
}

async function open(request: Partial<InterfaceRequest>, place = 0): Promise<InterfaceEnd> {
  const owner = { id: 3, name: "web", place };
  const end = await networks!.open({ local: false, ...request }, owner);
  ends.push(end);
  return end;
}

function send({ descriptor, mac }: InterfaceEnd, from = mac): void {
  const frame = ethernet(BROADCAST_MAC, from, 0x88b5, new Uint8Array(46));
  const packet = new Uint8Array(12 + frame.length);
  packet.set(frame, 12);
  const { vmm_write } = processLibrary();
  expect(Number(vmm_write(descriptor, ptr(packet), packet.length))).toBe(packet.length);
}

/** Whether a packet of send() comes. */
function hears({ descriptor }: InterfaceEnd, time = 1000): boolean {
  const buffer = new Uint8Array(70_000);
  const end = performance.now() + time;
  while (performance.now() < end) {
    pollInput(descriptor, 20);
    const length = Number(processLibrary().vmm_read(descriptor, ptr(buffer), buffer.length));
    if (length === 72 && buffer[24] === 0x88 && buffer[25] === 0xb5) return true;
  }
  return false;
}

function refusals(): void {
  test.each([
    [{ switch: "none" }, 'switch "none" not found'],
    [{ switch: "off" }, 'switch "off" is disabled'],
    [{ switch: "lan", local: true }, "an interface is local, or in a switch: not both"],
    [{ lladdr: "ff:ff:ff:ff:ff:ff" }, "ff:ff:ff:ff:ff:ff is no address of an interface"],
  ] as [Partial<InterfaceRequest>, string][])("%j is refused", async (request, why) => {
    make(false);
    await expect(open(request)).rejects.toThrow(new NetworkError(why));
  });
}

function forAnybody(): void {
  test("VMs in a switch hear each other", async () => {
    make(false);
    const [one, two] = [await open({ switch: "lan" }), await open({ switch: "lan" }, 1)];
    expect(one).toMatchObject({ kind: "switch", where: "switch lan", locked: false });
    expect(formatMac(one.mac)).toStartWith("fe:e1:bb:d1:");
    expect(formatMac(two.mac)).toStartWith("fe:e1:bb:d2:");
    send(one);
    expect(hears(two)).toBe(true);
    networks!.close(two);
    await Bun.sleep(100);
    send(one);
    expect(hears(two, 100)).toBe(false);
    expect(warnings).toEqual([]);
  });

  test("a switch keeps locked addresses", async () => {
    make(false);
    const lladdr = "00:00:00:00:00:00";
    const [one, two] = [await open({ switch: "strict", lladdr }), await open({ switch: "strict" })];
    expect(one.locked).toBe(true);
    send(one, two.mac);
    expect(hears(two, 100)).toBe(false);
    send(one);
    expect(hears(two)).toBe(true);
  });
}

function forRoot(): void {
  test("an interface without more is a tap", async () => {
    make(true);
    const end = await open({ lladdr: "fe:e1:bb:d1:12:34" });
    expect(end).toMatchObject({ kind: "tap", where: "tap0", locked: false });
    expect(end.lease).toBeUndefined();
    expect(findLink("tap0")?.address).toBe("fe:e1:ba:d1:12:34");
    expect(ip("link", "show", "dev", "tap0")).toContain("alias vm3-if0-web");
    expect(await open({ tap: "tap5", lockedLladdr: true })).toMatchObject({
      where: "tap5",
      locked: true,
    });
  });

  test("one in a switch is in its bridge", async () => {
    make(true);
    const [one, two] = [await open({ switch: "lan" }), await open({ switch: "lan" }, 1)];
    expect([one.where, two.where]).toEqual(["tap0", "tap1"]);
    expect(ip("link", "show", "master", "bridge0")).toContain("tap1");
    expect(ip("link", "show", "dev", "bridge0")).toContain("alias switch0-lan");
    send(one);
    expect(hears(two)).toBe(true);
    networks![Symbol.dispose]();
    expect(findLink("bridge0")).toBeUndefined();
  });

  test("a local one has its addresses, and the network goes with the daemon", async () => {
    make(true);
    const end = await open({ local: true }, 1);
    expect(ip("address", "show", "dev", end.where)).toContain("inet 100.64.3.4/31");
    const reply = dhcpReply(bootFrame({ mac: end.mac, options: [[53, [1]]] }), end.lease!);
    expect(formatIpv4(get32(reply!, 42 + 16))).toBe("100.64.3.5");
    const table = () => Bun.spawnSync(["nft", "list", "table", "inet", "vmd"]).stdout.toString();
    expect(table()).toContain("100.64.3.5");
    networks!.close(end);
    expect(table()).not.toContain("100.64.3.5");
    networks![Symbol.dispose]();
    expect(table()).toBe("");
  });

  test("anybody's has passt, and the taps that were made for them", async () => {
    make(false);
    expect(await open({})).toMatchObject({ kind: "passt", where: "passt" });
    expect(await open({ local: true })).toMatchObject({ kind: "passt" });
    expect(await open({ tap: "tap9" })).toMatchObject({ kind: "tap", where: "tap9" });
  });
}

if (isInside) {
  describe("for root", forRoot);
} else {
  describe("wrong ones", refusals);
  describe("for anybody", forAnybody);
  const missing = ["nft", "passt"].some(
    (program) => Bun.which(program, { PATH: `${process.env.PATH}:/usr/sbin` }) === null,
  );
  if (!missing) testInNamespace(import.meta.path);
}
