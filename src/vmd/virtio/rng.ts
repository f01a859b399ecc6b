/** Entropy device: virtio 1.2, § 5.4. */
import type { Chain } from "./chain.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { serve } from "./serve.ts";

/** Fills all of `into` with random bytes. */
export type Random = (into: Uint8Array) => void;

const QUEUE = 64;
/** No more bytes for one chain: § 5.4.6.2 allows less than the buffer holds. */
const CHAIN_MAX = 65_536;

export class Rng implements VirtioDevice {
  readonly type = 4;
  readonly features = [0, 0] as const;
  readonly queueSizes = [QUEUE];
  readonly configSize = 0;
  readonly #transport: VirtioTransport;
  readonly #random: Random;
  // Linux asks for a cache line at a time: no page of entropy for that.
  readonly #small = new Uint8Array(64);
  readonly #large = new Uint8Array(4096);

  constructor(transport: VirtioTransport, random: Random) {
    this.#transport = transport;
    this.#random = random;
  }

  readConfig(): number {
    return 0;
  }

  notify(): void {
    serve(this.#transport, this.#transport.queue(0), this.#answer);
  }

  poll(): void {
    if (this.#transport.queue(0).waiting) this.notify();
  }

  reset(): void {}

  /** A chain without room gets nothing: only the driver is to blame, and only it is harmed. */
  readonly #answer = (chain: Chain): number => {
    const wanted = Math.min(chain.writableBytes, CHAIN_MAX);
    const bytes = wanted > this.#small.length ? this.#large : this.#small;
    let written = 0;
    while (written < wanted) {
      this.#random(bytes);
      written += chain.write(written, bytes);
    }
    return written;
  };
}
