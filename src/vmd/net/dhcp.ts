/**
 * The other end of a local interface answers BOOTP and DHCP (RFC 951, 1542, 2131, 2132): always with
 * the one address that the guest can have. It keeps no state.
 *
 * A frame is Ethernet, IPv4, UDP, a message; the guest wrote all of it, so each length is checked
 * before what it covers is read.
 */
import { findOption, Option, OptionWriter } from "./dhcp-options.ts";
import { BROADCAST, checksum, get16, get32, put16, put32 } from "./ipv4.ts";

/** Who is at both ends of the interface. */
export interface LocalLease {
  /** The guest's link address, 6 bytes. */
  readonly mac: Uint8Array;
  /** The host's; absent: none that the guest could know, so frames to any are taken. */
  readonly hostMac?: Uint8Array;
  readonly hostAddress: number;
  readonly guestAddress: number;
  /** What a guest that boots from the network is to load. */
  readonly bootFile?: string;
  readonly hostName?: string;
}

// Places in the frame.
const ETHERNET = 14;
const ETHERTYPE = 12;
const IPV4 = 0x0800;
const UDP = 17;
const UDP_HEADER = 8;
const IP_HEADER = 20;
const SERVER_PORT = 67;
const CLIENT_PORT = 68;
const TIME_TO_LIVE = 64;

// Places in the message: RFC 2131 §2.
const HTYPE = 1;
const HLEN = 2;
const XID = 4;
const FLAGS = 10;
const CIADDR = 12;
const YIADDR = 16;
const SIADDR = 20;
const GIADDR = 24;
const CHADDR = 28;
const SNAME = 44;
const FILE = 108;
const VENDOR = 236;
const OPTIONS = 240;

const MAGIC = 0x63825363;
const BOOTREQUEST = 1;
const BOOTREPLY = 2;
const HTYPE_ETHERNET = 1;
const BROADCAST_FLAG = 0x8000;
/** The shortest message: RFC 1542 §2.1. */
const SHORTEST = 300;
/** The longest reply, the frame's bytes. */
const LONGEST_REPLY = 1500;
/** IP bytes that every client takes: RFC 2131 §2. */
const SMALLEST_MAXIMUM = 576;

const FOR_EVER = 0xffffffff;
/** A network of two: RFC 3021. */
const MASK = 0xfffffffe;

/** RFC 2132 §9.6. */
const Message = {
  DISCOVER: 1,
  OFFER: 2,
  REQUEST: 3,
  ACK: 5,
  NAK: 6,
  INFORM: 8,
} as const;

/** A reply, before its addresses are known. 0: BOOTP, which has no type. */
type Answer = 0 | typeof Message.OFFER | typeof Message.ACK | typeof Message.NAK;

const encoder = new TextEncoder();

/**
 * What a frame of the guest's is answered with.
 * @returns a whole frame for the guest; undefined for a frame that isn't for this server, or that
 * has no answer. Never throws.
 */
export function dhcpReply(frame: Uint8Array, lease: LocalLease): Uint8Array | undefined {
  const message = messageOf(frame, lease);
  if (message === undefined) return undefined;
  const option = optionsOf(message);
  const type = option(Option.MESSAGE_TYPE);
  if (type === undefined) return buildReply(message, 0, lease, option);
  if (type.length !== 1) return undefined;
  switch (type[0]) {
    case Message.DISCOVER:
      return buildReply(message, Message.OFFER, lease, option);
    case Message.INFORM:
      // It has an address already, and is told the rest there.
      if (get32(message, CIADDR) === 0) return undefined;
      return buildReply(message, Message.ACK, lease, option, true);
    case Message.REQUEST: {
      const server = option(Option.SERVER_IDENTIFIER);
      // The guest has chosen another server.
      if (server !== undefined && !isAddress(server, lease.hostAddress)) return undefined;
      const requested = option(Option.REQUESTED_ADDRESS);
      const right =
        requested === undefined
          ? get32(message, CIADDR) === lease.guestAddress
          : isAddress(requested, lease.guestAddress);
      return buildReply(message, right ? Message.ACK : Message.NAK, lease, option);
    }
    default:
      // Declined or released: there is no other address to give.
      return undefined;
  }
}

