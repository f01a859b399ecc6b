/**
 * Messages between vmd's processes: one JSON text a message, with descriptors, on a SOCK_SEQPACKET
 * socket. Nothing here waits, unless asked to.
 */
import { closeSync } from "node:fs";
import { NativeError, processLibrary, ptr, socketPair } from "../vmm/native.ts";

/** The longest message, bytes; the kernel's send buffer holds several. */
const LONGEST = 64 * 1024;
const MAX_DESCRIPTORS = 64;
const EAGAIN = -11;
const EMSGSIZE = -90;
const EPIPE = -32;
const ECONNRESET = -104;

/** A message as it came. */
export interface Received {
  text: string;
  /** Theirs who takes the message, to close. */
  descriptors: number[];
}

const buffer = new Uint8Array(LONGEST);
const descriptorBuffer = new Int32Array(MAX_DESCRIPTORS);
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Sleeps until a descriptor has input, for at most `timeout` ms; −1: for ever. */
export function pollInput(descriptor: number, timeout: number): void {
  pollInputs([descriptor], timeout);
}

/** ... until one of some has. */
export function pollInputs(descriptors: readonly number[], timeout: number): void {
  const events = new Int32Array(descriptors.length).fill(1);
  processLibrary().vmm_poll(ptr(Int32Array.from(descriptors)), ptr(events), events.length, timeout);
}

/** One end of a socket pair. */
export class Channel implements Disposable {
  readonly descriptor: number;
  readonly #waiting: { bytes: Uint8Array; descriptors: readonly number[] }[] = [];
  #open = true;

  constructor(descriptor: number) {
    this.descriptor = descriptor;
  }

  /** Two connected descriptors, of a channel or, with `stream`, of plain bytes. @throws NativeError */
  static pair(stream = false): [number, number] {
    return socketPair(stream);
  }

  /**
   * Sends a message, or keeps it until there is room (see flush). The descriptors are closed here
   * once they are sent.
   * @returns false when the other end is gone.
   */
  send(message: object, descriptors: readonly number[] = []): boolean {
    const bytes = encoder.encode(JSON.stringify(message));
    if (bytes.length > LONGEST) {
      closeAll(descriptors);
      throw new RangeError(`a message of ${bytes.length} bytes is too long`);
    }
    this.#waiting.push({ bytes, descriptors });
    return this.flush();
  }

  /** Sends what waits. @returns false when the other end is gone. */
  flush(): boolean {
    while (this.#waiting.length > 0) {
      const { bytes, descriptors } = this.#waiting[0];
      descriptorBuffer.set(descriptors);
      const sent = processLibrary().vmm_send(
        this.descriptor,
        ptr(bytes),
        bytes.length,
        ptr(descriptorBuffer),
        descriptors.length,
      );
      if (sent === EAGAIN) return true;
      this.#waiting.shift();
      closeAll(descriptors);
      if (sent < 0) return false;
    }
    return true;
  }

  /** Messages that wait for room. */
  get backlog(): number {
    return this.#waiting.length;
  }

  /** The next message, "none" when there is none now, "end" when the other end is gone. */
  receive(): Received | "none" | "end" {
    for (;;) {
      const length = Number(
        processLibrary().vmm_receive(
          this.descriptor,
          ptr(buffer),
          LONGEST,
          ptr(descriptorBuffer),
          MAX_DESCRIPTORS,
        ),
      );
      if (length === EAGAIN) return "none";
      if (length === EMSGSIZE) continue;
      if (length === 0 || length === EPIPE || length === ECONNRESET) return "end";
      if (length < 0) throw new NativeError("receiving a message", length);
      const descriptors = [...descriptorBuffer].filter((descriptor) => descriptor >= 0);
      return { text: decoder.decode(buffer.subarray(0, length)), descriptors };
    }
  }

  /** Sleeps until a message is there, or the other end is gone. */
  wait(): void {
    pollInput(this.descriptor, -1);
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    for (const { descriptors } of this.#waiting) closeAll(descriptors);
    closeSync(this.descriptor);
  }
}

function closeAll(descriptors: readonly number[]): void {
  for (const descriptor of descriptors) closeSync(descriptor);
}
