/** A disk of a replay: what was recorded of it, and what the guest wrote. No file is behind it. */
import type { BlockBackend } from "../virtio/blk.ts";
import type { Chain } from "../virtio/chain.ts";
import { EventKind, type RecordedEvent } from "./events.ts";
import { SECTOR } from "./known-sectors.ts";
import { clear } from "./recorded-disk.ts";

/** Sectors of a part. */
const PART = 8;
const ALL = 0xff;
/** Bytes that are copied at once. */
const PIECE = 2 ** 16;

/** Sectors that follow each other, and which of them are known. Never changed, but replaced. */
interface Part {
  readonly bytes: Uint8Array;
  readonly known: number;
}

const EMPTY: Part = { bytes: new Uint8Array(PART * SECTOR), known: 0 };
/** A guest may clear gigabytes. */
const ZEROS: Part = { bytes: EMPTY.bytes, known: ALL };

/** What is known of a disk. A copy shares what neither changes. */
export class DiskContents {
  readonly #parts: Map<number, Part>;

  constructor(from?: DiskContents) {
    this.#parts = new Map(from === undefined ? [] : from.#parts);
  }

  /** @returns false when not all of it is known */
  read(first: number, into: Uint8Array): boolean {
    for (let i = 0; i * SECTOR < into.length; i++) {
      const part = this.#parts.get(Math.floor((first + i) / PART));
      const at = (first + i) % PART;
      if (part === undefined || (part.known & (1 << at)) === 0) return false;
      into.set(part.bytes.subarray(at * SECTOR, (at + 1) * SECTOR), i * SECTOR);
    }
    return true;
  }

  /** @param bytes whole sectors; undefined for zeros */
  write(first: number, count: number, bytes?: Uint8Array): void {
    this.#change(first, count, (part, at, from, sectors) => {
      if (bytes === undefined && sectors === PART) return ZEROS;
      const to = part.bytes.slice();
      const end = (at + sectors) * SECTOR;
      if (bytes === undefined) to.fill(0, at * SECTOR, end);
      else to.set(bytes.subarray(from * SECTOR, (from + sectors) * SECTOR), at * SECTOR);
      return { bytes: to, known: part.known | mask(at, sectors) };
    });
  }

  forget(first: number, count: number): void {
    this.#change(first, count, (part, at, _, sectors) => {
      return { bytes: part.bytes, known: part.known & ~mask(at, sectors) };
    });
  }

  #change(
    first: number,
    count: number,
    change: (part: Part, at: number, from: number, sectors: number) => Part,
  ): void {
    for (let done = 0; done < count;) {
      const number = Math.floor((first + done) / PART);
      const at = (first + done) % PART;
      const sectors = Math.min(PART - at, count - done);
      const part = change(this.#parts.get(number) ?? EMPTY, at, done, sectors);
      if (part.known === 0) this.#parts.delete(number);
      else this.#parts.set(number, part);
      done += sectors;
    }
  }
}

function mask(at: number, sectors: number): number {
  return (ALL >> (PART - sectors)) << at;
}

/** Where a replayed disk's events come from. */
export interface DiskEvents {
  /** The next event, if it is of that request: it is taken. */
  take(device: number, request: number): RecordedEvent | undefined;
  /** What the guest does isn't what was recorded. Doesn't return. */
  diverged(what: string): never;
}

export class ReplayedDisk implements BlockBackend {
  done: (tag: number, ok: boolean) => void = () => {};
  readonly size: number;
  readonly readOnly: boolean;
  readonly #place: number;
  readonly #events: DiskEvents;
  contents = new DiskContents();
  /** Requests so far. */
  requests = 0;

  constructor(
    { size, readOnly }: { size: number; readOnly: boolean },
    place: number,
    events: DiskEvents,
  ) {
    this.size = size;
    this.readOnly = readOnly;
    this.#place = place;
    this.#events = events;
  }

  read(tag: number, chain: Chain, offset: number, length: number, at = 0): void {
    const ok = this.#begin();
    if (ok) this.#copy(chain, at, offset, length);
    else clear(chain, at, length);
    this.done(tag, ok);
  }

  #copy(chain: Chain, at: number, offset: number, length: number): void {
    for (let done = 0; done < length; done += PIECE) {
      const bytes = new Uint8Array(Math.min(PIECE, length - done));
      if (!this.contents.read((offset + done) / SECTOR, bytes)) {
        this.#events.diverged(
          `disk ${this.#place}: ${length} bytes at ${offset} are read, which were not then`,
        );
      }
      chain.write(at + done, bytes);
    }
  }

  write(tag: number, chain: Chain, at: number, offset: number, length: number): void {
    const ok = this.#begin();
    if (ok) {
      for (let done = 0; done < length; done += PIECE) {
        const bytes = new Uint8Array(Math.min(PIECE, length - done));
        chain.read(at + done, bytes);
        this.contents.write((offset + done) / SECTOR, bytes.length / SECTOR, bytes);
      }
    } else this.contents.forget(offset / SECTOR, length / SECTOR);
    this.done(tag, ok);
  }

  flush(tag: number): void {
    this.done(tag, this.#begin());
  }

  discard(tag: number, offset: number, length: number): void {
    const ok = this.#begin();
    this.contents.forget(offset / SECTOR, length / SECTOR);
    this.done(tag, ok);
  }

  zero(tag: number, offset: number, length: number): void {
    const ok = this.#begin();
    if (ok) this.contents.write(offset / SECTOR, length / SECTOR);
    else this.contents.forget(offset / SECTOR, length / SECTOR);
    this.done(tag, ok);
  }

  poll(): void {}

  settle(): void {}

  abandon(): void {}

  /** A request begins: what was recorded of it becomes known. @returns whether the host did it */
  #begin(): boolean {
    this.requests++;
    let ok = true;
    for (;;) {
      const event = this.#events.take(this.#place, this.requests);
      if (event === undefined) return ok;
      if (event.kind === EventKind.FAILED) ok = false;
      else this.#learn(event.data);
    }
  }

  #learn(data: Uint8Array): void {
    const count = Math.floor((data.length - 8) / SECTOR);
    const first =
      data.length < 8 ? -1 : new DataView(data.buffer, data.byteOffset, 8).getFloat64(0, true);
    if (!Number.isSafeInteger(first) || first < 0 || (first + count) * SECTOR > this.size) {
      this.#events.diverged(`disk ${this.#place}: what was read can't be`);
    }
    this.contents.write(first, count, data.subarray(8));
  }
}