/** The BOOTP request in a frame, if that is what it is. Most frames aren't: it allocates only then. */
function messageOf(frame: Uint8Array, lease: LocalLease): Uint8Array | undefined {
  if (frame.length < ETHERNET + IP_HEADER + UDP_HEADER + VENDOR) return undefined;
  if (get16(frame, ETHERTYPE) !== IPV4) return undefined;
  const version = frame[ETHERNET];
  const header = (version & 0x0f) * 4;
  if (version >>> 4 !== 4 || header < IP_HEADER) return undefined;
  if (frame[ETHERNET + 9] !== UDP) return undefined;
  const total = get16(frame, ETHERNET + 2);
  if (total < header + UDP_HEADER + VENDOR || ETHERNET + total > frame.length) return undefined;
  const udp = ETHERNET + header;
  if (get16(frame, udp) !== CLIENT_PORT || get16(frame, udp + 2) !== SERVER_PORT) return undefined;

  // A fragment, the first one too, is no message.
  if ((get16(frame, ETHERNET + 6) & 0x3fff) !== 0) return undefined;
  if (checksum(frame, ETHERNET, udp) !== 0) return undefined;
  // UDP's own checksum may be left to the device, and there was no wire to damage anything.
  const length = get16(frame, udp + 4);
  if (length < UDP_HEADER + VENDOR || length > total - header) return undefined;
  if (!sameMac(frame, 6, lease.mac) || !isForHost(frame, lease)) return undefined;

  const message = frame.subarray(udp + UDP_HEADER, udp + length);
  if (message[0] !== BOOTREQUEST || message[HTYPE] !== HTYPE_ETHERNET) return undefined;
  if (message[HLEN] !== 6 || !sameMac(message, CHADDR, lease.mac)) return undefined;
  // No relay stands between a guest and this server.
  return get32(message, GIADDR) === 0 ? message : undefined;
}

function isForHost(frame: Uint8Array, { hostMac, hostAddress }: LocalLease): boolean {
  const address = get32(frame, ETHERNET + 16);
  if (address !== BROADCAST && address !== hostAddress) return false;
  if (get32(frame, 0) === BROADCAST && get16(frame, 4) === 0xffff) return true;
  return hostMac === undefined ? (frame[0] & 1) === 0 : sameMac(frame, 0, hostMac);
}

function sameMac(bytes: Uint8Array, at: number, mac: Uint8Array): boolean {
  for (let i = 0; i < 6; i++) if (bytes[at + i] !== mac[i]) return false;
  return true;
}

type Options = (code: number) => Uint8Array | undefined;

/** Looks options up; BOOTP's vendor area has them only behind their cookie. */
function optionsOf(message: Uint8Array): Options {
  if (message.length < OPTIONS || get32(message, VENDOR) !== MAGIC) return () => undefined;
  const fields = {
    options: [OPTIONS, message.length],
    file: [FILE, VENDOR],
    sname: [SNAME, FILE],
  } as const;
  return (code) => {
    const range = findOption(message, code, fields);
    return range === undefined ? undefined : message.subarray(...range);
  };
}

function isAddress(value: Uint8Array, address: number): boolean {
  return value.length === 4 && get32(value, 0) === address;
}

