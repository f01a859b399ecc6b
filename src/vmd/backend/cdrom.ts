/** A disc image behind a CD-ROM drive. */
import type { Chain } from "../virtio/chain.ts";
import type { CdromBackend } from "../virtio/scsi.ts";
import type { BlockBackend } from "../virtio/blk.ts";

type Done = (ok: boolean) => void;

export class DiscBackend implements CdromBackend {
  readonly #disk: BlockBackend;
  /** By tag: who is told. */
  readonly #out: (Done | undefined)[] = [];
  readonly #free: number[] = [];

  /** Takes over the disk. */
  constructor(disk: BlockBackend) {
    this.#disk = disk;
    disk.done = (tag, ok) => {
      const done = this.#out[tag];
      this.#out[tag] = undefined;
      this.#free.push(tag);
      done?.(ok);
    };
  }

  get size(): number {
    return this.#disk.size;
  }

  read(offset: number, chain: Chain, chainOffset: number, length: number, done: Done): void {
    const tag = this.#free.pop() ?? this.#out.length;
    this.#out[tag] = done;
    this.#disk.read(tag, chain, offset, length, chainOffset);
    // It may be done already.
    this.#disk.poll();
  }

  settle(): void {
    this.#disk.settle();
  }

  abandon(): void {
    this.#disk.abandon();
    this.#out.length = 0;
    this.#free.length = 0;
  }
}
