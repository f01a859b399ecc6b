/**
 * An interface whose frames come when it is told, at places that another run has too: no thread moves
 * them, and no host is needed. What the guest sends leaves at once.
 */
import type { Chain } from "../virtio/chain.ts";
import type { NetBackend, NetOffloads } from "../virtio/net.ts";

/** The longest frame with its header, bytes. */
export const FRAME_MAX = 12 + 18 + 65535;
/** Buffers that a frame may take: as in native/vmm.h. */
const MERGE = 64;

/** What a recorded interface leads to. */
export interface FrameHost {
  start(accepted: NetOffloads): void;
  /** Sends a frame with its header, or loses it. */
  send(header: Uint8Array, chain: Chain, skip: number): void;
}

export class FrameQueue implements NetBackend {
  readonly offloads: boolean;
  length = 0;
  buffers = 0;
  readonly #host: FrameHost | undefined;
  readonly #offered: Chain[] = [];
  readonly #frames: Uint8Array[] = [];
  #room = 0;
  #waiting = 0;
  #merge = false;
  #started = false;

  /** @param host of a recording; a replay has none. */
  constructor(offloads: boolean, host?: FrameHost) {
    this.offloads = offloads;
    this.#host = host;
  }

  start(accepted: NetOffloads, merge: boolean): void {
    this.#merge = merge;
    this.#started = true;
    this.#host?.start(accepted);
  }

  settle(): void {}

  stop(): void {
    this.#started = false;
    this.#offered.length = 0;
    this.#frames.length = 0;
    this.#room = 0;
    this.#waiting = 0;
  }

  /** Whether the guest has a driver: frames are lost without. */
  get started(): boolean {
    return this.#started;
  }

  /** Whether one frame more is sure to fit. */
  get hasRoom(): boolean {
    if (this.#frames.length >= this.#offered.length) return false;
    return !this.#merge || this.#room >= this.#waiting + FRAME_MAX;
  }

  /** A frame with its header comes. It is lost where it doesn't fit. */
  deliver(frame: Uint8Array): void {
    if (!this.#started) return;
    this.#frames.push(frame);
    // It takes a buffer at least.
    this.#waiting += Math.max(frame.length, this.#offered[0]?.writableBytes ?? 0);
  }

  get canSend(): boolean {
    return true;
  }

  send(header: Uint8Array, chain: Chain, skip: number): boolean {
    this.#host?.send(header, chain, skip);
    return true;
  }

  offer(chain: Chain): void {
    this.#offered.push(chain);
    this.#room += chain.writableBytes;
  }

  flush(): void {}

  look(): boolean {
    return this.#frames.length > 0;
  }

  sent(): number {
    return 0;
  }

  receive(): boolean {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame === undefined) {
        this.#waiting = 0;
        return false;
      }
      if (this.#fill(frame)) return true;
    }
  }

  #fill(frame: Uint8Array): boolean {
    let count = 0;
    let room = 0;
    const most = this.#merge ? MERGE : 1;
    while (room < frame.length && count < most && count < this.#offered.length) {
      room += this.#offered[count++].writableBytes;
    }
    if (room < frame.length || count === 0) return false;
    for (let i = 0, at = 0; i < count; i++) {
      const chain = this.#offered.shift() as Chain;
      this.#room -= chain.writableBytes;
      at += chain.write(0, frame.subarray(at, at + chain.writableBytes));
    }
    this.length = frame.length;
    this.buffers = count;
    return true;
  }

  filled(): void {}
}