function buildReply(
  request: Uint8Array,
  answer: Answer,
  lease: LocalLease,
  option: Options,
  inform = false,
): Uint8Array {
  const frame = new Uint8Array(LONGEST_REPLY);
  const start = ETHERNET + IP_HEADER + UDP_HEADER;
  const reply = frame.subarray(start);
  const nak = answer === Message.NAK;
  reply.set([BOOTREPLY, HTYPE_ETHERNET, 6]);
  reply.set(request.subarray(XID, XID + 4), XID);
  reply.set(request.subarray(FLAGS, FLAGS + 2), FLAGS);
  reply.set(request.subarray(CHADDR, SNAME), CHADDR);
  const ciaddr = nak || answer === Message.OFFER ? 0 : get32(request, CIADDR);
  put32(reply, CIADDR, ciaddr);
  if (!nak) {
    if (!inform) put32(reply, YIADDR, lease.guestAddress);
    put32(reply, SIADDR, lease.hostAddress);
    // 128 bytes, of which the last is 0.
    encoder.encodeInto(lease.bootFile ?? "", reply.subarray(FILE, VENDOR - 1));
  }
  const room = Math.min(LONGEST_REPLY - start, maximumSize(option) - IP_HEADER - UDP_HEADER);
  const end = Math.max(
    writeOptions(reply.subarray(0, room), answer, lease, option, inform),
    SHORTEST,
  );

  const broadcast = nak || (ciaddr === 0 && (get16(request, FLAGS) & BROADCAST_FLAG) !== 0);
  const to = broadcast ? BROADCAST : ciaddr === 0 ? lease.guestAddress : ciaddr;
  writeHeaders(frame, end, to, lease);
  return frame.subarray(0, start + end);
}

/** How long an IP packet the client takes. */
function maximumSize(option: Options): number {
  const value = option(Option.MAXIMUM_SIZE);
  if (value === undefined || value.length !== 2) return SMALLEST_MAXIMUM;
  return Math.max(SMALLEST_MAXIMUM, get16(value, 0));
}

/** @returns where they end. */
function writeOptions(
  reply: Uint8Array,
  answer: Answer,
  { hostAddress, hostName }: LocalLease,
  option: Options,
  inform: boolean,
): number {
  put32(reply, VENDOR, MAGIC);
  const writer = new OptionWriter(reply, OPTIONS, reply.length);
  if (answer !== 0) {
    writer.add(Option.MESSAGE_TYPE, [answer]);
    writer.add32(Option.SERVER_IDENTIFIER, hostAddress);
    // RFC 6842: whoever named itself is told that it is meant.
    const client = option(Option.CLIENT_IDENTIFIER);
    if (client !== undefined) writer.add(Option.CLIENT_IDENTIFIER, client);
  }
  if (answer === Message.NAK) return writer.end();
  if (answer !== 0 && !inform) writer.add32(Option.LEASE_TIME, FOR_EVER);
  // The mask comes before the routers: RFC 2132 §3.3.
  writer.add32(Option.SUBNET_MASK, MASK);
  writer.add32(Option.ROUTER, hostAddress);
  writer.add32(Option.DOMAIN_NAME_SERVER, hostAddress);
  if (hostName !== undefined) writer.add(Option.HOST_NAME, encoder.encode(hostName));
  return writer.end();
}

/** Ethernet, IPv4 and UDP around a message of `length` bytes. */
function writeHeaders(frame: Uint8Array, length: number, to: number, lease: LocalLease): void {
  if (to === BROADCAST) frame.fill(0xff, 0, 6);
  else frame.set(lease.mac);
  frame.set(lease.hostMac ?? lease.mac, 6);
  // An address of its own, when the host's isn't known: locally administered, as the guest's is.
  if (lease.hostMac === undefined) frame[11] ^= 0xff;
  put16(frame, ETHERTYPE, IPV4);

  const udp = ETHERNET + IP_HEADER;
  const end = udp + UDP_HEADER + length;
  frame[ETHERNET] = 0x45;
  put16(frame, ETHERNET + 2, end - ETHERNET);
  frame[ETHERNET + 8] = TIME_TO_LIVE;
  frame[ETHERNET + 9] = UDP;
  put32(frame, ETHERNET + 12, lease.hostAddress);
  put32(frame, ETHERNET + 16, to);
  put16(frame, ETHERNET + 10, checksum(frame, ETHERNET, udp));

  put16(frame, udp, SERVER_PORT);
  put16(frame, udp + 2, CLIENT_PORT);
  put16(frame, udp + 4, end - udp);
  // The pseudo header: both addresses, the protocol, the length; 0 would mean that there is none.
  const addresses = ~checksum(frame, ETHERNET + 12, udp) & 0xffff;
  const sum = checksum(frame, udp, end, addresses + UDP + end - udp);
  put16(frame, udp + 6, sum === 0 ? 0xffff : sum);
}
