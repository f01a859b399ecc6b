import { dhcpReply, type LocalLease } from "../../src/vmd/net/dhcp.ts";
import { checksum, get16, put16 } from "../../src/vmd/net/ipv4.ts";
import { bootFrame, mac } from "../../src/vmd/net/testing.ts";
import { must, type Target } from "../own/target.ts";

const guest = mac("fe:e1:bb:d1:12:34");
const lease: LocalLease = {
  mac: guest,
  hostMac: mac("fe:e1:ba:d0:12:34"),
  hostAddress: 0x64400302,
  guestAddress: 0x64400303,
  bootFile: "auto_install",
  hostName: "web",
};
const unknown: LocalLease = { ...lease, hostMac: undefined, bootFile: undefined };
const ETHERNET = 14;
const LONGEST = 1500;

/** What must hold of a reply: RFC 791, 768, 2131. */
function check(reply: Uint8Array): void {
  must(reply.length >= 342 && reply.length <= LONGEST, `a reply of ${reply.length} bytes`);
  must(checksum(reply, ETHERNET, 34) === 0, "a wrong IP checksum");
  must(get16(reply, 16) === reply.length - ETHERNET, "a wrong IP length");
  must(get16(reply, 38) === reply.length - 34, "a wrong UDP length");
  let at = 42 + 240;
  while (at < reply.length && reply[at] !== 255) {
    at += reply[at] === 0 ? 1 : 2 + reply[at + 1];
  }
  must(at < reply.length, "options without an end");
}

export const target: Target = {
  name: "dhcp",
  about: "frames to the BOOTP and DHCP server: an answer that is one, or none",
  maxInput: 1518,
  *seeds() {
    const type = (value: number) => [53, [value]] as const;
    const address = [100, 64, 3, 3] as const;
    const frames = [
      bootFrame({ mac: guest }),
      bootFrame({ mac: guest, options: [type(1), [61, [1, ...guest]], [57, [5, 220]]] }),
      bootFrame({ mac: guest, options: [type(3), [50, address], [54, [100, 64, 3, 2]]] }),
      bootFrame({ mac: guest, ciaddr: 0x64400303, options: [type(8), [52, [3]], [12, [97]]] }),
      bootFrame({ mac: guest, flags: 0x8000, options: [type(3), [50, [10, 0, 0, 7]]] }),
    ];
    for (const frame of frames) yield Uint8Array.from([...frame, 0]);
  },
  run(input) {
    const end = Math.max(0, input.length - 1);
    const how = input[end] ?? 0;
    const frame = input.subarray(0, end);
    // Else hardly any frame would get further than its checksum.
    if ((how & 1) === 0 && frame.length >= ETHERNET + 20) {
      const header = Math.min(frame.length - ETHERNET, Math.max(20, (frame[ETHERNET] & 15) * 4));
      put16(frame, ETHERNET + 10, 0);
      put16(frame, ETHERNET + 10, checksum(frame, ETHERNET, ETHERNET + (header & ~1)));
    }
    const before = frame.slice();
    for (const one of [lease, unknown]) {
      const reply = dhcpReply(frame, one);
      if (reply !== undefined) check(reply);
    }
    must(Buffer.compare(before, frame) === 0, "the request was changed");
  },
};
