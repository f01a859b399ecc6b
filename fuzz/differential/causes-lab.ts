/** Causes of the lab's processor, which is QEMU 7.2's: KVM there is real, the CPU below it emulated. */
import type { InstructionCause, StateCause } from "./cause.ts";
import { endingOf, faultOf, only } from "./finding.ts";

const by = "QEMU's TCG, the lab's processor";
const inLab = process.env.VMD_LAB !== undefined;

export const LAB_STATE_CAUSES: readonly StateCause[] = [
  {
    name: "RF of faults",
    by,
    explanation: "A fault doesn't push RF (SDM vol. 3A, 6.8.3 and 17.3.1.1 want it).",
    covers: ({ what }) => inLab && what === "frame.rflags.RF",
  },
];

const CAUSES: readonly InstructionCause[] = [
  {
    name: "LOCK isn't checked",
    by,
    explanation: "LOCK where it isn't allowed runs (SDM vol. 2A, LOCK: #UD). libunicorn did, too.",
    matches: (found) =>
      found.mnemonic === "INVALID" &&
      endingOf(found, "unicorn") === "#6" &&
      faultOf(found, "kvm") !== 6,
  },
  {
    name: "read-modify-writes fault as reads",
    by,
    explanation: "The error code of a page fault lacks W. libunicorn's did, too.",
    matches: (found) => only(found, /^frame\.code$/) && endingOf(found, "kvm") === "#14",
  },
  {
    name: "HLT's end",
    by: "KVM on the lab's processor",
    explanation:
      "Without the address of the next instruction KVM decodes HLT again to get behind it, and stays at it where that fails.",
    matches: (found) => only(found, /^rip$/),
  },
];

export const LAB_CAUSES: readonly InstructionCause[] = inLab ? CAUSES : [];
/** For the table. */
export const ALL_LAB_CAUSES = [...LAB_STATE_CAUSES, ...CAUSES];
