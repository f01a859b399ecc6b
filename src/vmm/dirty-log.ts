/**
 * Which pages of a machine's memory were written, for several who want to know it since different
 * times: a differential snapshot, a migration.
 *
 * The guest's writes are in the engine's log, which forgets what it has told; so one object asks it,
 * and adds what it hears to the set of each. Writes of JavaScript and of threads go through
 * GuestMemory. While nobody follows, nothing is asked and nothing is observed.
 */
import type { GuestMemory } from "./memory.ts";
import { PageSet } from "./snapshot/page-set.ts";

/** What of an engine is needed. */
export interface DirtySource {
  /** See Engine.dirtyPages. */
  dirtyPages(slot: number, bitmap: Uint8Array): number;
  /** Nobody asks any more. */
  endDirtyLog(): void;
}

/** The pages written since it was made, or since `clear`. */
export interface DirtyPages extends Disposable {
  /** As of the last `collect`, and of writes that GuestMemory has seen since. */
  readonly pages: PageSet;
  /** Asks the engine. @returns `pages` */
  collect(): PageSet;
  /** Forgets what was written so far: the engine is asked, too. */
  clear(): void;
}

export class DirtyLog {
  readonly #engine: DirtySource;
  readonly #memory: GuestMemory;
  readonly #sets: PageSet[] = [];
  #heard: PageSet | undefined;
  #unobserve: (() => void) | undefined;

  constructor(engine: DirtySource, memory: GuestMemory) {
    this.#engine = engine;
    this.#memory = memory;
  }

  /** Whether somebody follows. */
  get followed(): boolean {
    return this.#sets.length > 0;
  }

  /** @throws NativeError when the engine has no log */
  follow(): DirtyPages {
    // Before anything is kept: an engine may not be able to.
    this.#collect();
    const pages = new PageSet(this.#memory.ranges);
    this.#sets.push(pages);
    this.#unobserve ??= this.#memory.observeWrites((address, length) => {
      for (let i = 0; i < this.#sets.length; i++) this.#sets[i].add(address, length);
    });
    return {
      pages,
      collect: () => {
        this.#collect();
        return pages;
      },
      clear: () => {
        this.#collect();
        pages.clear();
      },
      [Symbol.dispose]: () => this.#leave(pages),
    };
  }

  #collect(): void {
    const heard = (this.#heard ??= new PageSet(this.#memory.ranges));
    heard.ranges.forEach(({ readonly }, slot) => {
      // The guest can't write ROM.
      if (readonly || this.#engine.dirtyPages(slot, heard.bitmaps[slot]) > 0) return;
      heard.bitmaps[slot].fill(0);
    });
    for (const pages of this.#sets) pages.addAll(heard);
  }

  #leave(pages: PageSet): void {
    const place = this.#sets.indexOf(pages);
    if (place < 0) return;
    this.#sets.splice(place, 1);
    if (this.#sets.length > 0) return;
    this.#unobserve?.();
    this.#unobserve = undefined;
    this.#heard = undefined;
    this.#engine.endDirtyLog();
  }
}
