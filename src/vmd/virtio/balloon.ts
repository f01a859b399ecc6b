/**
 * Traditional memory balloon: virtio 1.2, § 5.5, with statistics and free page reporting.
 *
 * Pages that the guest gives away are discarded: they read as zeroes, and take memory again only
 * when they are written. So a page that comes back needs no work, and the device keeps no list.
 *
 * A guest may give away pages that hold its own queues. That empties them, which is the guest's
 * problem: whatever is read from them afterwards is checked like everything else.
 */
import type { GuestMemory } from "../../vmm/memory.ts";
import { declareRegisters, f64, u32, u8, type Registers } from "../../vmm/registers.ts";
import type { Chain } from "./chain.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { LATER, serve } from "./serve.ts";

/** What becomes of pages. */
export interface BalloonBackend {
  /** The guest no longer needs what is in these whole pages, all in one range of RAM. */
  discard(address: number, length: number): void;
  /** Statistics came: see `statistic`. */
  statistics?(): void;
}

/** Bit numbers, § 5.5.3. */
export const BalloonFeature = {
  MUST_TELL_HOST: 0,
  STATS_VQ: 1,
  DEFLATE_ON_OOM: 2,
  PAGE_REPORTING: 5,
} as const;

/** Tags, § 5.5.6.4. */
export const Statistic = {
  SWAP_IN: 0,
  SWAP_OUT: 1,
  MAJFLT: 2,
  MINFLT: 3,
  MEMFREE: 4,
  MEMTOT: 5,
  AVAIL: 6,
  CACHES: 7,
  HTLB_PGALLOC: 8,
  HTLB_PGFAIL: 9,
} as const;

const QUEUE = 128;
const INFLATE = 0;
const DEFLATE = 1;
const THIRD = 2;

/** § 5.5.6: whatever the guest's pages are. */
export const PAGE = 4096;
const CONFIG_SIZE = 8;
const ACTUAL = 4;

/** Page numbers that are copied at once. */
const PIECE = 1024;
/** Page numbers of one chain. Discarding is never an obligation: those behind are left alone. */
export const CHAIN_MAX = 16_384;
/** Page numbers of one notification: a queue full of what Linux puts into a chain. */
const NOTIFICATION_MAX = QUEUE * 256;
const TAGS = 10;
const ENTRY = 10;
/** Entries of a buffer with statistics: more than there are tags. */
const ENTRIES_MAX = 32;

const declaration = {
  /** Pages that the host wants, and that the guest has given. */
  pages: u32(0),
  actual: u32(0),
  /** By tag; 64-bit values to 53 bits. A bit of `known` for each that came. */
  statistics: f64.array(TAGS),
  known: u32(0),
  /** The next statistics buffer was read: it waits until the host asks again. */
  read: u8(0),
};

export const BalloonRegisters = declareRegisters("virtio-balloon", declaration);

export class Balloon implements VirtioDevice {
  readonly type = 5;
  readonly features = [
    (1 << BalloonFeature.MUST_TELL_HOST) |
      (1 << BalloonFeature.STATS_VQ) |
      (1 << BalloonFeature.DEFLATE_ON_OOM) |
      (1 << BalloonFeature.PAGE_REPORTING),
    0,
  ] as const;
  readonly queueSizes = [QUEUE, QUEUE, QUEUE, QUEUE, QUEUE];
  readonly configSize = CONFIG_SIZE;
  readonly #r: Registers<typeof declaration>;
  readonly #transport: VirtioTransport;
  readonly #memory: GuestMemory;
  readonly #backend: BalloonBackend;
  readonly #numbers = new Uint8Array(4 * PIECE);
  readonly #view = new DataView(this.#numbers.buffer);
  readonly #entry = new Uint8Array(ENTRY);
  readonly #entryView = new DataView(this.#entry.buffer);
  #budget = 0;
  /** Pages that follow each other, and are yet to be discarded: page numbers, the end exclusive. */
  #from = 0;
  #to = 0;

  constructor(
    registers: Registers<typeof declaration>,
    transport: VirtioTransport,
    memory: GuestMemory,
    backend: BalloonBackend,
  ) {
    this.#r = registers;
    this.#transport = transport;
    this.#memory = memory;
    this.#backend = backend;
  }

  // --- for the host

