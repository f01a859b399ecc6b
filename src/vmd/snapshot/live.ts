/** Copies a machine's memory while its guest runs, in rounds: each has what was written in the last. */
import type { DirtyPages } from "../../vmm/dirty-log.ts";
import { NativeError, processLibrary, ptr } from "../../vmm/native.ts";
import { PAGE, type Run } from "../../vmm/snapshot/format.ts";
import type { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import { batches, usedBatches } from "../migration/passes.ts";
import type { VmLife } from "../vm-life.ts";

/** A guest that runs waits no longer than this at a time, ms. */
const SLICE = 2;
/** A stream without room is looked at so often, ms. */
const LOOK = 20;
/** Of so many rounds the last is the guest's stop, whatever is left. */
const ROUNDS = 30;
/** Rates of less than so many bytes say little. */
const MEASURABLE = 2 ** 20;
const AGAIN = -11;
const INTERRUPTED = -4;

/** A descriptor that perhaps doesn't block, and what it hasn't taken yet. */
export class StreamQueue {
  readonly #descriptor: number;
  readonly #queue: Uint8Array[] = [];

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  send(bytes: Uint8Array): void {
    this.#queue.push(bytes);
  }

  /** @returns whether all is written. @throws NativeError */
  flush(): boolean {
    for (; this.#queue.length > 0; this.#queue.shift()) {
      const [bytes] = this.#queue;
      for (let at = 0; at < bytes.length;) {
        const left = bytes.subarray(at);
        const written = Number(
          processLibrary().vmm_write(this.#descriptor, ptr(left), left.length),
        );
        if (written >= 0) at += written;
        else if (written === AGAIN) {
          this.#queue[0] = left;
          return false;
        } else if (written !== INTERRUPTED) throw new NativeError("writing it", written);
      }
    }
    return true;
  }
}

export class LiveCopy implements Disposable {
  readonly #life: VmLife;
  readonly #writer: SnapshotWriter;
  readonly #queue: StreamQueue;
  readonly #downtime: number;
  readonly #dirty: DirtyPages;
  #pass: Iterator<Run[]>;
  /** Rounds that are done. */
  rounds = 0;
  #begin: { at: number; bytes: number };
  /** Bytes per ms. */
  #rate = 0;
  /** The guest runs until then, ms. */
  #notBefore = 0;

  /**
   * @param queue where the writer's bytes go; empty now
   * @param downtime for about so long the guest may stand still for the rest, ms
   * @throws NativeError when the engine can't tell what the guest writes
   */
  constructor(
    life: VmLife,
    writer: SnapshotWriter,
    queue: StreamQueue,
    { pagemap, downtime }: { pagemap: number; downtime: number },
  ) {
    this.#life = life;
    this.#writer = writer;
    this.#queue = queue;
    this.#downtime = downtime;
    this.#dirty = life.dirty.follow();
    this.#pass = usedBatches(life.image, pagemap);
    this.#begin = { at: performance.now(), bytes: writer.written };
  }

  /**
   * Copies for a moment. @param hurry the guest doesn't run anyway
   * @returns ms after which to come again; undefined: only the rest is left
   * @throws NativeError
   */
  step(hurry: boolean): number | undefined {
    const from = performance.now();
    if (!hurry && from < this.#notBefore) return this.#notBefore - from;
    const until = hurry ? Infinity : from + SLICE;
    while (performance.now() <= until) {
      if (!this.#queue.flush()) return LOOK;
      const { done, value } = this.#pass.next();
      if (done === true) {
        if (this.#nextRound()) return undefined;
      } else if (value.length > 0) this.#writer.memory(this.#life.image.memory, value);
    }
    // The guest gets as much time as it lost.
    const now = performance.now();
    this.#notBefore = now + (now - from);
    return now - from;
  }

  /** @returns whether it was the last one */
  #nextRound(): boolean {
    const { at, bytes } = this.#begin;
    const now = performance.now();
    const sent = this.#writer.written - bytes;
    if (sent >= MEASURABLE || this.#rate === 0) this.#rate = sent / Math.max(now - at, 0.1);
    this.rounds++;
    const dirty = this.#dirty.collect();
    const fits = (dirty.count * PAGE) / this.#rate <= this.#downtime;
    if (fits || this.rounds >= ROUNDS) return true;
    this.#begin = { at: now, bytes: this.#writer.written };
    this.#pass = batches(dirty.copy().runs());
    this.#dirty.clear();
    return false;
  }

  /** Writes what was written since: the machine stands still. */
  rest(): void {
    this.#writer.memory(this.#life.image.memory, this.#dirty.collect().runs());
  }

  [Symbol.dispose](): void {
    this.#dirty[Symbol.dispose]();
  }
}
