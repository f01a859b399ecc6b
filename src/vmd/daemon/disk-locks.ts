/**
 * Locks on a VM's disks that can be let go while it has them open: somebody else is to run it. A lock
 * belongs to all descriptors of one opening; the VM's process has one, this has another.
 */
import { closeSync } from "node:fs";
import { daemonLibrary } from "../../vmm/native.ts";
import type { OpenedDisk } from "../disk-files.ts";

/** How long another may take to let go of a disk, ms. */
const PATIENCE = 10_000;
const RETRY = 20;

export class DiskLocks implements Disposable {
  /** By place; read-only disks have none. */
  readonly #disks = new Map<number, { name: string; descriptor: number }>();
  /** Others may have them. */
  released = false;

  /** Of disks that were just opened, and so locked. */
  constructor(disks: readonly OpenedDisk[]) {
    for (const [place, { readOnly, files }] of disks.entries()) {
      if (!readOnly) this.#keep(place, files[0]);
    }
  }

  #keep(place: number, { name, descriptor }: { name: string; descriptor: number }): void {
    const again = daemonLibrary().vmm_duplicate(descriptor);
    if (again >= 0) this.#disks.set(place, { name, descriptor: again });
  }

  /**
   * New images take what is written from now on; those before are bases, whose locks the VM's process
   * has. @param images open, and locked
   */
  rebase(images: readonly { place: number; name: string; descriptor: number }[]): void {
    for (const { place, ...image } of images) {
      const before = this.#disks.get(place);
      if (before !== undefined) closeSync(before.descriptor);
      this.#keep(place, image);
    }
  }

  /** Others may have the disks. */
  release(): void {
    this.released = true;
    for (const { descriptor } of this.#disks.values()) daemonLibrary().vmm_lock(descriptor, -1);
  }

  /** Takes them back, if they were released. @returns why that can't be, as a sentence */
  async take(patience = PATIENCE): Promise<string | undefined> {
    if (!this.released) return undefined;
    const end = performance.now() + patience;
    for (const { name, descriptor } of this.#disks.values()) {
      while (daemonLibrary().vmm_lock(descriptor, 1) < 0) {
        if (performance.now() > end) {
          this.release();
          return `${name}: in use by another VM`;
        }
        await Bun.sleep(RETRY);
      }
    }
    this.released = false;
    return undefined;
  }

  [Symbol.dispose](): void {
    for (const { descriptor } of this.#disks.values()) closeSync(descriptor);
    this.#disks.clear();
  }
}
