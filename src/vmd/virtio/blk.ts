/**
 * virtio-blk: a disk. Virtio 1.2, § 5.2. One queue; a request is a header of 16 bytes, data, and a
 * status byte, in whatever segments the driver likes.
 *
 * A request that can't be answered (no room for a status, no whole header) breaks the queue, as in
 * vmd. All others are: IOERR for what lies beyond the disk's end, isn't whole sectors, or that the
 * host fails to do; UNSUPP for what the device doesn't offer.
 */
import { declareRegisters, u8, type Registers } from "../../vmm/registers.ts";
import type { Chain } from "./chain.ts";
import type { RateLimit } from "./rate-limit.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";

const SECTOR = 512;
const QUEUE_SIZE = 128;
/** Header and status are in segments of their own, in every driver. */
const SEG_MAX = QUEUE_SIZE - 2;
const HEADER = 16;
const ID_BYTES = 20;
/** One range of a discard or of zeroes. */
const RANGE = 16;
const UNMAP = 1;
/** Sectors of one discard: 1 GiB. */
const CLEAR_SECTORS_MAX = 2 ** 21;
/** A longer request is refused, bytes: no driver makes one. */
const REQUEST_MAX = 2 ** 28;

const Feature = {
  SEG_MAX: 2,
  RO: 5,
  BLK_SIZE: 6,
  FLUSH: 9,
  CONFIG_WCE: 11,
  DISCARD: 13,
  WRITE_ZEROES: 14,
} as const;

const RequestType = {
  IN: 0,
  OUT: 1,
  FLUSH: 4,
  GET_ID: 8,
  DISCARD: 11,
  WRITE_ZEROES: 13,
} as const;

const BlkStatus = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

// Configuration: struct virtio_blk_config.
const CAPACITY = 0x00;
const CONFIG_SEG_MAX = 0x0c;
const BLK_SIZE = 0x14;
const WRITEBACK = 0x20;
const MAX_DISCARD_SECTORS = 0x24;
const MAX_DISCARD_SEG = 0x28;
const DISCARD_ALIGNMENT = 0x2c;
const MAX_ZEROES_SECTORS = 0x30;
const MAX_ZEROES_SEG = 0x34;
const ZEROES_MAY_UNMAP = 0x38;
const CONFIG_SIZE = 0x3c;

const declaration = {
  /** The driver wants writes to be durable when they are done. */
  writeThrough: u8(0),
};

export const BlkRegisters = declareRegisters("virtio-blk", declaration);

/** Who does the I/O. Offsets and lengths are bytes, inside the disk. */
export interface BlockBackend {
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Told of every request that was begun, perhaps before the call that began it returns. */
  done: (tag: number, ok: boolean) => void;
  /** Fills the device-writable part of a chain, from byte `at` on: default its beginning. */
  read(tag: number, chain: Chain, offset: number, length: number, at?: number): void;
  /** Writes what the device-readable part holds from byte `at` on. */
  write(tag: number, chain: Chain, at: number, offset: number, length: number): void;
  /** All writes that are done become durable. */
  flush(tag: number): void;
  /** Bytes are needed no more. */
  discard(tag: number, offset: number, length: number): void;
  /** Bytes become zero, perhaps without storage. */
  zero(tag: number, offset: number, length: number, unmap: boolean): void;
  /** Looks for what is done, also after requests were begun: nobody may tell of it otherwise. */
  poll(): void;
  /** Waits until all that was begun is done, and was told of. */
  settle(): void;
  /** Ends what was begun, without telling of it. */
  abandon(): void;
}

export class Blk implements VirtioDevice {
  readonly type = 2;
  readonly features: readonly [number, number];
  readonly queueSizes = [QUEUE_SIZE];
  readonly configSize = CONFIG_SIZE;
  readonly #r: Registers<typeof declaration>;
  readonly #transport: VirtioTransport;
  readonly #backend: BlockBackend;
  readonly #sectors: number;
  readonly #config = new Uint8Array(CONFIG_SIZE);
  readonly #id = new Uint8Array(ID_BYTES);
  readonly #header = new Uint8Array(HEADER);
  readonly #view = new DataView(this.#header.buffer);
  /** By tag: what is out, and how it is answered. */
  readonly #out: (Chain | undefined)[] = Array.from({ length: QUEUE_SIZE });
  readonly #flushes = new Uint8Array(QUEUE_SIZE);
  readonly #reads = new Uint8Array(QUEUE_SIZE);
  readonly #free: number[] = [];
  #finished = false;
  /** Chains were left in the queue. */
  #more = false;

  /** Set once, before the device is used: how much it moves. */
  limit: RateLimit | undefined;

