/**
 * Makes an input smaller while it still does what it did: delta debugging (Zeller, Hildebrandt: "Simplifying
 * and isolating failure-inducing input"), and bytes made simple, in turns.
 */

export interface MinimiseOptions {
  /** Whether the first `length` bytes of `input` still do it. */
  readonly holds: (input: Uint8Array, length: number) => boolean;
  /** Of `holds`. */
  readonly maxRuns: number;
  /** Smallest number of bytes that is taken out at once; 1 if absent. */
  readonly unit?: number;
  /** Whether bytes are made simple: to 0, or to fewer bits. */
  readonly simplify?: boolean;
}

/** Work that can be left between two runs. */
export type Steps<T> = Generator<void, T, void>;

/** What can still be asked, and the buffers to ask with. */
class Trial {
  best: Uint8Array;
  length: number;
  changes = 0;
  private runs = 0;
  private scratch: Uint8Array;

  constructor(
    input: Uint8Array,
    private readonly options: MinimiseOptions,
  ) {
    this.best = input.slice();
    this.length = input.length;
    this.scratch = new Uint8Array(input.length);
  }

  get spent(): boolean {
    return this.runs >= this.options.maxRuns;
  }

  private *ask(length: number): Steps<boolean> {
    if (this.spent) return false;
    this.runs++;
    const held = this.options.holds(this.scratch, length);
    yield;
    if (!held) return false;
    [this.best, this.scratch] = [this.scratch, this.best];
    this.length = length;
    this.changes++;
    return true;
  }

  /** Without the bytes from `start` to `end`. */
  without(start: number, end: number): Steps<boolean> {
    this.scratch.set(this.best.subarray(0, start));
    this.scratch.set(this.best.subarray(end, this.length), start);
    return this.ask(this.length - (end - start));
  }

  /** As if the byte at `at` were the length of what follows it: less by `size`, and so many bytes fewer. */
  *shortened(at: number, size: number): Steps<boolean> {
    const end = at + 1 + this.best[at];
    if (this.best[at] < size || end > this.length) return false;
    this.scratch.set(this.best.subarray(0, end - size));
    this.scratch.set(this.best.subarray(end, this.length), end - size);
    this.scratch[at] -= size;
    return yield* this.ask(this.length - size);
  }

  /** With all bytes from `start` to `end` being `value`. */
  filled(start: number, end: number, value: number): Steps<boolean> {
    this.scratch.set(this.best.subarray(0, this.length));
    this.scratch.fill(value, start, end);
    return this.ask(this.length);
  }
}

/** From the end, because a parser reads its input from the beginning. */
function* remove(trial: Trial, smallest: number): Steps<void> {
  let size = Math.max(smallest, 2 ** Math.ceil(Math.log2(Math.max(1, trial.length / 2))));
  while (!trial.spent && trial.length > 0) {
    let removed = false;
    for (let end = trial.length; end > 0 && !trial.spent; end -= size) {
      removed = (yield* trial.without(Math.max(0, end - size), end)) || removed;
    }
    // Something that couldn't go may be able to now.
    if (size > smallest) size = Math.max(smallest, size >> 1);
    else if (!removed) return;
  }
}

function allAre(bytes: Uint8Array, value: number): boolean {
  return bytes.every((byte) => byte === value);
}

function* simplify(trial: Trial): Steps<void> {
  let size = Math.max(1, 2 ** Math.ceil(Math.log2(Math.max(1, trial.length / 2))));
  for (; size >= 1 && !trial.spent; size = Math.floor(size / 2)) {
    for (let start = 0; start < trial.length; start += size) {
      const end = Math.min(trial.length, start + size);
      if (!allAre(trial.best.subarray(start, end), 0)) yield* trial.filled(start, end, 0);
    }
  }
  // What couldn't be 0 loses its bits, highest first, and gets less.
  for (let at = 0; at < trial.length; at++) {
    for (let bit = 0x80; bit > 0; bit >>= 1) {
      const byte = trial.best[at];
      if ((byte & bit) !== 0 && byte !== bit) yield* trial.filled(at, at + 1, byte & ~bit);
    }
    for (let step = 0x40; step > 0; step >>= 1) {
      if (trial.best[at] > step) yield* trial.filled(at, at + 1, trial.best[at] - step);
    }
  }
}

/** Takes out short blocks wherever they begin: a record of which no half can go. */
function* slide(trial: Trial): Steps<void> {
  for (const size of [2, 3, 4, 8]) {
    for (let at = trial.length - size; at >= 0; at--) {
      if (trial.spent) return;
      if (at + size <= trial.length) yield* trial.without(at, at + size);
    }
  }
}

/** Takes bytes out together with their count. */
function* shorten(trial: Trial): Steps<void> {
  for (let at = 0; at < trial.length; at++) {
    for (let size = 128; size >= 1; size >>= 1) while (yield* trial.shortened(at, size));
  }
}

/**
 * The smallest input found, in steps of one run each. With enough runs, no single unit of it can be left
 * out. The input itself is taken to hold.
 */
export function* minimising(input: Uint8Array, options: MinimiseOptions): Steps<Uint8Array> {
  const trial = new Trial(input, options);
  let changes = -1;
  // Simpler bytes may let others go.
  while (trial.changes !== changes && !trial.spent) {
    changes = trial.changes;
    yield* remove(trial, options.unit ?? 1);
    if (!options.simplify) break;
    yield* simplify(trial);
    if ((options.unit ?? 1) > 1) continue;
    yield* slide(trial);
    yield* shorten(trial);
  }
  return trial.best.slice(0, trial.length);
}

/** ... at once. */
export function minimise(input: Uint8Array, options: MinimiseOptions): Uint8Array {
  const steps = minimising(input, options);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}
