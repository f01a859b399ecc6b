/**
 * Why engines differ: the table of causes. Each has a name, whose it is, and an explanation; what none of
 * them has is unexplained.
 *
 * The oracle is the architecture: Intel SDM (vol. 2 for instructions, vol. 3A for the system), AMD APM
 * where the processor is AMD's.
 */
import type { Cause, InstructionCause, PartialCause, Seen, StateCause } from "./cause.ts";
import type { Difference } from "./compare.ts";
import { EMULATOR_CAUSES } from "./causes-emulator.ts";
import { ALL_LAB_CAUSES, LAB_CAUSES, LAB_PARTIAL_CAUSES, LAB_STATE_CAUSES } from "./causes-lab.ts";
import { OPEN_CAUSES } from "./causes-open.ts";
import { SEQUENCE_CAUSES } from "./causes-sequence.ts";
import { UNCHECKED_SEGMENTS, UNICORN_CAUSES } from "./causes-unicorn.ts";
import type { Finding } from "./finding.ts";
import { inLab } from "./lab.ts";

const FLAGS_OF_RINGS: StateCause = {
  name: "flags of rings",
  by: "kvm_pvm",
  explanation:
    "In ring 3 kvm_pvm keeps no IOPL and no NT of the guest, and it clears AC when it delivers an exception.",
  covers: ({ what }) => /^(frame\.)?rflags\.(IOPL|AC|NT)$/.test(what),
};

const ACCESSED_AND_DIRTY: StateCause = {
  name: "accessed and dirty bits",
  by: "the manuals",
  explanation:
    "KVM's emulator fetches 15 bytes, so the next page's accessed bit may be set. A processor may set accessed bits ahead, too (SDM vol. 3A, 4.8).",
  covers: ({ what }) => what === "memory.tables",
};

/** What a table has: of a host whose KVM is an emulator, and of the lab. */
interface Table {
  readonly state: readonly StateCause[];
  readonly partial: readonly PartialCause[];
  readonly instructions: readonly InstructionCause[];
}

const HOST: Table = {
  state: [FLAGS_OF_RINGS, ACCESSED_AND_DIRTY],
  partial: [],
  instructions: [
    ...OPEN_CAUSES,
    ...EMULATOR_CAUSES,
    UNCHECKED_SEGMENTS,
    ...UNICORN_CAUSES,
    ...SEQUENCE_CAUSES,
  ],
};
/** A cause of KVM as an emulator is none in the lab. */
const isOfLab = ({ by }: Cause) => !/kvm_pvm|emulator/.test(by);

const LAB: Table = {
  state: [ACCESSED_AND_DIRTY, ...LAB_STATE_CAUSES],
  partial: LAB_PARTIAL_CAUSES,
  instructions: [
    ...LAB_CAUSES,
    ...OPEN_CAUSES,
    ...UNICORN_CAUSES,
    ...SEQUENCE_CAUSES.filter(isOfLab),
  ],
};

/** Of all hosts. */
export const ALL_CAUSES: readonly Cause[] = [
  FLAGS_OF_RINGS,
  ACCESSED_AND_DIRTY,
  ...OPEN_CAUSES,
  ...EMULATOR_CAUSES,
  UNCHECKED_SEGMENTS,
  ...UNICORN_CAUSES,
  ...SEQUENCE_CAUSES,
  ...ALL_LAB_CAUSES,
];

/**
 * The first cause of the table that a difference has, without what causes of parts cover; undefined: it
 * has to be looked at.
 */
export function causeOf(found: Finding, lab = inLab): Cause | undefined {
  const { partial, instructions } = lab ? LAB : HOST;
  const partOf = (one: Difference) => partial.find((cause) => cause.covers(one, found));
  const left = found.differences.filter((one) => partOf(one) === undefined);
  if (left.length === 0 && found.differences.length > 0) return partOf(found.differences[0]);
  const rest = { ...found, differences: left };
  return instructions.find((cause) => cause.matches(rest));
}

/** The cause that has nothing to do with the instruction, if it has one. */
export function stateCauseOf(difference: Difference, seen: Seen, lab = inLab): Cause | undefined {
  return (lab ? LAB : HOST).state.find((cause) => cause.covers(difference, seen));
}
