/** What a cause of a difference is. */
import type { Difference } from "./compare.ts";
import type { Finding } from "./finding.ts";

export interface Cause {
  readonly name: string;
  /** Whose it is: who differs from the manuals, or the manuals themselves. */
  readonly by: string;
  readonly explanation: string;
}

/** A cause that has nothing to do with the instruction: a difference is left out for it. */
export interface StateCause extends Cause {
  readonly covers: (difference: Difference) => boolean;
}

/** A cause of what an instruction did. */
export interface InstructionCause extends Cause {
  readonly matches: (found: Finding) => boolean;
}
