/**
 * virtio-net: an Ethernet interface. Virtio 1.2, § 5.1. Two queues: receive and transmit; every
 * frame has a header of 12 bytes before it.
 *
 * The device checks what the driver says, and gives frames and buffers to a backend that moves the
 * bytes. What it looks at in a frame it copies first: the driver may change it meanwhile.
 */
import type { Chain } from "./chain.ts";
import type { RateLimit } from "./rate-limit.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import type { Queue } from "./queue.ts";

const CONFIG_SIZE = 12;
/** struct virtio_net_hdr, § 5.1.6. */
const NET_HEADER = 12;
const NUM_BUFFERS = 10;
const ETHERNET_HEADER = 14;
/** Of an Ethernet header. */
const SOURCE = 6;
/** Bytes of a frame with its header: 64 KiB of IP behind an Ethernet header with a VLAN tag. */
const FRAME_MAX = NET_HEADER + 18 + 65535;
const QUEUE_SIZE = 256;
/**
 * Buffers that may wait for frames where these are limited. A long frame takes 17 of a page, and 43 of
 * Linux's smallest (1536 bytes).
 */
const LIMITED_BUFFERS = 48;
const RECEIVE = 0;
const TRANSMIT = 1;

const Feature = {
  CSUM: 0,
  GUEST_CSUM: 1,
  MTU: 3,
  MAC: 5,
  GUEST_TSO4: 7,
  GUEST_TSO6: 8,
  HOST_TSO4: 11,
  HOST_TSO6: 12,
  MRG_RXBUF: 15,
  STATUS: 16,
} as const;

const LINK_UP = 1;
// Header flags and segmentation types, § 5.1.6.
const NEEDS_CSUM = 1;
const GSO_NONE = 0;
const GSO_TCPV4 = 1;
const GSO_TCPV6 = 4;
const GSO_ECN = 0x80;

/** What the driver leaves to the other side, or takes unfinished. */
export interface NetOffloads {
  readonly checksum: boolean;
  readonly tso4: boolean;
  readonly tso6: boolean;
}

/** Who moves frames. */
export interface NetBackend {
  /** Whether it takes and gives frames without checksums, and longer than the link's. */
  readonly offloads: boolean;
  /** @param accepted what the guest takes. @param merge frames may take several buffers. */
  start(accepted: NetOffloads, merge: boolean): void;
  /**
   * Sends what is to be sent, for a while, and then stops: nothing of the guest's is touched any
   * more, and `sent` and `receive` tell what has been done.
   */
  settle(): void;
  /** Forgets frames and buffers: nothing of the guest's is touched any more. */
  stop(): void;
  readonly canSend: boolean;
  /**
   * Sends a frame: `header`, then the chain's device-readable part from byte `skip` on.
   * @returns true if it is gone, false if `sent` will tell; in the order of the calls.
   */
  send(header: Uint8Array, chain: Chain, skip: number): boolean;
  /** A buffer to be filled from the beginning of its device-writable part, in order. */
  offer(chain: Chain): void;
  /** After calls of the two above. */
  flush(): void;
  /** Whether the next calls may have something to tell. */
  look(): boolean;
  /** Frames that are gone since the last call. */
  sent(): number;
  /** The next frame that came: what it is follows. */
  receive(): boolean;
  readonly length: number;
  readonly buffers: number;
  /** So many bytes of a buffer were filled. */
  filled(chain: Chain, length: number): void;
}

export interface NetOptions {
  /** Six bytes. */
  readonly mac: Uint8Array;
  /** Frames from other addresses are dropped. */
  readonly locked: boolean;
  readonly mtu?: number;
}

