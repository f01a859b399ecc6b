/** What a cause of a difference is. */
import type { EngineName } from "../../src/vmm/engine.ts";
import type { Difference } from "./compare.ts";
import type { Finding } from "./finding.ts";

export interface Cause {
  readonly name: string;
  /** Whose it is: who differs from the manuals, or the manuals themselves. */
  readonly by: string;
  readonly explanation: string;
}

/** Where a difference was seen. */
export interface Seen {
  readonly engines: readonly [EngineName, EngineName];
  /** Of the exception in whose handler both ended; -1 for none. */
  readonly vector: number;
}

/** A cause that has nothing to do with the instruction: a difference is left out for it. */
export interface StateCause extends Cause {
  readonly covers: (difference: Difference, seen: Seen) => boolean;
}

/** A cause of what an instruction did. */
export interface InstructionCause extends Cause {
  readonly matches: (found: Finding) => boolean;
}

/** A cause of a part of what an instruction did: what else differs needs another. */
export interface PartialCause extends Cause {
  readonly covers: (difference: Difference, found: Finding) => boolean;
}
