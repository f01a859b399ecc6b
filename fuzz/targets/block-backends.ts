/** Disks and discs for targets: backends.ts. */
import type { GuestMemory } from "../../src/vmm/memory.ts";
import type { BlockBackend } from "../../src/vmd/virtio/blk.ts";
import type { Chain } from "../../src/vmd/virtio/chain.ts";
import type { CdromBackend } from "../../src/vmd/virtio/scsi.ts";
import { must } from "../own/target.ts";
import { checkSpans, type FuzzBackend, Pending } from "./backends.ts";

export class FuzzDisk implements BlockBackend, FuzzBackend {
  readonly size = 64 * 512;
  readonly readOnly: boolean;
  done: (tag: number, ok: boolean) => void = () => {};
  readonly #memory: GuestMemory;
  readonly #bytes = new Uint8Array(this.size);
  readonly #pending = new Pending();
  readonly #tags = new Set<number>();
  #failing = false;

  constructor(memory: GuestMemory, readOnly: boolean) {
    this.#memory = memory;
    this.readOnly = readOnly;
  }

  reset(): void {
    this.#pending.clear();
    this.#pending.atOnce = true;
    this.#tags.clear();
    this.#failing = false;
    this.#bytes.fill(0);
  }

  mode(bits: number): void {
    this.#pending.atOnce = (bits & 1) === 0;
    this.#failing = (bits & 2) !== 0;
  }

  finish(which: number): void {
    this.#pending.finish(which);
  }

  settleAll(): void {
    this.settle();
  }

  #begin(tag: number, offset: number, length: number, changes: boolean, work: () => void): void {
    must(!this.#tags.has(tag), `request ${tag} is under way twice`);
    must(offset >= 0 && length >= 0 && offset + length <= this.size, `disk: ${offset}+${length}`);
    must(!changes || !this.readOnly, "a write to a disk that is read-only");
    this.#tags.add(tag);
    this.#pending.add(() => {
      this.#tags.delete(tag);
      if (!this.#failing) work();
      this.done(tag, !this.#failing);
    });
  }

  read(tag: number, chain: Chain, offset: number, length: number, at = 0): void {
    checkSpans(this.#memory, chain, true, at, length);
    this.#begin(tag, offset, length, false, () => {
      chain.write(at, this.#bytes.subarray(offset, offset + length));
    });
  }

  write(tag: number, chain: Chain, at: number, offset: number, length: number): void {
    checkSpans(this.#memory, chain, false, at, length);
    this.#begin(tag, offset, length, true, () => {
      chain.read(at, this.#bytes.subarray(offset, offset + length));
    });
  }

  flush(tag: number): void {
    this.#begin(tag, 0, 0, false, () => {});
  }

  discard(tag: number, offset: number, length: number): void {
    this.#begin(tag, offset, length, true, () => {});
  }

  zero(tag: number, offset: number, length: number): void {
    this.#begin(tag, offset, length, true, () => {
      this.#bytes.fill(0, offset, offset + length);
    });
  }

  poll(): void {}

  settle(): void {
    this.#pending.all();
  }

  abandon(): void {
    this.#pending.clear();
    this.#tags.clear();
  }
}

export class FuzzDisc implements CdromBackend, FuzzBackend {
  readonly size = 64 * 2048;
  readonly #memory: GuestMemory;
  readonly #pending = new Pending();
  #failing = false;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  reset(): void {
    this.#pending.clear();
    this.#pending.atOnce = true;
    this.#failing = false;
  }

  mode(bits: number): void {
    this.#pending.atOnce = (bits & 1) === 0;
    this.#failing = (bits & 2) !== 0;
  }

  finish(which: number): void {
    this.#pending.finish(which);
  }

  settleAll(): void {
    this.settle();
  }

  read(
    offset: number,
    chain: Chain,
    at: number,
    length: number,
    done: (ok: boolean) => void,
  ): void {
    must(length > 0 && offset >= 0 && offset + length <= this.size, `disc: ${offset}+${length}`);
    checkSpans(this.#memory, chain, true, at, length);
    this.#pending.add(() => {
      const ok = !this.#failing;
      if (ok) chain.write(at, new Uint8Array(length).fill(offset >> 11));
      done(ok);
    });
  }

  settle(): void {
    this.#pending.all();
  }

  abandon(): void {
    this.#pending.clear();
  }
}
