/**
 * Console device: virtio 1.2, § 5.3, with one port and without multiport.
 *
 * Nothing is lost on the way: output that its reader can't take stays in the guest's queue, and
 * input waits until the guest has buffers. Only emergency writes, which can't wait, may get lost.
 */
import { declareRegisters, f64, u16, u32, u8, type Registers } from "../../vmm/registers.ts";
import type { Chain } from "./chain.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { LATER, serve } from "./serve.ts";

/** What the port is connected to. */
export interface ConsoleBackend {
  /** Takes bytes from the guest. They are valid during the call only. */
  output(bytes: Uint8Array): void;
  /** Whether it can't take any now. `poll` goes on once it can. */
  blocked(): boolean;
  /** `input`, which had refused bytes, takes some again. */
  wanted?(): void;
}

/** Bit numbers, § 5.3.3. */
export const ConsoleFeature = { SIZE: 0, MULTIPORT: 1, EMERG_WRITE: 2 } as const;

const RECEIVE = 0;
const TRANSMIT = 1;
const QUEUE = 64;

// Configuration, § 5.3.4
const ROWS = 2;
const MAX_PORTS = 4;
const EMERGENCY = 8;
const CONFIG_SIZE = 12;

/** Input that waits for the guest, bytes; a power of two. */
export const INPUT_MAX = 65_536;
/** Output of one notification, bytes: a chain may have 4 GiB. */
const OUTPUT_MAX = 65_536;
/** Bytes that are copied at once. */
const PIECE = 1024;

const declaration = {
  columns: u16(0),
  rows: u16(0),
  /** Bytes of the next chain of the transmit queue that have left. */
  sent: f64(0),
  input: u8.array(INPUT_MAX),
  inputHead: u32(0),
  inputCount: u32(0),
};

export const ConsoleRegisters = declareRegisters("virtio-console", declaration);

export class Console implements VirtioDevice {
  readonly type = 3;
  readonly features = [(1 << ConsoleFeature.SIZE) | (1 << ConsoleFeature.EMERG_WRITE), 0] as const;
  readonly queueSizes = [QUEUE, QUEUE];
  readonly configSize = CONFIG_SIZE;
  readonly #r: Registers<typeof declaration>;
  readonly #transport: VirtioTransport;
  readonly #backend: ConsoleBackend;
  readonly #piece = new Uint8Array(PIECE);
  /** The piece's beginnings, by length, once they are used. */
  readonly #pieces: Uint8Array[] = [];
  /** Bytes that may still leave in this notification. */
  #budget = 0;
  #refused = false;

  constructor(
    registers: Registers<typeof declaration>,
    transport: VirtioTransport,
    backend: ConsoleBackend,
  ) {
    this.#r = registers;
    this.#transport = transport;
    this.#backend = backend;
  }

  /** Bytes that `input` takes now. */
  get room(): number {
    return this.#transport.live ? INPUT_MAX - this.#r.inputCount : 0;
  }

  /**
   * Bytes for the guest. Without a driver there is nobody who would wait for them.
   * @returns how many were taken, the first ones.
   */
  input(bytes: Uint8Array): number {
    const r = this.#r;
    const taken = Math.min(this.room, bytes.length);
    const at = (r.inputHead + r.inputCount) % INPUT_MAX;
    const before = Math.min(taken, INPUT_MAX - at);
    r.input.set(bytes.subarray(0, before), at);
    r.input.set(bytes.subarray(before, taken), 0);
    r.inputCount += taken;
    this.#refused ||= taken < bytes.length;
    this.#receive();
    return taken;
  }

  /** The reader's window: § 5.3.6. It stays over a reset. */
  resize(columns: number, rows: number): void {
    const r = this.#r;
    if (r.columns === columns && r.rows === rows) return;
    r.columns = columns;
    r.rows = rows;
    if (this.#transport.negotiated(ConsoleFeature.SIZE)) this.#transport.configChanged();
  }

  readConfig(offset: number): number {
    const { columns, rows } = this.#r;
    if (offset < ROWS) return (columns >>> (8 * offset)) & 0xff;
    // One port, though the field is valid with multiport only; emerg_wr reads as 0.
    if (offset < MAX_PORTS) return (rows >>> (8 * (offset - ROWS))) & 0xff;
    return offset === MAX_PORTS ? 1 : 0;
  }

  /** § 5.3.5.1: at any time, without features, queues, or a status. */
  writeConfig(offset: number, _size: number, value: number): void {
    if (offset !== EMERGENCY || this.#backend.blocked()) return;
    this.#piece[0] = value;
    this.#backend.output(this.#first(1));
  }

  notify(queue: number): void {
    if (queue === RECEIVE) this.#receive();
    else if (queue === TRANSMIT) this.#transmit();
  }

  poll(): void {
    this.#receive();
    if (this.#transport.queue(TRANSMIT).waiting && !this.#backend.blocked()) this.#transmit();
  }

  start(): void {
    this.#offerRoom();
  }

  reset(): void {
    const { columns, rows } = this.#r;
    this.#r.resetAll();
    this.#r.columns = columns;
    this.#r.rows = rows;
  }

  #first(length: number): Uint8Array {
    return (this.#pieces[length] ??= this.#piece.subarray(0, length));
  }

  #transmit(): void {
    this.#budget = OUTPUT_MAX;
    serve(this.#transport, this.#transport.queue(TRANSMIT), this.#send);
  }

  readonly #send = (chain: Chain): number => {
    const r = this.#r;
    while (r.sent < chain.readableBytes) {
      if (this.#budget <= 0 || this.#backend.blocked()) return LATER;
      const length = chain.read(r.sent, this.#piece);
      this.#backend.output(this.#first(length));
      r.sent += length;
      this.#budget -= length;
    }
    r.sent = 0;
    return 0;
  };

  #receive(): void {
    if (this.#r.inputCount === 0 || !this.#transport.live) return;
    serve(this.#transport, this.#transport.queue(RECEIVE), this.#fill);
    this.#offerRoom();
  }

  readonly #fill = (chain: Chain): number => {
    const r = this.#r;
    if (r.inputCount === 0) return LATER;
    const wanted = Math.min(chain.writableBytes, r.inputCount);
    let written = 0;
    while (written < wanted) {
      const length = Math.min(PIECE, wanted - written);
      for (let i = 0; i < length; i++) {
        this.#piece[i] = r.input[(r.inputHead + i) % INPUT_MAX];
      }
      written += chain.write(written, this.#first(length));
      r.inputHead = (r.inputHead + length) % INPUT_MAX;
      r.inputCount -= length;
    }
    return written;
  };

  #offerRoom(): void {
    if (!this.#refused || this.room === 0) return;
    this.#refused = false;
    this.#backend.wanted?.();
  }
}
