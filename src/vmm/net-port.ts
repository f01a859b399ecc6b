/**
 * A thread that moves frames between a descriptor and guest memory; native/port.c. Two rings lead to
 * it: frames to send, and buffers to fill, both served in order.
 */
import { hostBuffer, portLibrary, NativeError, type Pointer, ptr } from "./native.ts";

/** enum vmm_net_kind. */
export const NetKind = {
  /** A tap with a virtio header of 12 bytes. */
  TAP: 0,
  /** A socket that keeps bounds, with that header too. */
  PACKET: 1,
  /** A socket with a length of 32 bits before each frame, and no header. */
  STREAM: 2,
} as const;
export type NetKind = (typeof NetKind)[keyof typeof NetKind];

// struct vmm_net_shared
export const NET_SLOTS = 256;
export const NET_SEGMENTS = 64;
const TX_TAIL = 0;
const RX_TAIL = 1;
const RX_SEEN = 2;
const RX_MERGE = 3;
const STOPPED = 4;
const TX_DONE = 5;
const RX_DONE = 7;
const ASLEEP = 9;
const ENDED = 11;
const TOLD = 12;
const ALONE = 13;
const RECEIVED = 14;
const FRAME_WORDS = (8 + 8 + 32 + 16 * NET_SEGMENTS) / 8;
const TX = (4 * (RECEIVED + 2 * NET_SLOTS)) / 8;
const RX = TX + NET_SLOTS * FRAME_WORDS;
const SIZE = 8 * (RX + NET_SLOTS * FRAME_WORDS);
const COUNT = 0;
const HEADER_LENGTH = 1;
const HEADER = 2;
const SEGMENTS = 6;

/** enum vmm_net_asleep. */
const Asleep = { FRAMES: 1, BUFFERS: 2 } as const;

/** Bytes of a short frame. */
const SHORT = 2048;

export class NetPort {
  /** Of the last frame that `receive` found: bytes with its header, and buffers that it took. */
  length = 0;
  buffers = 0;
  readonly descriptor: number;
  readonly #shared: Pointer;
  readonly #words: Uint32Array;
  readonly #numbers: Float64Array;
  readonly #bytes: Uint8Array;
  readonly #library = portLibrary();
  #sent = 0;
  /** Frames received since the last one was sent. */
  #came = 0;
  #at = 0;
  readonly #alone: boolean;
  readonly #stream: boolean;
  /** What was put into the rings since the last `flush`: bits of Asleep. */
  #news = 0;

  /** The descriptor doesn't block, and is the port's from now on. @throws NativeError */
  constructor(descriptor: number, kind: NetKind) {
    const shared = this.#library.vmm_port_open(descriptor, kind);
    if (!shared) throw new NativeError("a network interface's thread", -11);
    this.#shared = shared as Pointer;
    this.descriptor = descriptor;
    const buffer = hostBuffer(shared as unknown as number, SIZE);
    this.#words = new Uint32Array(buffer, 0, RECEIVED + 2 * NET_SLOTS);
    this.#numbers = new Float64Array(buffer);
    this.#bytes = new Uint8Array(buffer);
    this.#alone = this.#words[ALONE] !== 0;
    this.#stream = kind === NetKind.STREAM;
  }

