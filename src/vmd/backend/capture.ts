/**
 * A copy of an interface's frames, as a pcap stream on a socket. Who reads too slowly loses frames,
 * whole ones; the guest doesn't wait.
 */
import { closeSync } from "node:fs";
import type { GuestMemory } from "../../vmm/memory.ts";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { PcapWriter } from "../net/pcap.ts";
import type { Chain } from "../virtio/chain.ts";

/** Bytes that may wait for the reader. */
const WAITING_MAX = 2 ** 22;
const LONGEST = 2 ** 16 + 64;
const EAGAIN = -11;

export class Capture {
  readonly #descriptor: number;
  readonly #writer: PcapWriter;
  readonly #frame = new Uint8Array(LONGEST);
  readonly #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #length = 0;
  #ended = false;

  /** The descriptor doesn't block, and is closed here. */
  constructor(descriptor: number) {
    this.#descriptor = descriptor;
    this.#writer = new PcapWriter((bytes) => {
      this.#waiting.push(bytes.slice());
      this.#waitingBytes += bytes.length;
    });
    this.flush();
  }

  /** The reader is gone. */
  get ended(): boolean {
    return this.#ended;
  }

  /** A frame that the guest sends: what the chain holds from byte `skip` on. */
  sent(chain: Chain, skip: number): void {
    const length = Math.min(chain.readableBytes - skip, LONGEST);
    chain.read(skip, this.#frame.subarray(0, length));
    this.#add(length);
  }

  /**
   * Part of a frame that came: what lies in a buffer.
   * @param skip of its first bytes.
   * @param last nothing more of the frame follows.
   */
  received(memory: GuestMemory, chain: Chain, length: number, skip: number, last: boolean): void {
    if (length > skip) {
      chain.spans(true, skip, length - skip, (address, bytes) => {
        const room = Math.min(bytes, LONGEST - this.#length);
        memory.read(address, this.#frame.subarray(this.#length, this.#length + room));
        this.#length += room;
      });
    }
    if (last) this.#add(this.#length);
  }

  #add(length: number): void {
    this.#length = 0;
    if (this.#ended || this.#waitingBytes > WAITING_MAX) return;
    const now = performance.timeOrigin + performance.now();
    const seconds = Math.floor(now / 1000);
    const nanoseconds = Math.floor((now - seconds * 1000) * 1e6);
    this.#writer.frame(seconds, nanoseconds, this.#frame.subarray(0, length));
  }

  /** Gives the reader what there is. */
  flush(): void {
    if (this.#ended) return;
    this.#writer.flush();
    while (this.#waiting.length > 0) {
      const [bytes] = this.#waiting;
      const written = Number(
        processLibrary().vmm_write(this.#descriptor, ptr(bytes), bytes.length),
      );
      if (written === EAGAIN) return;
      if (written <= 0) {
        this.close();
        return;
      }
      this.#waitingBytes -= written;
      if (written < bytes.length) {
        this.#waiting[0] = bytes.slice(written);
        return;
      }
      this.#waiting.shift();
    }
  }

  close(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#waiting.length = 0;
    closeSync(this.#descriptor);
  }
}
