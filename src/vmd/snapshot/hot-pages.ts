/**
 * Which pages a guest touches before its snapshot is written: what it needs first when it goes on.
 *
 * The software engine says what was read, written, run, and walked through as a page table. KVM says
 * what was written alone.
 */
import type { DirtyPages } from "../../vmm/dirty-log.ts";
import { Capability } from "../../vmm/engine.ts";
import { PageSet } from "../../vmm/snapshot/page-set.ts";
import type { VmLife } from "../vm-life.ts";

export class HotPages implements Disposable {
  readonly #life: VmLife;
  readonly #window: number;
  readonly #dirty: DirtyPages | undefined;
  readonly #begin = performance.now();
  #since = this.#begin;
  #before: PageSet;

  /**
   * @param window what was touched in the last so many ms, up to twice as many, is hot
   * @throws NativeError when the engine can tell nothing now
   */
  constructor(life: VmLife, window: number) {
    this.#life = life;
    this.#window = window;
    this.#before = new PageSet(life.image.memory.ranges);
    if (life.engine.can(Capability.TOUCHED)) life.engine.beginTouched();
    else this.#dirty = life.dirty.follow();
  }

  /** How much of the first window is left, ms. */
  get left(): number {
    return Math.max(0, this.#begin + this.#window - performance.now());
  }

  /** What was touched long ago is forgotten. */
  roll(): void {
    const now = performance.now();
    if (now - this.#since < this.#window) return;
    this.#before = this.#take();
    this.#since = now;
  }

  collect(): PageSet {
    const pages = this.#take();
    pages.addAll(this.#before);
    return pages;
  }

  #take(): PageSet {
    const { engine, image } = this.#life;
    if (this.#dirty !== undefined) {
      const pages = this.#dirty.collect().copy();
      this.#dirty.clear();
      return pages;
    }
    const pages = new PageSet(image.memory.ranges);
    pages.bitmaps.forEach((bitmap, slot) => engine.touchedPages(slot, bitmap));
    return pages;
  }

  [Symbol.dispose](): void {
    if (this.#dirty === undefined) this.#life.engine.endTouched();
    else this.#dirty[Symbol.dispose]();
  }
}
