/**
 * The host's side of a serial port: bytes from the guest gathered into chunks, bytes for the guest
 * kept until its UART has room.
 */
import type { SerialBackend } from "./device.ts";

const CHUNK = 4096;
const NEWLINE = 10;

/** The UART as the console sees it. */
export interface Uart {
  /** Takes a byte for the guest; false when it has no room now. */
  receive(byte: number): boolean;
  /** The console takes output again. */
  drain(): void;
}

export class Console implements SerialBackend {
  readonly #chunk = new Uint8Array(CHUNK);
  readonly #emit: (bytes: Uint8Array) => void;
  readonly #blocked: () => boolean;
  readonly #tellTaken: (bytes: number) => void;
  #length = 0;
  #refused = false;
  #input: Uint8Array[] = [];
  #taken = 0;

  /**
   * @param emit is given a copy of what the guest wrote.
   * @param blocked whether who gets it has enough for now: the UART then keeps its bytes.
   * @param taken told how many bytes of input the guest has taken.
   */
  constructor(
    emit: (bytes: Uint8Array) => void,
    blocked: () => boolean = () => false,
    taken: (bytes: number) => void = () => {},
  ) {
    this.#emit = emit;
    this.#blocked = blocked;
    this.#tellTaken = taken;
  }

  transmit(byte: number): boolean {
    if (this.#length === 0) {
      // Said before it is asked: a reader that takes output in between then kicks in vain, not too early.
      this.#refused = true;
      if (this.#blocked()) return false;
      this.#refused = false;
    }
    this.#chunk[this.#length++] = byte;
    if (byte === NEWLINE || this.#length === CHUNK) this.flush();
    return true;
  }

  /** Hands on what was gathered: at the end of a line, and whenever the guest rests. */
  flush(): void {
    if (this.#length === 0) return;
    this.#emit(this.#chunk.slice(0, this.#length));
    this.#length = 0;
  }

  /** Queues bytes for the guest. */
  input(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#input.push(bytes);
  }

  /** Forgets what was queued, and what was not handed on. */
  clear(): void {
    this.#input = [];
    this.#taken = 0;
    this.#length = 0;
    this.#refused = false;
  }

  /** What was queued and the guest has not taken. */
  get pending(): Uint8Array {
    const [first, ...others] = this.#input;
    if (first === undefined) return new Uint8Array(0);
    return Buffer.concat([first.subarray(this.#taken), ...others]);
  }

  /** Gives the UART what it has room for, and takes what it kept. */
  serve(uart: Uart): void {
    if (this.#refused && !this.#blocked()) {
      this.#refused = false;
      uart.drain();
    }
    while (this.#input.length > 0) {
      const bytes = this.#input[0];
      while (this.#taken < bytes.length) {
        if (!uart.receive(bytes[this.#taken])) return;
        this.#taken++;
      }
      this.#tellTaken(bytes.length);
      this.#input.shift();
      this.#taken = 0;
    }
  }
}