export class Net implements VirtioDevice {
  readonly type = 1;
  readonly features: readonly [number, number];
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE];
  readonly configSize = CONFIG_SIZE;
  readonly #transport: VirtioTransport;
  readonly #backend: NetBackend;
  readonly #locked: boolean;
  readonly #config = new Uint8Array(CONFIG_SIZE);
  /** What was offered to the backend and not filled, and what is on its way: in order. */
  readonly #buffers: Chain[] = [];
  readonly #frames: Chain[] = [];
  readonly #head = new Uint8Array(NET_HEADER + ETHERNET_HEADER);
  readonly #header = this.#head.subarray(0, NET_HEADER);
  readonly #view = new DataView(this.#head.buffer);
  readonly #two = new Uint8Array(2);
  #started = false;
  /** Frames were left in the queue. */
  #more = false;

  /** Set once, before the device is used: how much it sends, and how much it receives. */
  limits: { send: RateLimit; receive: RateLimit } | undefined;

  constructor(transport: VirtioTransport, backend: NetBackend, { mac, locked, mtu }: NetOptions) {
    this.#transport = transport;
    this.#backend = backend;
    this.#locked = locked;
    this.#config.set(mac.subarray(0, 6));
    this.#config[6] = LINK_UP;
    let features = (1 << Feature.MAC) | (1 << Feature.STATUS) | (1 << Feature.MRG_RXBUF);
    if (mtu !== undefined) {
      features |= 1 << Feature.MTU;
      new DataView(this.#config.buffer).setUint16(10, mtu, true);
    }
    if (backend.offloads) {
      const { CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6 } = Feature;
      for (const bit of [CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6]) {
        features |= 1 << bit;
      }
    }
    this.features = [features >>> 0, 0];
  }

  /** There is room again under a limit. */
  resume(): void {
    if (!this.#started || !this.#transport.live) return;
    this.#takeBuffers(this.#transport.queue(RECEIVE));
    this.#transmit(this.#transport.queue(TRANSMIT));
  }

  reset(): void {
    this.limits?.send.reset();
    this.limits?.receive.reset();
    if (this.#started) this.#backend.stop();
    this.#started = false;
    this.#more = false;
    this.#buffers.length = 0;
    this.#frames.length = 0;
  }

  quiesce(): undefined {
    if (!this.#started) return undefined;
    this.#backend.settle();
    this.#completeSends();
    this.#completeReceives(false);
    // § 5.1.6.2: frames may be lost, where the host took none for that long.
    const transmit = this.#transport.queue(TRANSMIT);
    for (const chain of this.#frames.splice(0)) transmit.push(chain, 0);
    this.#transport.notifyUsed(transmit);
    // Buffers are filled in order: those that are not were the last that were taken.
    const receive = this.#transport.queue(RECEIVE);
    while (this.#buffers.length > 0) receive.putBack(this.#buffers.pop() as Chain);
    this.#backend.stop();
    this.#started = false;
    return undefined;
  }

  proceed(): void {
    this.start();
  }

  start(): void {
    const has = (bit: number) => this.#transport.negotiated(bit);
    // § 5.1.3.1: segments need checksums.
    const checksum = has(Feature.GUEST_CSUM);
    this.#backend.start(
      {
        checksum,
        tso4: checksum && has(Feature.GUEST_TSO4),
        tso6: checksum && has(Feature.GUEST_TSO6),
      },
      has(Feature.MRG_RXBUF),
    );
    this.#started = true;
    // Buffers may lie there already.
    this.#takeBuffers(this.#transport.queue(RECEIVE));
  }

  readConfig(offset: number): number {
    return this.#config[offset];
  }

  notify(index: number): void {
    const queue = this.#transport.queue(index);
    if (index === RECEIVE) this.#takeBuffers(queue);
    else this.#transmit(queue);
    this.poll();
  }

  poll(): void {
    if (!this.#started) return;
    if (this.#backend.look()) {
      this.#completeSends();
      this.#completeReceives();
    }
    if (this.#more) this.#transmit(this.#transport.queue(TRANSMIT));
  }

  // --- receiving

  #takeBuffers(queue: Queue): void {
    const backend = this.#backend;
    let any = false;
    // The backend has room for as many as the queue.
    const receive = this.limits?.receive;
    // What has been offered is filled all the same: with a limit it is little.
    const most = receive === undefined ? QUEUE_SIZE : LIMITED_BUFFERS;
    while (this.#buffers.length < most) {
      if (receive !== undefined && !receive.isOpen) break;
      const chain = queue.pop();
      if (chain === undefined) break;
      if (chain.writableBytes < NET_HEADER) {
        queue.fail("a receive buffer has no room for a header");
        return;
      }
      this.#buffers.push(chain);
      backend.offer(chain);
      any = true;
    }
    queue.wantNotifications(true);
    if (any) backend.flush();
  }

  #completeReceives(offer = true): void {
    const backend = this.#backend;
    const queue = this.#transport.queue(RECEIVE);
    let any = false;
    while (backend.receive()) {
      this.limits?.receive.charge(backend.length);
      this.#received(queue, backend.length, backend.buffers);
      any = true;
    }
    if (!any) return;
    if (offer) this.#takeBuffers(queue);
    this.#transport.notifyUsed(queue);
  }

  /** A frame lies in the first `count` buffers. */
  #received(queue: Queue, length: number, count: number): void {
    const [first] = this.#buffers;
    // § 5.1.6.4.1: 1 without MRG_RXBUF, too.
    this.#two[0] = count;
    first.write(NUM_BUFFERS, this.#two);
    let left = length;
    for (let i = 0; i < count; i++) {
      const chain = this.#buffers.shift() as Chain;
      const part = Math.min(left, chain.writableBytes);
      this.#backend.filled(chain, part);
      queue.fill(chain, part, i);
      left -= part;
    }
    queue.publish(count);
  }

  // --- sending

  #transmit(queue: Queue): void {
    const backend = this.#backend;
    let any = false;
    let gone = false;
    let limited = false;
    // What is given back may lie where the driver's ring is, and make chains available endlessly.
    let left = QUEUE_SIZE;
    const send = this.limits?.send;
    do {
      queue.wantNotifications(false);
      for (; left > 0 && backend.canSend; left--) {
        if (send !== undefined && !send.isOpen) {
          // It tells when there is room again.
          limited = true;
          left = 0;
          break;
        }
        const chain = queue.pop();
        if (chain === undefined) break;
        if (chain.readableBytes < NET_HEADER) {
          queue.fail("a frame without a header");
          return;
        }
        send?.charge(chain.readableBytes);
        // What was checked is what is sent.
        const head = this.#locked ? this.#head : this.#header;
        if (!this.#admit(chain) || backend.send(head, chain, head.length)) {
          // § 5.1.6.2: frames may be lost. Those before it may still be on their way.
          queue.push(chain, 0);
          gone = true;
          continue;
        }
        this.#frames.push(chain);
        any = true;
      }
      queue.wantNotifications(true);
    } while (left > 0 && queue.waiting && backend.canSend);
    this.#more = queue.waiting && !limited;
    if (any) backend.flush();
    if (gone) this.#transport.notifyUsed(queue);
  }

  /** Copies the headers, and puts the virtio header in order. Whether the frame may be sent. */
  #admit(chain: Chain): boolean {
    const { readableBytes } = chain;
    if (readableBytes < NET_HEADER + ETHERNET_HEADER || readableBytes > FRAME_MAX) return false;
    chain.read(0, this.#head);
    const view = this.#view;
    view.setUint16(NUM_BUFFERS, 0, true);
    if (this.#locked) {
      for (let i = 0; i < 6; i++) {
        if (this.#head[NET_HEADER + SOURCE + i] !== this.#config[i]) return false;
      }
    }
    const has = (bit: number) => this.#transport.negotiated(bit);
    if (!has(Feature.CSUM)) {
      this.#head.fill(0, 0, NUM_BUFFERS);
      return true;
    }
    // § 5.1.6.2.1: flags and types that were not negotiated mean nothing.
    const flags = this.#head[0] & NEEDS_CSUM;
    const type = this.#head[1] & ~GSO_ECN;
    this.#head[0] = flags;
    this.#head[1] = type;
    if (type === GSO_NONE) {
      view.setUint16(4, 0, true);
    } else {
      const offered =
        (type === GSO_TCPV4 && has(Feature.HOST_TSO4)) ||
        (type === GSO_TCPV6 && has(Feature.HOST_TSO6));
      if (!offered || flags === 0 || view.getUint16(4, true) === 0) return false;
    }
    if (flags === 0) {
      view.setUint32(6, 0, true);
      return true;
    }
    // The checksum's place lies in the frame.
    const end = view.getUint16(6, true) + view.getUint16(8, true) + 2;
    return end <= readableBytes - NET_HEADER;
  }

  #completeSends(): void {
    const count = this.#backend.sent();
    const queue = this.#transport.queue(TRANSMIT);
    for (let i = 0; i < count; i++) queue.push(this.#frames.shift() as Chain, 0);
    if (count > 0) this.#transport.notifyUsed(queue);
  }
}
