/**
 * A disk of a machine that is fuzzed: what the guest writes stays in memory until the next run, and
 * everything is done at once. A run's input may be what its first bytes are.
 */
import type { Disk } from "../../src/vmd/disk/index.ts";
import { DiskError } from "../../src/vmd/disk/index.ts";
import type { BlockBackend } from "../../src/vmd/virtio/blk.ts";
import type { Chain } from "../../src/vmd/virtio/chain.ts";

/** Bytes that are kept together: a divisor of the largest request. */
const PIECE = 4096;
/** Bytes that a run may write. */
const WRITTEN_MAX = 2 ** 28;

export class OverlayDisk implements BlockBackend {
  done: (tag: number, ok: boolean) => void = () => {};
  readonly size: number;
  readonly readOnly: boolean;
  readonly #disk: Disk;
  readonly #pieces = new Map<number, Uint8Array>();
  /** What was written before the point; never changed after it. */
  #base = new Map<number, Uint8Array>();
  readonly #buffer = new Uint8Array(PIECE);
  #input: Uint8Array = new Uint8Array(0);

  /** @param disk only read */
  constructor(disk: Disk, readOnly: boolean) {
    this.#disk = disk;
    this.size = disk.size;
    this.readOnly = readOnly;
  }

  /** What was written up to now is what each run begins with. */
  keep(): void {
    this.#base = new Map([...this.#base, ...this.#pieces]);
    this.#pieces.clear();
  }

  /**
   * What was written since `keep` is gone.
   * @param input the disk's first bytes, the caller's: in this place the guest's writes are lost only
   * with the next run
   */
  rewind(input?: Uint8Array): void {
    this.#pieces.clear();
    this.#input = input ?? new Uint8Array(0);
  }

  read(tag: number, chain: Chain, offset: number, length: number, at = 0): void {
    this.done(
      tag,
      this.#each(offset, length, (piece, from, count, done) => {
        chain.write(at + done, piece.subarray(from, from + count));
      }),
    );
  }

  write(tag: number, chain: Chain, at: number, offset: number, length: number): void {
    this.done(
      tag,
      this.#change(offset, length, (piece, from, count, done) => {
        chain.read(at + done, piece.subarray(from, from + count));
      }),
    );
  }

  zero(tag: number, offset: number, length: number): void {
    this.done(
      tag,
      this.#change(offset, length, (piece, from, count) => {
        piece.fill(0, from, from + count);
      }),
    );
  }

  flush(tag: number): void {
    this.done(tag, true);
  }

  discard(tag: number): void {
    this.done(tag, true);
  }

  poll(): void {}
  settle(): void {}
  abandon(): void {}

  /** A piece as it is now; the same array for all that nobody wrote. @throws DiskError */
  #piece(number: number): Uint8Array {
    const written = this.#pieces.get(number) ?? this.#base.get(number);
    const start = number * PIECE;
    const isInput = start < this.#input.length && !this.#pieces.has(number);
    if (written !== undefined && !isInput) return written;
    const buffer = this.#buffer;
    if (written !== undefined) buffer.set(written);
    else {
      const length = Math.min(PIECE, this.size - start);
      this.#disk.read(start, buffer.subarray(0, length));
    }
    if (isInput)
      buffer.set(this.#input.subarray(start, Math.min(start + PIECE, this.#input.length)));
    return buffer;
  }

  #each(
    offset: number,
    length: number,
    use: (piece: Uint8Array, from: number, count: number, done: number) => void,
  ): boolean {
    try {
      for (let done = 0; done < length;) {
        const from = (offset + done) % PIECE;
        const count = Math.min(PIECE - from, length - done);
        use(this.#piece(Math.floor((offset + done) / PIECE)), from, count, done);
        done += count;
      }
      return true;
    } catch (error) {
      if (error instanceof DiskError) return false;
      throw error;
    }
  }

  #change(
    offset: number,
    length: number,
    change: (piece: Uint8Array, from: number, count: number, done: number) => void,
  ): boolean {
    return this.#each(offset, length, (piece, from, count, done) => {
      const number = Math.floor((offset + done) / PIECE);
      let own = this.#pieces.get(number);
      if (own === undefined) {
        if (this.#pieces.size * PIECE >= WRITTEN_MAX) throw new DiskError("a run wrote too much");
        own = piece.slice();
        this.#pieces.set(number, own);
      }
      change(own, from, count, done);
    });
  }
}
