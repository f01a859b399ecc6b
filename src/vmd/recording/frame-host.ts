/** A descriptor behind a recorded interface: a tap, or a socket. Nothing is done but when asked for. */
import { netLibrary, processLibrary, ptr } from "../../vmm/native.ts";
import { NetKind } from "../../vmm/net-port.ts";
import type { Intercept } from "../backend/net.ts";
import { Offload, offloadMessage } from "../net/switch.ts";
import type { Chain } from "../virtio/chain.ts";
import type { NetOffloads } from "../virtio/net.ts";
import { FRAME_MAX, type FrameHost } from "./frame-queue.ts";

const HEADER = 12;
/** Of a stream: the length of the frame that follows. */
const PREFIX = 4;
/** Bytes of a stream that wait for room; then frames are lost. */
const BACKLOG = 2 ** 20;

export class DescriptorFrames implements FrameHost {
  readonly #descriptor: number;
  readonly #kind: NetKind;
  readonly #intercept: Intercept | undefined;
  readonly #answered: () => void;
  readonly #answers: Uint8Array[] = [];
  /** What was read and not taken: a stream's. */
  #read = new Uint8Array(PREFIX + FRAME_MAX);
  #have = 0;
  #unsent = new Uint8Array(0);

  /**
   * @param intercept gives an answer to a frame, which then isn't sent
   * @param answered told when `receive` has such an answer
   */
  constructor(
    descriptor: number,
    kind: NetKind,
    intercept: Intercept | undefined,
    answered: () => void,
  ) {
    this.#descriptor = descriptor;
    this.#kind = kind;
    this.#intercept = intercept;
    this.#answered = answered;
  }

  get offloads(): boolean {
    return this.#kind !== NetKind.STREAM;
  }

  start({ checksum, tso4, tso6 }: NetOffloads): void {
    const { CSUM, TSO4, TSO6 } = Offload;
    const bits = (checksum ? CSUM : 0) | (tso4 ? TSO4 : 0) | (tso6 ? TSO6 : 0);
    if (this.#kind === NetKind.TAP) netLibrary().vmm_tap_offload(this.#descriptor, bits);
    if (this.#kind === NetKind.PACKET) this.#write(offloadMessage(bits));
  }

  send(header: Uint8Array, chain: Chain, skip: number): void {
    const bytes = new Uint8Array(chain.readableBytes);
    bytes.set(header.subarray(0, skip));
    chain.read(skip, bytes.subarray(skip));
    const frame = bytes.subarray(HEADER);
    const answer = this.#intercept?.(frame);
    if (answer !== undefined) {
      this.#answers.push(withHeader(answer));
      this.#answered();
    } else if (this.#kind === NetKind.STREAM) {
      this.#sendStream(frame);
    } else this.#write(bytes);
  }

  /** The next frame that came, with its header; undefined when there is none. */
  receive(): Uint8Array | undefined {
    const answer = this.#answers.shift();
    if (answer !== undefined) return answer;
    if (this.#kind === NetKind.STREAM) return this.#receiveStream();
    for (;;) {
      const length = this.#readInto(0);
      if (length <= 0) return undefined;
      if (length > HEADER) return this.#read.slice(0, length);
    }
  }

  #receiveStream(): Uint8Array | undefined {
    this.#drain();
    for (;;) {
      if (this.#have >= PREFIX) {
        const length = new DataView(this.#read.buffer).getUint32(0);
        // Who says that is no peer to listen to.
        if (length > FRAME_MAX - HEADER) this.#have = 0;
        else if (this.#have >= PREFIX + length) {
          const frame = withHeader(this.#read.subarray(PREFIX, PREFIX + length));
          this.#read.copyWithin(0, PREFIX + length, this.#have);
          this.#have -= PREFIX + length;
          return frame;
        }
      }
      const length = this.#readInto(this.#have);
      if (length <= 0) return undefined;
      this.#have += length;
    }
  }

  #sendStream(frame: Uint8Array): void {
    this.#drain();
    if (this.#unsent.length > BACKLOG) return;
    const bytes = new Uint8Array(this.#unsent.length + PREFIX + frame.length);
    bytes.set(this.#unsent);
    new DataView(bytes.buffer).setUint32(this.#unsent.length, frame.length);
    bytes.set(frame, this.#unsent.length + PREFIX);
    this.#unsent = bytes;
    this.#drain();
  }

  #drain(): void {
    while (this.#unsent.length > 0) {
      const written = this.#write(this.#unsent);
      if (written <= 0) return;
      this.#unsent = this.#unsent.subarray(written);
    }
  }

  #readInto(at: number): number {
    const into = this.#read.subarray(at);
    return Number(processLibrary().vmm_read(this.#descriptor, ptr(into), into.length));
  }

  #write(bytes: Uint8Array): number {
    return Number(processLibrary().vmm_write(this.#descriptor, ptr(bytes), bytes.length));
  }
}

function withHeader(frame: Uint8Array): Uint8Array {
  const whole = new Uint8Array(HEADER + frame.length);
  whole.set(frame, HEADER);
  return whole;
}
