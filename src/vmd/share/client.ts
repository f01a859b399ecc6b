/** A share, as the VM's process has it: what its 9P device sends requests to. */
import type { NinePBackend } from "../virtio/9p.ts";
import { MSIZE_MAX } from "./messages.ts";
import { MessageStream } from "./stream.ts";

/** Replies that are given in one go: the guest waits for no more than these. */
const AT_ONCE = 64;

/**
 * Whoever has it watches its descriptor: for input, and while there is a `backlog` for room. Then,
 * the device is polled.
 */
export class ShareClient implements NinePBackend {
  readonly #stream: MessageStream;

  /** @param descriptor the one of ShareHost; it stays the caller's */
  constructor(descriptor: number) {
    this.#stream = new MessageStream(descriptor);
  }

  get descriptor(): number {
    return this.#stream.descriptor;
  }

  /** Bytes that wait for room in the socket. */
  get backlog(): number {
    return this.#stream.backlog;
  }

  // The process may be busy: not all that guests can send is kept for it.
  get ready(): boolean {
    return this.#stream.backlog < MSIZE_MAX;
  }

  get gone(): boolean {
    return this.#stream.ended;
  }

  send(request: Uint8Array): void {
    this.#stream.send(request);
  }

  receive(take: (reply: Uint8Array) => void): boolean {
    this.#stream.flush();
    for (let i = 0; i < AT_ONCE; i++) {
      const reply = this.#stream.next();
      if (reply === undefined) return false;
      take(reply);
    }
    return true;
  }
}
