/** What a target of our own code is. */

export interface Target {
  /** One word, its file's name. */
  readonly name: string;
  /** What it fuzzes, and what must hold: a sentence. */
  readonly about: string;
  /** Bytes. */
  readonly maxInput: number;
  /** Blocks of code that a run may enter; default: 400,000. */
  readonly steps?: number;
  /** Bytes that a run may allocate, by what it says in lengths; default: 64 MiB. */
  readonly memory?: number;
  /** Valid inputs to begin with. */
  seeds(): Iterable<Uint8Array>;
  /** Byte strings that mean something. */
  readonly dictionary?: readonly Uint8Array[];
  /** Errors that are right answers: their messages are sentences for users. */
  readonly answers?: readonly (abstract new (...args: never[]) => Error)[];
  /**
   * Runs one input, which is the target's own for that long, from the same state each time. It throws
   * what the code throws, and Wrong for what must not be.
   */
  run(input: Uint8Array): void;
}

/** Something that must hold doesn't. */
export class Wrong extends Error {
  override name = "Wrong";
}

/** @throws Wrong */
export function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Wrong(what);
}