  /** @param id serial number: at most 20 bytes of ASCII. */
  constructor(
    registers: Registers<typeof declaration>,
    transport: VirtioTransport,
    backend: BlockBackend,
    id: string,
  ) {
    this.#r = registers;
    this.#transport = transport;
    this.#backend = backend;
    this.#sectors = Math.floor(backend.size / SECTOR);
    backend.done = (tag, ok) => this.#done(tag, ok);
    for (let tag = QUEUE_SIZE - 1; tag >= 0; tag--) this.#free.push(tag);
    new TextEncoder().encodeInto(id, this.#id);
    let features = (1 << Feature.SEG_MAX) | (1 << Feature.BLK_SIZE) | (1 << Feature.FLUSH);
    if (backend.readOnly) features |= 1 << Feature.RO;
    else {
      features |= 1 << Feature.CONFIG_WCE;
      features |= (1 << Feature.DISCARD) | (1 << Feature.WRITE_ZEROES);
    }
    this.features = [features, 0];
    this.#describe();
  }

  #describe(): void {
    const view = new DataView(this.#config.buffer);
    view.setUint32(CAPACITY, this.#sectors % 2 ** 32, true);
    view.setUint32(CAPACITY + 4, Math.floor(this.#sectors / 2 ** 32), true);
    view.setUint32(CONFIG_SEG_MAX, SEG_MAX, true);
    view.setUint32(BLK_SIZE, SECTOR, true);
    view.setUint32(MAX_DISCARD_SECTORS, CLEAR_SECTORS_MAX, true);
    view.setUint32(MAX_DISCARD_SEG, 1, true);
    view.setUint32(DISCARD_ALIGNMENT, 4096 / SECTOR, true);
    view.setUint32(MAX_ZEROES_SECTORS, CLEAR_SECTORS_MAX, true);
    view.setUint32(MAX_ZEROES_SEG, 1, true);
    view.setUint8(ZEROES_MAY_UNMAP, 1);
  }

  reset(): void {
    // § 2.4: after a reset nothing of the driver's is touched any more.
    this.#backend.abandon();
    for (let tag = 0; tag < QUEUE_SIZE; tag++) {
      if (this.#out[tag] === undefined) continue;
      this.#out[tag] = undefined;
      this.#free.push(tag);
    }
    this.#more = false;
    this.limit?.reset();
    this.#r.resetAll();
  }

  quiesce(): undefined {
    this.#backend.settle();
    this.#tell();
    return undefined;
  }

  readConfig(offset: number): number {
    if (offset === WRITEBACK) return this.#r.writeThrough === 0 ? 1 : 0;
    return this.#config[offset];
  }

  writeConfig(offset: number, size: number, value: number): void {
    // § 5.2.5.1: only with CONFIG_WCE.
    if (offset !== WRITEBACK || size !== 1 || !this.#transport.negotiated(Feature.CONFIG_WCE))
      return;
    this.#r.writeThrough = value === 0 ? 1 : 0;
  }

  notify(): void {
    this.#serve();
    // Some may be done already.
    this.#backend.poll();
    this.#tell();
  }

  poll(): void {
    this.#backend.poll();
    if (this.#more) {
      this.#serve();
      this.#backend.poll();
    }
    this.#tell();
  }

  /**
   * Begins what waits, but no more than the queue holds: requests may be answered at once, and what
   * they write may make others available, endlessly. The rest is for `poll`.
   */
  #serve(): void {
    const queue = this.#transport.queue(0);
    const { limit } = this;
    let left = QUEUE_SIZE;
    do {
      queue.wantNotifications(false);
      for (; left > 0; left--) {
        if (limit !== undefined && !limit.isOpen) {
          // `open` goes on.
          left = 0;
          break;
        }
        const tag = this.#free[this.#free.length - 1];
        if (tag === undefined) break;
        const chain = queue.pop();
        if (chain === undefined) break;
        this.#free.pop();
        limit?.charge(chain.readableBytes + chain.writableBytes);
        this.#begin(tag, chain);
      }
      queue.wantNotifications(true);
    } while (left > 0 && queue.waiting && this.#free.length > 0);
    this.#more = queue.waiting && limit === undefined;
  }

  /** There is room again under the limit. */
  resume(): void {
    if (!this.#transport.live) return;
    this.#serve();
    this.#backend.poll();
    this.#tell();
  }

  #tell(): void {
    if (!this.#finished) return;
    this.#finished = false;
    this.#transport.notifyUsed(this.#transport.queue(0));
  }

  #begin(tag: number, chain: Chain): void {
    this.#out[tag] = chain;
    this.#flushes[tag] = 0;
    this.#reads[tag] = 0;
    if (chain.writableBytes === 0 || chain.read(0, this.#header) < HEADER) {
      // § 5.2.6: there is no way to say what is wrong.
      this.#out[tag] = undefined;
      this.#free.push(tag);
      this.#transport.queue(0).fail("a request without a header or a status byte");
      return;
    }
    const type = this.#view.getUint32(0, true);
    const sector = this.#view.getUint32(8, true) + this.#view.getUint32(12, true) * 2 ** 32;
    switch (type) {
      case RequestType.IN:
        this.#transfer(tag, chain, sector, chain.writableBytes - 1, false);
        return;
      case RequestType.OUT:
        this.#transfer(tag, chain, sector, chain.readableBytes - HEADER, true);
        return;
      case RequestType.FLUSH:
        if (this.#backend.readOnly) this.#answer(tag, BlkStatus.OK);
        else this.#backend.flush(tag);
        return;
      case RequestType.GET_ID:
        chain.write(0, this.#id.subarray(0, Math.min(ID_BYTES, chain.writableBytes - 1)));
        this.#reads[tag] = 1;
        this.#answer(tag, BlkStatus.OK);
        return;
      case RequestType.DISCARD:
      case RequestType.WRITE_ZEROES:
        this.#clear(tag, chain, type);
        return;
      default:
        this.#answer(tag, BlkStatus.UNSUPP);
    }
  }

  #transfer(tag: number, chain: Chain, sector: number, length: number, write: boolean): void {
    // § 5.2.6.1: whole sectors. § 5.2.6.2: a read-only device fails all writes.
    if (length % SECTOR !== 0 || length > REQUEST_MAX || !this.#inside(sector, length / SECTOR)) {
      this.#answer(tag, BlkStatus.IOERR);
    } else if (write) {
      if (this.#backend.readOnly) this.#answer(tag, BlkStatus.IOERR);
      else {
        // § 5.2.6.2: without FLUSH, or when told so, a write that is done is durable.
        const through = this.#r.writeThrough !== 0 || !this.#transport.negotiated(Feature.FLUSH);
        this.#flushes[tag] = through ? 1 : 0;
        if (length === 0) this.#answer(tag, BlkStatus.OK);
        else this.#backend.write(tag, chain, HEADER, sector * SECTOR, length);
      }
    } else {
      this.#reads[tag] = 1;
      if (length === 0) this.#answer(tag, BlkStatus.OK);
      else this.#backend.read(tag, chain, sector * SECTOR, length);
    }
  }

  #inside(sector: number, count: number): boolean {
    return sector <= this.#sectors && count <= this.#sectors - sector;
  }

  /** One range of struct virtio_blk_discard_write_zeroes, as the configuration says. */
  #clear(tag: number, chain: Chain, type: number): void {
    const discard = type === RequestType.DISCARD;
    const feature = discard ? Feature.DISCARD : Feature.WRITE_ZEROES;
    if (!this.#transport.negotiated(feature)) {
      this.#answer(tag, BlkStatus.UNSUPP);
      return;
    }
    if (chain.readableBytes !== HEADER + RANGE) {
      this.#answer(tag, BlkStatus.IOERR);
      return;
    }
    chain.read(HEADER, this.#header);
    const sector = this.#view.getUint32(0, true) + this.#view.getUint32(4, true) * 2 ** 32;
    const count = this.#view.getUint32(8, true);
    const flags = this.#view.getUint32(12, true);
    // § 5.2.6.2: unknown flags, and unmap in a discard.
    if ((flags & ~UNMAP) !== 0 || (discard && flags !== 0)) {
      this.#answer(tag, BlkStatus.UNSUPP);
    } else if (count > CLEAR_SECTORS_MAX || !this.#inside(sector, count)) {
      this.#answer(tag, BlkStatus.IOERR);
    } else if (count === 0) {
      this.#answer(tag, BlkStatus.OK);
    } else if (discard) {
      this.#backend.discard(tag, sector * SECTOR, count * SECTOR);
    } else {
      this.#backend.zero(tag, sector * SECTOR, count * SECTOR, (flags & UNMAP) !== 0);
    }
  }

  #done(tag: number, ok: boolean): void {
    if (ok && this.#flushes[tag] !== 0) {
      this.#flushes[tag] = 0;
      this.#backend.flush(tag);
      return;
    }
    this.#answer(tag, ok ? BlkStatus.OK : BlkStatus.IOERR);
  }

  #answer(tag: number, status: number): void {
    const chain = this.#out[tag] as Chain;
    const last = chain.writableBytes - 1;
    chain.writeByte(last, status);
    // § 2.7.8.2: so many bytes, from the first on, were surely written.
    const whole = last === 0 || (status === BlkStatus.OK && this.#reads[tag] !== 0);
    this.#out[tag] = undefined;
    this.#free.push(tag);
    this.#transport.queue(0).push(chain, whole ? chain.writableBytes : 0);
    this.#finished = true;
  }
}
