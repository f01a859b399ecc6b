/**
 * virtio-rng: random bytes. Virtio 1.2, § 5.4. One queue of buffers that the device fills.
 *
 * vmd ends a VM whose driver asks for more than 64 KiB at once; here it gets 64 KiB, which
 * § 5.4.6.2 allows (one byte or more).
 */
import type { VirtioDevice, VirtioTransport } from "./device.ts";

export const RNG_TYPE = 4;
const QUEUE_SIZE = 64;
/** Bytes given to one request. */
const REQUEST_MAX = 65536;
const PIECE = 4096;

export class Rng implements VirtioDevice {
  readonly type = RNG_TYPE;
  readonly features: readonly [number, number] = [0, 0];
  readonly queueSizes = [QUEUE_SIZE];
  readonly configSize = 0;
  readonly #transport: VirtioTransport;
  readonly #random: (into: Uint8Array) => void;
  readonly #bytes = new Uint8Array(PIECE);

  /** @param random fills an array. */
  constructor(transport: VirtioTransport, random: (into: Uint8Array) => void) {
    this.#transport = transport;
    this.#random = random;
  }

  reset(): void {}

  readConfig(): number {
    return 0;
  }

  notify(): void {
    const queue = this.#transport.queue(0);
    // As many as there can be: the driver is let go on then.
    for (let i = 0; i < QUEUE_SIZE; i++) {
      const chain = queue.pop();
      if (chain === undefined) break;
      const length = Math.min(chain.writableBytes, REQUEST_MAX);
      for (let done = 0; done < length;) {
        const piece = this.#bytes.subarray(0, Math.min(PIECE, length - done));
        this.#random(piece);
        done += chain.write(done, piece);
      }
      queue.push(chain, length);
    }
    queue.wantNotifications(true);
    this.#transport.notifyUsed(queue);
  }
}
