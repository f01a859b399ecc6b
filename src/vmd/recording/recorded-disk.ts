/**
 * A disk whose requests are recorded: of each, what a replay could not know. One is done before the
 * next is begun, so that they come to their ends in the same order again.
 */
import type { GuestMemory } from "../../vmm/memory.ts";
import type { BlockBackend } from "../virtio/blk.ts";
import type { Chain } from "../virtio/chain.ts";
import { DATA_MAX, EventKind } from "./events.ts";
import { KnownSectors, SECTOR } from "./known-sectors.ts";

/** Keeps an event of the exit that is under way. */
export type NoteEvent = (kind: EventKind, device: number, value: number, data: Uint8Array) => void;

/** Sectors of one event. */
const PIECE = (DATA_MAX - 8) / SECTOR;
const NOTHING = new Uint8Array(0);

export class RecordedDisk implements BlockBackend {
  done: (tag: number, ok: boolean) => void = () => {};
  readonly #disk: BlockBackend;
  readonly #memory: GuestMemory;
  readonly #place: number;
  readonly #note: NoteEvent;
  readonly #known: KnownSectors;
  #ok = false;
  #requests: number;

  /**
   * @param place of the disk among the machine's
   * @param before the same disk of the machine that the guest has reset
   */
  constructor(
    disk: BlockBackend,
    memory: GuestMemory,
    place: number,
    note: NoteEvent,
    before?: RecordedDisk,
  ) {
    this.#known = before === undefined ? new KnownSectors() : before.#known;
    this.#requests = before === undefined ? 0 : before.#requests;
    this.#disk = disk;
    this.#memory = memory;
    this.#place = place;
    this.#note = note;
    disk.done = (_, ok) => {
      this.#ok = ok;
    };
  }

  get size(): number {
    return this.#disk.size;
  }

  get readOnly(): boolean {
    return this.#disk.readOnly;
  }

  read(tag: number, chain: Chain, offset: number, length: number, at = 0): void {
    this.#begin();
    this.#disk.read(tag, chain, offset, length, at);
    const ok = this.#finish();
    if (ok) {
      const first = offset / SECTOR;
      for (const run of this.#known.unknown(first, length / SECTOR)) {
        this.#noteSectors(chain, at + (run.first - first) * SECTOR, run.first, run.count);
        this.#known.add(run.first, run.count);
      }
    } else {
      // A part of it may have come.
      clear(chain, at, length);
    }
    this.done(tag, ok);
  }

  write(tag: number, chain: Chain, at: number, offset: number, length: number): void {
    this.#begin();
    this.#disk.write(tag, chain, at, offset, length);
    const ok = this.#finish();
    if (ok) this.#known.add(offset / SECTOR, length / SECTOR);
    else this.#known.remove(offset / SECTOR, length / SECTOR);
    this.done(tag, ok);
  }

  flush(tag: number): void {
    this.#begin();
    this.#disk.flush(tag);
    this.done(tag, this.#finish());
  }

  discard(tag: number, offset: number, length: number): void {
    this.#begin();
    this.#disk.discard(tag, offset, length);
    const ok = this.#finish();
    // What is read there now is the host's to say.
    this.#known.remove(offset / SECTOR, length / SECTOR);
    this.done(tag, ok);
  }

  zero(tag: number, offset: number, length: number, unmap: boolean): void {
    this.#begin();
    this.#disk.zero(tag, offset, length, unmap);
    const ok = this.#finish();
    if (ok) this.#known.add(offset / SECTOR, length / SECTOR);
    else this.#known.remove(offset / SECTOR, length / SECTOR);
    this.done(tag, ok);
  }

  poll(): void {}

  settle(): void {}

  abandon(): void {
    this.#disk.abandon();
  }

  // What needs nothing of the host may be done before `settle`.
  #begin(): void {
    this.#requests++;
    this.#ok = false;
  }

  #finish(): boolean {
    this.#disk.settle();
    if (!this.#ok) this.#note(EventKind.FAILED, this.#place, this.#requests, NOTHING);
    return this.#ok;
  }

  #noteSectors(chain: Chain, at: number, first: number, count: number): void {
    for (let done = 0; done < count; done += PIECE) {
      const piece = Math.min(PIECE, count - done);
      const data = new Uint8Array(8 + piece * SECTOR);
      new DataView(data.buffer).setFloat64(0, first + done, true);
      let to = 8;
      chain.spans(true, at + done * SECTOR, piece * SECTOR, (address, length) => {
        this.#memory.read(address, data.subarray(to, to + length));
        to += length;
      });
      this.#note(EventKind.READ, this.#place, this.#requests, data);
    }
  }
}

/** Clears a piece of a chain's device-writable part. */
export function clear(chain: Chain, at: number, length: number): void {
  const zeros = new Uint8Array(Math.min(length, 2 ** 16));
  for (let done = 0; done < length; done += zeros.length) {
    chain.write(at + done, zeros.subarray(0, Math.min(zeros.length, length - done)));
  }
}
