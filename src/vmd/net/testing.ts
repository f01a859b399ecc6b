/** Frames made by hand. For tests. */
import { checksum, put16, put32 } from "./ipv4.ts";

/** Bytes of "fe:e1:bb:d1:00:01". */
export function mac(text: string): Uint8Array {
  return Uint8Array.fromHex(text.replaceAll(":", ""));
}

export const BROADCAST_MAC = mac("ff:ff:ff:ff:ff:ff");

/** An Ethernet frame. */
export function ethernet(
  to: Uint8Array,
  from: Uint8Array,
  type: number,
  payload: Uint8Array,
): Uint8Array {
  const frame = new Uint8Array(14 + payload.length);
  frame.set(to);
  frame.set(from, 6);
  put16(frame, 12, type);
  frame.set(payload, 14);
  return frame;
}

export interface Packet {
  from: number;
  to: number;
  /** 6: TCP, 17: UDP. */
  protocol: number;
  payload: Uint8Array;
}

/** An IPv4 packet. */
export function ipv4({ from, to, protocol, payload }: Packet): Uint8Array {
  const packet = new Uint8Array(20 + payload.length);
  packet[0] = 0x45;
  put16(packet, 2, packet.length);
  packet[8] = 64;
  packet[9] = protocol;
  put32(packet, 12, from);
  put32(packet, 16, to);
  put16(packet, 10, checksum(packet, 0, 20));
  packet.set(payload, 20);
  return packet;
}

/** A UDP datagram without a checksum. */
export function udp(from: number, to: number, payload: Uint8Array): Uint8Array {
  const datagram = new Uint8Array(8 + payload.length);
  put16(datagram, 0, from);
  put16(datagram, 2, to);
  put16(datagram, 4, datagram.length);
  datagram.set(payload, 8);
  return datagram;
}

/** A BOOTP request; with options it is a DHCP message. */
export interface Request {
  mac: Uint8Array;
  xid?: number;
  flags?: number;
  ciaddr?: number;
  giaddr?: number;
  /** Code, then bytes; absent: no cookie either. */
  options?: readonly (readonly [number, readonly number[]])[];
  /** Bytes behind the fixed fields when there are no options. */
  padding?: number;
}

export function bootRequest(request: Request): Uint8Array {
  const { options, padding = 64 } = request;
  const bytes = (options ?? []).flatMap(([code, value]) => [code, value.length, ...value]);
  const length = options === undefined ? 236 + padding : 240 + bytes.length + 1;
  const message = new Uint8Array(length);
  message.set([1, 1, 6, 0]);
  put32(message, 4, request.xid ?? 0x12345678);
  put16(message, 10, request.flags ?? 0);
  put32(message, 12, request.ciaddr ?? 0);
  put32(message, 24, request.giaddr ?? 0);
  message.set(request.mac, 28);
  if (options !== undefined) {
    message.set([0x63, 0x82, 0x53, 0x63, ...bytes, 255], 236);
  }
  return message;
}

/** A message as a guest broadcasts it. */
export function bootFrame(request: Request): Uint8Array {
  const payload = udp(68, 67, bootRequest(request));
  const packet = ipv4({ from: request.ciaddr ?? 0, to: 0xffffffff, protocol: 17, payload });
  return ethernet(BROADCAST_MAC, request.mac, 0x0800, packet);
}

/** A packet with TCP in it as a guest with offloads sends it: behind a virtio header. */
export function tcpPacket(of: {
  to: Uint8Array;
  from: Uint8Array;
  /** Bytes of TCP's payload. */
  payload: number;
  /** Where it is to be cut; absent: nowhere. */
  segment?: number;
  v6?: boolean;
  vlan?: boolean;
  /** TCP's flags. Default: ACK and PSH. */
  flags?: number;
}): Uint8Array {
  const { to, from, payload, segment = 0, v6 = false, vlan = false, flags = 0x18 } = of;
  const tcp = new Uint8Array(20 + payload);
  put16(tcp, 0, 1234);
  put16(tcp, 2, 80);
  put32(tcp, 4, 0xfffffff0);
  tcp[12] = 5 << 4;
  tcp[13] = flags;
  for (let i = 0; i < payload; i++) tcp[20 + i] = i % 251;
  const network = v6
    ? ipv6(tcp)
    : ipv4({ from: 0x0a000001, to: 0x0a000002, protocol: 6, payload: tcp });
  // The pseudo header's sum is left in the checksum's place.
  const addresses = v6 ? network.subarray(8, 40) : network.subarray(12, 20);
  const sum = ~checksum(addresses, 0, addresses.length, 6 + tcp.length) & 0xffff;
  const start = network.length - tcp.length;
  put16(network, start + 16, sum);
  const tag = Uint8Array.of(0, 5, v6 ? 0x86 : 0x08, v6 ? 0xdd : 0x00);
  const frame = vlan
    ? ethernet(to, from, 0x8100, new Uint8Array(Buffer.concat([tag, network])))
    : ethernet(to, from, v6 ? 0x86dd : 0x0800, network);
  const packet = new Uint8Array(12 + frame.length);
  const header = new DataView(packet.buffer);
  packet[0] = 1;
  packet[1] = segment === 0 ? 0 : v6 ? 4 : 1;
  header.setUint16(4, segment, true);
  header.setUint16(6, frame.length - tcp.length, true);
  header.setUint16(2, segment === 0 ? 0 : frame.length - payload, true);
  header.setUint16(8, 16, true);
  header.setUint16(10, 1, true);
  packet.set(frame, 12);
  return packet;
}

function ipv6(payload: Uint8Array): Uint8Array {
  const packet = new Uint8Array(40 + payload.length);
  packet[0] = 0x60;
  put16(packet, 4, payload.length);
  packet[6] = 6;
  packet[7] = 64;
  packet[8] = 0xfd;
  packet[23] = 1;
  packet[24] = 0xfd;
  packet[39] = 2;
  packet.set(payload, 40);
  return packet;
}

/** An ARP packet for IPv4: RFC 826. */
export function arp(of: {
  operation: 1 | 2;
  mac: Uint8Array;
  address: number;
  targetMac?: Uint8Array;
  target: number;
}): Uint8Array {
  const packet = new Uint8Array(28);
  packet.set([0, 1, 8, 0, 6, 4, 0, of.operation]);
  packet.set(of.mac, 8);
  put32(packet, 14, of.address);
  if (of.targetMac !== undefined) packet.set(of.targetMac, 18);
  put32(packet, 24, of.target);
  return packet;
}
