/**
 * A switch between VMs that needs no root: native/switch.c in this process. Its ports are
 * SOCK_SEQPACKET sockets, on which a message is a virtio network header of 12 bytes and a frame.
 */
import { check, NativeError, netLibrary, type Pointer, ptr } from "../../vmm/native.ts";

/** What a receiver takes: bits of TUNSETOFFLOAD, enum net_offload. */
export const Offload = {
  /** Checksums that are still to be completed. */
  CSUM: 1,
  /** TCP segments that are still to be cut. */
  TSO4: 2,
  TSO6: 4,
} as const;

/** The virtio header's bytes. */
export const NET_HEADER = 12;
/** The longest message of a port. */
export const LONGEST_PACKET = NET_HEADER + 14 + 4 + 65_535;
/** IEEE 802.1D table 7-5: how long a station is remembered that says nothing, ms. */
const AGEING = 300_000;
const MTU = 1500;

/** Packets and bytes of a port, as the switch sees them. */
export interface PortCounts {
  received: number;
  receivedBytes: number;
  sent: number;
  sentBytes: number;
  /** Its receiver was full. */
  dropped: number;
  /** What it sent was no packet, or from an address that isn't its. */
  refused: number;
}

export interface SwitchOptions {
  /** A descriptor whose input ends a run. */
  control?: number;
  /** Default: 1500. */
  mtu?: number;
  /** ms. Default: 5 minutes. */
  ageing?: number;
}

/** Why a run came to its end. */
export interface SwitchEvents {
  control: boolean;
  /** A port's other end is gone: see ended(). */
  ended: boolean;
}

export class Switch implements Disposable {
  #handle: Pointer | null;

  /** @throws NativeError when there is no memory, or no descriptor */
  constructor({ control = -1, mtu = MTU, ageing = AGEING }: SwitchOptions = {}) {
    this.#handle = netLibrary().vmm_switch_open(control, mtu, ageing) as Pointer | null;
    if (this.#handle === null) throw new NativeError("a switch", -12);
  }

  /** A port's two ends: one for the switch, one for a VM. @throws NativeError */
  static pair(): [number, number] {
    const pair = new Int32Array(2);
    check("a pair of sockets", netLibrary().vmm_switch_pair(ptr(pair)));
    return [pair[0], pair[1]];
  }

  /**
   * Adds a port; the descriptor is the switch's then.
   * @param locked the only address that it may send from, which no other port may.
   * @returns the port's number.
   * @throws NativeError: EEXIST when the address is another's, ENOSPC when there is no room.
   */
  add(descriptor: number, locked?: Uint8Array): number {
    const address = locked === undefined ? null : ptr(locked);
    return check("a port", netLibrary().vmm_switch_add(this.#handle, descriptor, address));
  }

  /** @throws NativeError when there is no such port */
  remove(port: number): void {
    check("a port", netLibrary().vmm_switch_remove(this.#handle, port));
  }

  /** Forwards until something is to be looked at, or until nothing came for `timeout` ms; −1: for ever. */
  run(timeout = -1): SwitchEvents {
    const events = check("a switch", netLibrary().vmm_switch_run(this.#handle, timeout));
    return { control: (events & 1) !== 0, ended: (events & 2) !== 0 };
  }

  /** A port whose other end is gone; it is to be removed. */
  ended(): number | undefined {
    const port = netLibrary().vmm_switch_ended(this.#handle);
    return port < 0 ? undefined : port;
  }

  /** @throws NativeError when there is no such port */
  counts(port: number): PortCounts {
    const counts = new BigUint64Array(6);
    check("a port", netLibrary().vmm_switch_counts(this.#handle, port, ptr(counts)));
    const [received, receivedBytes, sent, sentBytes, dropped, refused] = [...counts].map(Number);
    return { received, receivedBytes, sent, sentBytes, dropped, refused };
  }

  [Symbol.dispose](): void {
    if (this.#handle !== null) netLibrary().vmm_switch_close(this.#handle);
    this.#handle = null;
  }
}

/** The message with which a port's user says what it takes: bits of Offload. */
export function offloadMessage(offloads: number): Uint8Array {
  return Uint8Array.of(offloads, 0, 0, 0);
}

/**
 * Checks a packet that a guest has written, and puts its virtio header in order.
 * @returns false for one that is to be dropped.
 */
export function checkPacket(packet: Uint8Array, mtu = MTU): boolean {
  if (packet.length < NET_HEADER) return false;
  return netLibrary().vmm_net_check(ptr(packet), packet.length, mtu) === 0;
}

/** A packet as a receiver without offloads gets it: checked, completed, cut. Empty: dropped. */
export function completePacket(packet: Uint8Array, mtu = MTU): Uint8Array[] {
  if (packet.length < NET_HEADER) return [];
  const copy = packet.slice();
  const out = new Uint8Array(4 * LONGEST_PACKET);
  const { vmm_net_complete } = netLibrary();
  const length = Number(vmm_net_complete(ptr(copy), copy.length, mtu, ptr(out), out.length));
  const view = new DataView(out.buffer);
  const packets: Uint8Array[] = [];
  for (let at = 0; at < length;) {
    const size = view.getUint32(at, true);
    packets.push(out.slice(at + 4, at + 4 + size));
    at += 4 + size;
  }
  return packets;
}