  /** Begins with empty rings. @param merge a received frame may take several buffers */
  start(merge: boolean): void {
    this.#sent = 0;
    this.#words[RX_MERGE] = merge ? 1 : 0;
    Atomics.store(this.#words, STOPPED, 0);
    this.#library.vmm_port_wake(this.#shared);
  }

  /** Sends what is to be sent, for a while, then stops; what has been done can still be asked. */
  settle(): void {
    if (Atomics.load(this.#words, STOPPED) === 0) this.#library.vmm_port_settle(this.#shared);
  }

  /** Nothing of the guest's is touched any more. */
  stop(): void {
    // Also after `settle`: the rings become empty.
    this.#library.vmm_port_stop(this.#shared);
  }

  get stopped(): boolean {
    return Atomics.load(this.#words, STOPPED) !== 0;
  }

  /** Errno that ended the descriptor; 0 while it is there. */
  get ended(): number {
    return Atomics.load(this.#words, ENDED);
  }

  /** Whether there is room for a frame to send. */
  get canSend(): boolean {
    const words = this.#words;
    return (words[TX_TAIL] - this.#sent) >>> 0 < NET_SLOTS;
  }

  /** Begins a frame to send: its first bytes. Segments follow, then `send`. */
  prepareSend(header: Uint8Array): void {
    this.#at = TX + (this.#words[TX_TAIL] % NET_SLOTS) * FRAME_WORDS;
    this.#numbers[this.#at + COUNT] = 0;
    this.#numbers[this.#at + HEADER_LENGTH] = header.length;
    this.#bytes.set(header, 8 * (this.#at + HEADER));
  }

  /** Begins a buffer to fill. Segments follow, then `offer`. */
  prepareBuffer(): void {
    this.#at = RX + (this.#words[RX_TAIL] % NET_SLOTS) * FRAME_WORDS;
    this.#numbers[this.#at + COUNT] = 0;
    this.#numbers[this.#at + HEADER_LENGTH] = 0;
  }

  /** Memory of the frame or buffer that was begun: a host address. False when it has too many. */
  addSegment(address: number, length: number): boolean {
    const count = this.#numbers[this.#at + COUNT];
    if (count === NET_SEGMENTS) return false;
    const segment = this.#at + SEGMENTS + 2 * count;
    this.#numbers[segment] = address;
    this.#numbers[segment + 1] = length;
    this.#numbers[this.#at + COUNT] = count + 1;
    return true;
  }

  /**
   * Sends what was begun, `length` bytes: true if it is gone already, else `sent` tells when.
   * A short frame isn't worth waking the thread for; but where frames stream in, it is what has the
   * host send the next ones, and that takes longer. With one processor no other frame is worth it.
   */
  send(length: number): boolean {
    const tail = this.#words[TX_TAIL];
    if (this.#sendsNow(length, tail) && this.#library.vmm_port_now(this.#shared, tail) !== -11) {
      return true;
    }
    Atomics.store(this.#words, TX_TAIL, (tail + 1) >>> 0);
    this.#news |= Asleep.FRAMES;
    return false;
  }

  #sendsNow(length: number, tail: number): boolean {
    const words = this.#words;
    const streaming = this.#came > 1;
    this.#came = 0;
    // In order: those before it are gone.
    if (this.#stream || streaming || Atomics.load(words, TX_DONE) !== tail) return false;
    return (this.#alone || length <= SHORT) && Atomics.load(words, ASLEEP) !== 0;
  }

  offer(): void {
    Atomics.store(this.#words, RX_TAIL, (this.#words[RX_TAIL] + 1) >>> 0);
    this.#news |= Asleep.BUFFERS;
  }

  /** After `send`s and `offer`s: the thread is to look, if nothing else wakes it. */
  flush(): void {
    const news = this.#news;
    this.#news = 0;
    if ((Atomics.load(this.#words, ASLEEP) & news) !== 0) {
      this.#library.vmm_port_wake(this.#shared);
    }
  }

  /** Before looking for what is done. False when there is nothing. */
  look(): boolean {
    const words = this.#words;
    if (Atomics.load(words, TOLD) === 0) return false;
    Atomics.store(words, TOLD, 0);
    return true;
  }

  /** Frames that are gone since this was last asked. */
  sent(): number {
    const done = Atomics.load(this.#words, TX_DONE);
    const count = (done - this.#sent) >>> 0;
    this.#sent = done;
    return count;
  }

  /** The next frame that came, in `length` and `buffers`. */
  receive(): boolean {
    const words = this.#words;
    const seen = words[RX_SEEN];
    if (Atomics.load(words, RX_DONE) === seen) return false;
    const at = RECEIVED + 2 * (seen % NET_SLOTS);
    this.length = words[at];
    this.buffers = words[at + 1];
    this.#came++;
    Atomics.store(words, RX_SEEN, (seen + 1) >>> 0);
    return true;
  }

  /** A frame of the host's own for the guest, without a header; false when there are too many. */
  inject(frame: Uint8Array): boolean {
    return this.#library.vmm_port_inject(this.#shared, ptr(frame), frame.length) === 0;
  }
}
