/** Causes that lie before the instruction that shows them: looked for last, as they fit whatever it is. */
import type { InstructionCause } from "./cause.ts";
import { only } from "./finding.ts";

const isNarrowBranch = (bytes: string) =>
  /^(..)*66/.test(bytes) && /^(66|67|2e|3e|26|36|64|65|f[023]|4.)*(0f8.|e8|e9)/.test(bytes);

export const SEQUENCE_CAUSES: readonly InstructionCause[] = [
  {
    name: "behind a hint NOP",
    by: "KVM's instruction emulator",
    explanation:
      "NOPs of 0F 19 to 0F 1F have no ModRM byte there, or can't be run, so what follows begins elsewhere.",
    matches: ({ earlier }) =>
      /^(26|2e|36|3e|6[4-7]|f[023]|4.)*0f1[9a-f]/.test(earlier.at(-1) ?? ""),
  },
  {
    name: "near branches behind 66",
    by: "the manuals",
    explanation:
      "In 64-bit mode Intel's processors leave the prefix 66 of a near branch out, AMD's and libunicorn take 16 bits of the target, so that what follows begins elsewhere (SDM vol. 2A, Jcc; AMD APM vol. 3, 1.2.7).",
    matches: ({ mode, earlier }) => mode === "long" && earlier.some(isNarrowBranch),
  },
  {
    name: "behind a load of CR0",
    by: "kvm_pvm",
    explanation:
      "MOV to CR0 that changes the mode leaves the processor in another one than it tells, so what follows is decoded or delivered by the wrong one.",
    matches: (found) =>
      found.mode !== "real" &&
      found.earlier.some((bytes) =>
        /^(26|2e|36|3e|6[4-7]|4.|f[023])*0f22([048c][0-7])$/.test(bytes),
      ),
  },
  {
    name: "branches into instructions",
    by: "the sequence",
    explanation:
      "A branch leads into the middle of an instruction of the sequence, to other memory, or to another code segment, so others run than were looked at: one of the other causes.",
    matches: ({ strayed }) => strayed,
  },
  {
    name: "tables and stacks that changed",
    by: "the sequence",
    explanation:
      "Vectors, descriptors, page tables, mode or stack aren't those of the beginning any more. So an exception that one engine raises ends elsewhere than in its handler, and a translation may be from before: one of the other causes.",
    matches: (found) => found.displaced && only(found, /^(ending|vector)$/),
  },
];
