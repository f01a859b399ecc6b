/** Causes that are nobody's fault: what the manuals leave open, and what only hosts differ in. */
import type { InstructionCause } from "./causes.ts";
import { only } from "./finding.ts";

const REGISTERS = /^(r[a-ds][xip]|r[sbd][pi]|r\d+)$/;
const RESULT = /^(r[a-ds][xip]|r[sbd][pi]|r\d+|(frame\.)?rflags\..F|memory\..*)$/;

export const OPEN_CAUSES: readonly InstructionCause[] = [
  {
    name: "undefined flags carried on",
    by: "the manuals",
    explanation:
      "An instruction before this one left flags undefined, and they differed; this one reads or stores them (SDM vol. 1, appendix A).",
    matches: ({ carried, mnemonic }) =>
      carried &&
      /^(J|SET|CMOV|LOOP|ADC|SBB|RC[LR]|LAHF|PUSHF|INTO|SALC|AAA|AAS|DAA|DAS|FCMOV|CMC|SYSCALL|INT|CALL|IRET|INVALID)/.test(
        mnemonic,
      ),
  },
  {
    name: "BSWAP of 16 bits",
    by: "the manuals",
    explanation: "The result is undefined (SDM vol. 2A, BSWAP).",
    matches: (found) => found.mnemonic === "BSWAP" && only(found, REGISTERS),
  },
  {
    name: "shifts by more than the operand",
    by: "the manuals",
    explanation:
      "SHLD and SHRD of 16 bits by 17 to 31: result and flags are undefined. CF of SHL and SHR by more than the operand's size is, too (SDM vol. 2B).",
    matches: (found) => /^(SHLD|SHRD|SHL|SHR|SAL)$/.test(found.mnemonic) && only(found, RESULT),
  },
  {
    name: "rotations by the operand's size",
    by: "the manuals",
    explanation:
      "OF is undefined but for a count of 1, and processors differ in CF of a masked count of 0 (SDM vol. 2B, RCL/RCR/ROL/ROR).",
    matches: (found) =>
      /^(RO[LR]|RC[LR])$/.test(found.mnemonic) && only(found, /^(frame\.)?rflags\.[CO]F$/),
  },
  {
    name: "PUSH of a segment register",
    by: "the manuals",
    explanation:
      "With an operand of 32 or 64 bits either all of it is written or the lower 16 bits (SDM vol. 2B, PUSH).",
    matches: (found) =>
      /^PUSH/.test(found.mnemonic) &&
      /push [c-gs]s$/.test(found.text) &&
      only(found, /^memory\.(stack|data)$/),
  },
  {
    name: "SLDT, STR and SMSW of wide registers",
    by: "the manuals",
    explanation:
      "The upper half of a 32-bit destination is undefined (SDM vol. 2B, SMSW; SLDT, STR).",
    matches: (found) => /^(SLDT|STR|SMSW)/.test(found.mnemonic) && only(found, REGISTERS),
  },
  {
    name: "CPUID's values",
    by: "the host",
    explanation: "Each engine shows its own processor.",
    matches: (found) => found.mnemonic === "CPUID" && only(found, REGISTERS),
  },
  {
    name: "time",
    by: "the host",
    explanation: "RDTSC, and RDMSR of the TSC, tell the time.",
    matches: (found) => /^(RDTSC|RDTSCP|RDMSR)$/.test(found.mnemonic) && only(found, REGISTERS),
  },
];
