/** A descriptor behind a network interface: a tap, or a socket. */
import { netLibrary, processLibrary, ptr } from "../../vmm/native.ts";
import { NET_SEGMENTS, NetKind, type NetPort } from "../../vmm/net-port.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import type { Capture } from "./capture.ts";
import { Offload, offloadMessage } from "../net/switch.ts";
import type { Chain } from "../virtio/chain.ts";
import type { NetBackend, NetOffloads } from "../virtio/net.ts";

/** Sees each frame that the guest sends, without its virtio header. */
export type Intercept = (frame: Uint8Array) => Uint8Array | undefined;

/** Bytes of the virtio header before each frame. */
const HEADER = 12;
/** Frames that are looked at are no longer: DHCP's. */
const LOOKED_AT = 1514;

export class PortBackend implements NetBackend {
  readonly offloads: boolean;
  readonly #port: NetPort;
  readonly #kind: NetKind;
  readonly #memory: GuestMemory;
  readonly #intercept: Intercept | undefined;
  readonly #frame = new Uint8Array(LOOKED_AT);
  /** Gets a copy of all frames. */
  capture: Capture | undefined;
  #fits = true;
  /** Buffers of the frame that is being received which were not told of yet. */
  #left = 0;
  readonly #addSegment = (_address: number, length: number, host: number) => {
    if (this.#fits) this.#fits = this.#port.addSegment(host, length);
  };
  readonly #noteWritten = (address: number, length: number) => {
    this.#memory.written(address, length);
  };

  /** @param intercept gives an answer to a frame, which then isn't sent. */
  constructor(port: NetPort, kind: NetKind, memory: GuestMemory, intercept?: Intercept) {
    this.#port = port;
    this.#kind = kind;
    this.#memory = memory;
    this.#intercept = intercept;
    this.offloads = kind !== NetKind.STREAM;
  }

  start({ checksum, tso4, tso6 }: NetOffloads, merge: boolean): void {
    this.#offload(
      (checksum ? Offload.CSUM : 0) | (tso4 ? Offload.TSO4 : 0) | (tso6 ? Offload.TSO6 : 0),
    );
    this.#port.start(merge);
  }

  /** Who isn't told gives whole frames. */
  #offload(bits: number): void {
    const { descriptor } = this.#port;
    if (this.#kind === NetKind.TAP) netLibrary().vmm_tap_offload(descriptor, bits);
    if (this.#kind !== NetKind.PACKET) return;
    const message = offloadMessage(bits);
    processLibrary().vmm_write(descriptor, ptr(message), message.length);
  }

  settle(): void {
    this.#port.settle();
  }

  stop(): void {
    this.#port.stop();
  }

  get canSend(): boolean {
    return this.#port.canSend;
  }

  send(header: Uint8Array, chain: Chain, skip: number): boolean {
    this.capture?.sent(chain, HEADER);
    if (this.#intercept !== undefined && this.#answered(this.#intercept, chain)) return true;
    const port = this.#port;
    const length = chain.readableBytes - skip;
    port.prepareSend(header);
    this.#fits = true;
    if (length > 0) chain.spans(false, skip, length, this.#addSegment);
    // No driver cuts a frame into more: it is lost.
    return !this.#fits || port.send(chain.readableBytes);
  }

  #answered(intercept: Intercept, chain: Chain): boolean {
    const length = chain.readableBytes - HEADER;
    if (length > LOOKED_AT) return false;
    const frame = this.#frame.subarray(0, length);
    chain.read(HEADER, frame);
    const answer = intercept(frame);
    if (answer === undefined) return false;
    this.#port.inject(answer);
    return true;
  }

  offer(chain: Chain): void {
    const port = this.#port;
    port.prepareBuffer();
    this.#fits = true;
    // Of a buffer in more pieces, the first are used.
    const count = Math.min(chain.count, chain.readable + NET_SEGMENTS);
    for (let i = chain.readable; i < count; i++)
      this.#addSegment(chain.address[i], chain.length[i], chain.host[i]);
    port.offer();
  }

  flush(): void {
    this.#port.flush();
  }

  look(): boolean {
    return this.#port.look();
  }

  sent(): number {
    return this.#port.sent();
  }

  receive(): boolean {
    if (!this.#port.receive()) return false;
    this.#left = this.#port.buffers;
    return true;
  }

  get length(): number {
    return this.#port.length;
  }

  get buffers(): number {
    return this.#port.buffers;
  }

  filled(chain: Chain, length: number): void {
    const first = this.#left === this.#port.buffers;
    this.#left--;
    const skip = first ? HEADER : 0;
    this.capture?.received(this.#memory, chain, length, skip, this.#left === 0);
    if (this.#memory.observed) chain.spans(true, 0, length, this.#noteWritten);
  }
}
