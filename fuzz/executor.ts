/**
 * What runs one input after the other, each from the same state: a guest's snapshot on an engine, or a
 * function of our own. Campaigns (campaign/) know nothing else of what they fuzz.
 */

/** How a run ended. */
export const Verdict = {
  /** The target says that it is done with the input. */
  DONE: 0,
  /** The budget of instructions, blocks or steps is used up. */
  TIMEOUT: 1,
  CRASH: 2,
  /** The target can't go on, through no fault of the input's: the campaign stops with `failure`. */
  FAILED: 3,
} as const;

export type Verdict = (typeof Verdict)[keyof typeof Verdict];

/** What of a run's coverage nobody saw before. */
export const Novelty = {
  NONE: 0,
  /** Known edges, a known one more or less often than ever (in AFL's eight buckets). */
  COUNTS: 1,
  EDGES: 2,
} as const;

export type Novelty = (typeof Novelty)[keyof typeof Novelty];

/** A crash or hang, as it was found. */
export interface CrashReport {
  /** Of the field's words: "page fault", "triple fault", "panic", "hypercall", "timeout", "exception" … */
  readonly kind: string;
  /** One sentence for people. */
  readonly text: string;
  /** Where it happened, and whence it was called, innermost first: addresses or names. */
  readonly stack: readonly string[];
}

/** A comparison that a run made. Both operands, little-endian, `size` bytes. */
export interface Compare {
  /** Where it was made: equal for all runs. */
  readonly at: number;
  readonly size: number;
  readonly left: Uint8Array;
  readonly right: Uint8Array;
}

export interface Executor {
  /** Bytes; longer inputs are never given. */
  readonly maxInput: number;
  /** Places of the coverage map. */
  readonly mapSize: number;
  /**
   * Runs the first `length` bytes of `input` from the beginning state. What one run leaves is gone in
   * the next.
   */
  run(input: Uint8Array, length: number): Verdict;
  /** Of the last run; marks what it found as seen. */
  novelty(): Novelty;
  /** Edges that any run has touched so far. */
  readonly edgesSeen: number;
  /** Edges of the last run: indexes into the map, ascending; valid until the next run. */
  edges(): Uint32Array;
  /** A hash of the last run's whole coverage, counts included: equal runs have equal ones. */
  coverageHash(): number;
  /**
   * What the last run cost, in the executor's unit: instructions, blocks or steps. Equal runs have equal
   * ones. Absent: its edges are counted.
   */
  cost?(): number;
  /** Of the last run, when it was CRASH or TIMEOUT. */
  crash(): CrashReport | undefined;
  /**
   * Each place is told of once, by whatever run gets there first: runs can't be compared by their
   * coverage.
   */
  readonly once?: boolean;
  /** Runs the input once more and tells the comparisons that it made. Absent: it can't be told. */
  compares?(input: Uint8Array, length: number): readonly Compare[];
  /** Runs the input once more and gives its exit trace, as a file's bytes. Absent: there is none. */
  trace?(input: Uint8Array, length: number): Uint8Array;
  /** Resets that were compared with the snapshot, and those that were equal to it. */
  readonly fidelity?: { readonly checked: number; readonly equal: number };
  /** Why it is FAILED: a sentence. */
  readonly failure?: string;
  /** Frees what it holds: it isn't used any more. */
  close?(): void;
}
