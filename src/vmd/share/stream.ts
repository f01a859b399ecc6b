/**
 * 9P messages on a stream socket that doesn't block: each tells its own length. Both ends use it: a
 * share's process, and the VM's.
 */
import { processLibrary, ptr } from "../../vmm/native.ts";
import { HEADER, MSIZE_MAX } from "./messages.ts";

const EAGAIN = -11;
const EINTR = -4;

export class MessageStream {
  readonly descriptor: number;
  readonly #buffer = new Uint8Array(MSIZE_MAX);
  readonly #view = new DataView(this.#buffer.buffer);
  /** What of the buffer is not taken yet. */
  #start = 0;
  #end = 0;
  readonly #waiting: Uint8Array[] = [];
  /** Bytes that wait for room. */
  backlog = 0;
  /** The other end is gone, or sends what is no message. */
  ended = false;

  /** @param descriptor stays the caller's */
  constructor(descriptor: number) {
    this.descriptor = descriptor;
  }

  /** The next message, which is there until the next call; undefined: none now, or ever. */
  next(): Uint8Array | undefined {
    for (;;) {
      const have = this.#end - this.#start;
      const length = have < 4 ? HEADER : this.#view.getUint32(this.#start, true);
      if (length < HEADER || length > MSIZE_MAX) {
        this.ended = true;
        return undefined;
      }
      if (have >= length) {
        const at = this.#start;
        this.#start += length;
        return this.#buffer.subarray(at, at + length);
      }
      if (!this.#receive(length)) return undefined;
    }
  }

  // Some more of a message of `length` bytes, which fits when it is at the beginning.
  #receive(length: number): boolean {
    if (this.ended) return false;
    if (this.#start + length > MSIZE_MAX || this.#start === this.#end) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    const { vmm_receive: receive } = processLibrary();
    const room = this.#buffer.subarray(this.#end);
    const got = Number(receive(this.descriptor, ptr(room), room.length, null, 0));
    if (got === EAGAIN || got === EINTR) return false;
    if (got <= 0) this.ended = true;
    else this.#end += got;
    return got > 0;
  }

  /** Sends a message, or keeps a copy of what has no room yet. */
  send(message: Uint8Array): void {
    if (this.ended) return;
    const sent = this.#waiting.length > 0 ? 0 : this.#write(message);
    if (sent === message.length || this.ended) return;
    this.#waiting.push(message.slice(sent));
    this.backlog += message.length - sent;
  }

  /** Sends what waits, if there is room. */
  flush(): void {
    while (this.#waiting.length > 0 && !this.ended) {
      const [first] = this.#waiting;
      const sent = this.#write(first);
      this.backlog -= sent;
      if (sent < first.length) {
        this.#waiting[0] = first.subarray(sent);
        return;
      }
      this.#waiting.shift();
    }
  }

  #write(bytes: Uint8Array): number {
    const { vmm_send: send } = processLibrary();
    const sent = Number(send(this.descriptor, ptr(bytes), bytes.length, null, 0));
    if (sent >= 0) return sent;
    if (sent !== EAGAIN && sent !== EINTR) this.ended = true;
    return 0;
  }
}
