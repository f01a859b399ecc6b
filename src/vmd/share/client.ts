/** A share, as the VM's process has it: what its 9P device sends requests to. */
import { pollInput } from "../channel.ts";
import type { NinePBackend } from "../virtio/9p.ts";
import { MSIZE_MAX } from "./messages.ts";
import { MessageStream } from "./stream.ts";

/** Replies that are given in one go: the guest waits for no more than these. */
const AT_ONCE = 64;
/** ms. */
const WAIT = 20;

/**
 * Whoever has it watches its descriptor: for input, and while there is a `backlog` for room. Then,
 * the device is polled.
 */
export class ShareClient implements NinePBackend {
  readonly #stream: MessageStream;
  /** Requests without an answer, and those of them that a machine of before sent. */
  #outstanding = 0;
  #stale = 0;

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
    this.#outstanding++;
    this.#stream.send(request);
  }

  /**
   * A machine begins, and knows nothing of what the one before asked for: the answers to that, which
   * come first, are nobody's. The guest's first message ends the session before.
   */
  begin(): void {
    this.#stale = this.#outstanding;
  }

  wait(): void {
    pollInput(this.#stream.descriptor, WAIT);
  }

  receive(take: (reply: Uint8Array) => void): boolean {
    this.#stream.flush();
    for (let i = 0; i < AT_ONCE; i++) {
      const reply = this.#stream.next();
      if (reply === undefined) return false;
      this.#outstanding--;
      if (this.#stale === 0) take(reply);
      else this.#stale--;
    }
    return true;
  }
}
