/** User-mode networks through Debian's passt, with frames made by hand. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, readFileSync } from "node:fs";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { pollInput } from "../channel.ts";
import { isAlive, until } from "../daemon/testing.ts";
import { NetworkError } from "./host-command.ts";
import { get16, get32, parseIpv4, put32 } from "./ipv4.ts";
import { ip } from "./link.ts";
import { Passt, type PasstOptions } from "./passt.ts";
import { formatPortForward, parsePortForward } from "./port-forward.ts";
import { isInside, testInNamespace } from "./testing-namespace.ts";
import { arp, bootFrame, BROADCAST_MAC, ethernet, ipv4, mac, udp } from "./testing.ts";

setDefaultTimeout(60_000);

const guestMac = mac("fe:e1:bb:d1:12:34");
const hostMac = mac("fe:e1:ba:d1:12:34");
const GUEST = parseIpv4("192.0.2.2")!;
const GATEWAY = parseIpv4("192.0.2.1")!;

const SERVER = `
await Bun.udpSocket({ port: 7, socket: {
  data(socket, data, port, address) { socket.send(data + " " + address, port, address); },
} });
`;

/** A guest at the VM's end. */
class Guest {
  readonly #descriptor: number;
  #bytes = new Uint8Array(0);

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  send(frame: Uint8Array): void {
    const bytes = new Uint8Array(4 + frame.length);
    put32(bytes, 0, frame.length);
    bytes.set(frame, 4);
    expect(Number(processLibrary().vmm_write(this.#descriptor, ptr(bytes), bytes.length))).toBe(
      bytes.length,
    );
  }

  /** The next frame that is wanted, of those that come within two seconds. */
  receive(wanted: (frame: Uint8Array) => boolean): Uint8Array | undefined {
    const buffer = new Uint8Array(70_000);
    const end = performance.now() + 2000;
    while (performance.now() < end) {
      while (this.#bytes.length >= 4 && this.#bytes.length >= 4 + get32(this.#bytes, 0)) {
        const length = get32(this.#bytes, 0);
        const frame = this.#bytes.slice(4, 4 + length);
        this.#bytes = this.#bytes.slice(4 + length);
        if (wanted(frame)) return frame;
      }
      pollInput(this.#descriptor, 100);
      const { vmm_read } = processLibrary();
      const length = Number(vmm_read(this.#descriptor, ptr(buffer), buffer.length));
      if (length > 0) {
        this.#bytes = new Uint8Array(Buffer.concat([this.#bytes, buffer.subarray(0, length)]));
      }
    }
    return undefined;
  }
}

let passt: Passt | undefined;
afterEach(async () => {
  if (passt === undefined) return;
  closeSync(passt.descriptor);
  await passt.ended;
  passt = undefined;
});

async function start(options: PasstOptions = {}): Promise<Guest> {
  passt = await Passt.start({ mac: hostMac, ...options });
  return new Guest(passt.descriptor);
}

function askArp(guest: Guest, target: number): Uint8Array | undefined {
  const question = arp({ operation: 1, mac: guestMac, address: GUEST, target });
  guest.send(ethernet(BROADCAST_MAC, guestMac, 0x0806, question));
  const isAnswer = (frame: Uint8Array) => get16(frame, 12) === 0x0806 && frame[21] === 2;
  return guest.receive(isAnswer)?.slice(22, 28);
}

function insideTests(): void {
  test("answers ARP and DHCP", async () => {
    const guest = await start();
    expect(askArp(guest, GATEWAY)).toEqual(hostMac);
    guest.send(
      bootFrame({
        mac: guestMac,
        options: [
          [53, [1]],
          [55, [1, 3, 6]],
        ],
      }),
    );
    const offer = guest.receive((frame) => get16(frame, 36) === 68)!;
    expect(offer[42]).toBe(2);
    expect(get32(offer, 42 + 16)).toBe(GUEST);
  });

  test("gives the addresses that it is told to", async () => {
    const address = {
      guest: parseIpv4("10.0.2.15")!,
      length: 24,
      gateway: parseIpv4("10.0.2.2")!,
    };
    const guest = await start({ address, mtu: 1500 });
    guest.send(bootFrame({ mac: guestMac, options: [[53, [1]]] }));
    const offer = guest.receive((frame) => get16(frame, 36) === 68)!;
    expect(get32(offer, 42 + 16)).toBe(address.guest);
  });

  test("leads to other hosts", async () => {
    const guest = await start();
    askArp(guest, GATEWAY);
    const payload = udp(4000, 7, new TextEncoder().encode("hello"));
    const packet = ipv4({ from: GUEST, to: GATEWAY, protocol: 17, payload });
    guest.send(ethernet(hostMac, guestMac, 0x0800, packet));
    const answer = guest.receive((frame) => frame[23] === 17 && get16(frame, 36) === 4000)!;
    expect(new TextDecoder().decode(answer.subarray(42))).toBe("hello 192.0.2.2");
  });

  test("leads from the host's ports to the guest's", async () => {
    const forwards = ["2222:22", "8080:80", "5353:53/udp"].map((text) => parsePortForward(text)!);
    const guest = await start({ forwards });
    askArp(guest, GATEWAY);
    for (const { port, guestPort } of forwards.slice(0, 2)) {
      const socket = Bun.connect({ hostname: "127.0.0.1", port, socket: { data() {} } });
      const isSyn = (frame: Uint8Array) => frame[23] === 6 && (frame[47] & 0x12) === 0x02;
      const syn = guest.receive(isSyn)!;
      expect(get16(syn, 36)).toBe(guestPort);
      await socket.then((one) => one.end());
    }
    const socket = await Bun.udpSocket({});
    socket.send("question", 5353, "127.0.0.1");
    const question = guest.receive((frame) => frame[23] === 17 && get16(frame, 36) === 53)!;
    expect(new TextDecoder().decode(question.subarray(42))).toBe("question");
    socket.close();
  });

  test("doesn't lead to the host's own services, unless it is to", async () => {
    const heard: string[] = [];
    const server = await Bun.udpSocket({
      hostname: "127.0.0.1",
      port: 4711,
      socket: { data: (_, data) => void heard.push(data.toString()) },
    });
    for (const hostAccess of [false, true]) {
      const guest = await start({ hostAccess });
      askArp(guest, GATEWAY);
      const payload = udp(4000, 4711, new TextEncoder().encode(`${hostAccess}`));
      const packet = ipv4({ from: GUEST, to: GATEWAY, protocol: 17, payload });
      guest.send(ethernet(hostMac, guestMac, 0x0800, packet));
      await Bun.sleep(200);
      closeSync(passt!.descriptor);
      await passt!.ended;
      passt = undefined;
    }
    server.close();
    expect(heard).toEqual(["true"]);
  });

  test("is nobody's process, and ends with its VM", async () => {
    await start();
    const { pid, descriptor, ended } = passt!;
    passt = undefined;
    expect(readFileSync(`/proc/${pid}/status`, "utf8")).toMatch(/^Uid:\t65534\t65534\t/m);
    closeSync(descriptor);
    await ended;
    await until(() => !isAlive(pid), 1000);
  });

  test("that can't be had says why", async () => {
    const forward = parsePortForward("2222:22")!;
    const taken = Bun.listen({ hostname: "127.0.0.1", port: 2222, socket: { data() {} } });
    await expect(Passt.start({ forwards: [forward] })).rejects.toThrow(
      new NetworkError(
        "port forward 127.0.0.1:2222:22/tcp: the host's port is in use, or not this user's",
      ),
    );
    taken.stop();
    ip("route", "delete", "default");
    await expect(Passt.start()).rejects.toThrow(
      new NetworkError("a user-mode network needs a way out: the host has no default route"),
    );
    ip("route", "add", "default", "via", "192.0.2.1");
  });
}

const hasPasst = Bun.which("passt") !== null;
if (isInside) describe("a user-mode network", insideTests);
else if (hasPasst) testInNamespace(import.meta.path, SERVER);

test("without passt it says what to install", async () => {
  const path = process.env.PATH;
  process.env.PATH = "/nowhere";
  try {
    // Unless it is where the administrator's programs are.
    if (Bun.which("passt", { PATH: "/usr/sbin:/sbin" }) !== null) return;
    await expect(Passt.start()).rejects.toThrow(
      new NetworkError("a user-mode network needs the program passt: install the package passt"),
    );
  } finally {
    process.env.PATH = path;
  }
});

test("forwards are what they say", () => {
  expect(parsePortForward("2222:22")).toEqual({
    protocol: "tcp",
    address: "127.0.0.1",
    port: 2222,
    guestPort: 22,
  });
  expect(formatPortForward(parsePortForward("0.0.0.0:53:5353/udp")!)).toBe("0.0.0.0:53:5353/udp");
  for (const wrong of [
    "",
    "22",
    "0:22",
    "22:65536",
    "1.2.3:1:2",
    "1:2/icmp",
    "a:b",
    "-1:2",
    "1:2 ",
  ]) {
    expect(parsePortForward(wrong)).toBeUndefined();
  }
});