  /** Wants the guest to have given away so many pages of 4 KiB. It stays over a reset. */
  target(pages: number): void {
    const wanted = Math.max(0, Math.min(Math.floor(pages), Math.floor(this.#memory.size / PAGE)));
    if (wanted === this.#r.pages) return;
    this.#r.pages = wanted;
    this.#transport.configChanged();
  }

  /** Pages that the host wants. */
  get wanted(): number {
    return this.#r.pages;
  }

  /** Pages that the guest says it has given away. */
  get actual(): number {
    return this.#r.actual;
  }

  /** The last value of a statistic, if the guest has told it. */
  statistic(tag: number): number | undefined {
    return (this.#r.known & (1 << tag)) !== 0 ? this.#r.statistics[tag] : undefined;
  }

  /**
   * Asks for new statistics: § 5.5.6.3. They come later.
   * @returns false when the guest can't be asked now.
   */
  askStatistics(): boolean {
    if (!this.#transport.live || this.#role(THIRD) !== "statistics") return false;
    const queue = this.#transport.queue(THIRD);
    if (this.#r.read === 0) return false;
    this.#r.read = 0;
    const chain = queue.pop();
    if (chain === undefined) return false;
    queue.push(chain, 0);
    queue.wantNotifications(true);
    this.#transport.notifyUsed(queue);
    return true;
  }

  // --- for the driver

  readConfig(offset: number): number {
    const { pages, actual } = this.#r;
    return ((offset < ACTUAL ? pages : actual) >>> (8 * (offset & 3))) & 0xff;
  }

  writeConfig(offset: number, size: number, value: number): void {
    if (offset === ACTUAL && size === 4) this.#r.actual = value;
  }

  notify(index: number): void {
    const queue = this.#transport.queue(index);
    this.#budget = NOTIFICATION_MAX;
    switch (this.#role(index)) {
      case "inflate":
        return serve(this.#transport, queue, this.#inflate);
      case "deflate":
        return serve(this.#transport, queue, this.#deflate);
      case "statistics":
        return this.#readStatistics();
      case "reporting":
        return serve(this.#transport, queue, this.#report);
    }
  }

  poll(): void {
    for (let i = 0; i < this.queueSizes.length; i++) {
      if (this.#transport.queue(i).waiting) this.notify(i);
    }
  }

  reset(): void {
    const { pages } = this.#r;
    this.#r.resetAll();
    this.#r.pages = pages;
  }

  /**
   * What a queue is for. § 5.5.2 numbers them from 0 to 4, whether they exist or not. Linux, after
   * QEMU, leaves no gaps. Since free page hinting isn't offered, both can be had at once: queue 3
   * would be its own, and queue 2 is the statistics' only if they were negotiated.
   */
  #role(index: number): "inflate" | "deflate" | "statistics" | "reporting" | undefined {
    if (index === INFLATE) return "inflate";
    if (index === DEFLATE) return "deflate";
    const { STATS_VQ, PAGE_REPORTING } = BalloonFeature;
    if (index === THIRD && this.#transport.negotiated(STATS_VQ)) return "statistics";
    return this.#transport.negotiated(PAGE_REPORTING) ? "reporting" : undefined;
  }

  /** § 5.5.6: an array of page numbers, 32 bits each. */
  readonly #inflate = (chain: Chain): number => {
    const count = Math.min(CHAIN_MAX, Math.floor(chain.readableBytes / 4));
    if (count > this.#budget) return LATER;
    this.#budget -= count;
    for (let done = 0; done < count; done += PIECE) {
      // A copy: what is discarded may be the array itself.
      chain.read(4 * done, this.#numbers);
      const end = Math.min(PIECE, count - done);
      for (let i = 0; i < end; i++) this.#give(this.#view.getUint32(4 * i, true));
    }
    this.#flush();
    return 0;
  };

  /** Nothing to do: a page takes memory again when it is written. */
  readonly #deflate = (): number => 0;

  /** Collects pages that follow each other, in either direction, into one call. */
  #give(page: number): void {
    if (!this.#memory.contains(page * PAGE, PAGE)) return;
    if (page >= this.#from && page < this.#to) return;
    const from = page + 1 === this.#from ? page : this.#from;
    const to = page === this.#to ? page + 1 : this.#to;
    const grows = this.#to > this.#from && to - from > this.#to - this.#from;
    // Ranges of RAM that touch stay two.
    if (grows && this.#memory.contains(from * PAGE, (to - from) * PAGE)) {
      this.#from = from;
      this.#to = to;
      return;
    }
    this.#flush();
    this.#from = page;
    this.#to = page + 1;
  }

  #flush(): void {
    const from = this.#from;
    const to = this.#to;
    this.#from = this.#to = 0;
    if (to > from) this.#backend.discard(from * PAGE, (to - from) * PAGE);
  }

  /** § 5.5.6.7: the segments are the free areas. Only whole pages of them can be discarded. */
  readonly #report = (chain: Chain): number => {
    chain.spans(true, 0, chain.writableBytes, this.#discardArea);
    return 0;
  };

  readonly #discardArea = (address: number, length: number): void => {
    const from = Math.ceil(address / PAGE) * PAGE;
    const to = Math.floor((address + length) / PAGE) * PAGE;
    if (to > from) this.#backend.discard(from, to - from);
  };

  /**
   * § 5.5.6.3: reads the one buffer, and leaves it in the queue until it is to be filled again. So
   * what is out of the queue is always nothing, also in a snapshot.
   */
  #readStatistics(): void {
    const queue = this.#transport.queue(THIRD);
    if (this.#r.read !== 0) return;
    const chain = queue.pop();
    if (chain === undefined) return;
    const count = Math.min(ENTRIES_MAX, Math.floor(chain.readableBytes / ENTRY));
    let known = 0;
    for (let i = 0; i < count; i++) {
      chain.read(ENTRY * i, this.#entry);
      const tag = this.#entryView.getUint16(0, true);
      // § 5.5.6.3.2: in any order, and unknown ones are ignored.
      if (tag >= TAGS) continue;
      const low = this.#entryView.getUint32(2, true);
      const high = this.#entryView.getUint32(6, true);
      this.#r.statistics[tag] = low + high * 2 ** 32;
      known |= 1 << tag;
    }
    this.#r.known = known;
    this.#r.read = 1;
    queue.putBack(chain);
    this.#backend.statistics?.();
  }
}
