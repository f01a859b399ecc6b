/**
 * Why engines differ: the table of causes. Each has a name, whose it is, and an explanation; what none of
 * them has is unexplained.
 *
 * The oracle is the architecture: Intel SDM (vol. 2 for instructions, vol. 3A for the system), AMD APM
 * where the processor is AMD's.
 */
import type { Cause, InstructionCause, StateCause } from "./cause.ts";
import type { Difference } from "./compare.ts";
import { EMULATOR_CAUSES } from "./causes-emulator.ts";
import { ALL_LAB_CAUSES, LAB_CAUSES, LAB_STATE_CAUSES } from "./causes-lab.ts";
import { OPEN_CAUSES } from "./causes-open.ts";
import { SEQUENCE_CAUSES } from "./causes-sequence.ts";
import { UNICORN_CAUSES } from "./causes-unicorn.ts";
import type { Finding } from "./finding.ts";

export const STATE_CAUSES: readonly StateCause[] = [
  {
    name: "flags of rings",
    by: "kvm_pvm",
    explanation:
      "In ring 3 kvm_pvm keeps no IOPL and no NT of the guest, and it clears AC when it delivers an exception.",
    covers: ({ what }) => /^(frame\.)?rflags\.(IOPL|AC|NT)$/.test(what),
  },
  {
    name: "accessed and dirty bits",
    by: "the manuals",
    explanation:
      "KVM's emulator fetches 15 bytes, so the next page's accessed bit may be set. A processor may set accessed bits ahead, too (SDM vol. 3A, 4.8).",
    covers: ({ what }) => what === "memory.tables",
  },
];

const CAUSES: readonly InstructionCause[] = [
  ...LAB_CAUSES,
  ...OPEN_CAUSES,
  ...EMULATOR_CAUSES,
  ...UNICORN_CAUSES,
  ...SEQUENCE_CAUSES,
];

/** Of all hosts. */
export const ALL_CAUSES: readonly Cause[] = [
  ...STATE_CAUSES,
  ...OPEN_CAUSES,
  ...EMULATOR_CAUSES,
  ...UNICORN_CAUSES,
  ...SEQUENCE_CAUSES,
  ...ALL_LAB_CAUSES,
];

/** The first cause of the table that a difference has; undefined: it has to be looked at. */
export function causeOf(found: Finding): Cause | undefined {
  return CAUSES.find((cause) => cause.matches(found));
}

/** The cause that has nothing to do with the instruction, if it has one. */
export function stateCauseOf(difference: Difference): Cause | undefined {
  return [...STATE_CAUSES, ...LAB_STATE_CAUSES].find((cause) => cause.covers(difference));
}
