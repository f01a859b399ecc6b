/** Causes that are nobody's fault: what the manuals leave open, and what only hosts differ in. */
import type { InstructionCause } from "./cause.ts";
import { endingOf, faultOf, isBranch, only } from "./finding.ts";

const REGISTERS = /^(r[a-ds][xip]|r[sbd][pi]|r\d+)$/;
const RESULT = /^(r[a-ds][xip]|r[sbd][pi]|r\d+|(frame\.)?rflags\..F|memory\..*)$/;

const lower = (value: string) => BigInt(value) & 0xffffffffn;

export const OPEN_CAUSES: readonly InstructionCause[] = [
  {
    name: "undefined flags carried on",
    by: "the manuals",
    explanation:
      "An instruction before this one left flags undefined, and they differed; this one reads or stores them (SDM vol. 1, appendix A).",
    matches: (found) =>
      found.carried &&
      (/^(J|SET|CMOV|LOOP|ADC|SBB|RC[LR]|LAHF|PUSHF|INTO|SALC|AAA|AAS|DAA|DAS|FCMOV|CMC|SYSCALL|INT|CALL|IRET|INVALID)/.test(
        found.mnemonic,
      ) ||
        // An exception pushes them, and where its handler is overwritten nobody takes them for flags.
        (/^I?DIV$/.test(found.mnemonic) && only(found, /^memory\./))),
  },
  {
    name: "code that changed itself",
    by: "the sequence",
    explanation:
      "What ran isn't the sequence any more but bytes that it wrote over itself: one of the other causes.",
    matches: ({ changedItself }) => changedItself,
  },
  {
    name: "order of two operands",
    by: "the manuals",
    explanation: "Of CMPS's and MOVS's two addresses either may fault or exit first.",
    matches: (found) =>
      /^(CMPS|MOVS)[BWDQ]$/.test(found.mnemonic) &&
      only(found, /^(cr2|frame\.code|vector|ending|memory\..*)$/) &&
      found.endings.every((ending) => /^(#1[234]|read|write)/.test(ending)),
  },
  {
    name: "upper halves outside of 64-bit mode",
    by: "the manuals",
    explanation:
      "What bits 32 to 63 of registers are after other modes is undefined (SDM vol. 1, 3.4.1.1).",
    matches: (found) =>
      found.mode !== "long" &&
      found.differences.every(({ what, a, b }) => REGISTERS.test(what) && lower(a) === lower(b)),
  },
  {
    name: "BSWAP of 16 bits",
    by: "the manuals",
    explanation: "The result is undefined (SDM vol. 2A, BSWAP).",
    matches: (found) =>
      found.mnemonic === "BSWAP" && only(found, /^(r.*|.*memory.*|vector|ending|cr2|frame.*)$/),
  },
  {
    name: "shifts by more than the operand",
    by: "the manuals",
    explanation:
      "SHLD and SHRD of 16 bits by 17 to 31: result and flags are undefined. CF of SHL and SHR by more than the operand's size is, too (SDM vol. 2B).",
    matches: (found) =>
      (/^(SHLD|SHRD)$/.test(found.mnemonic) && /_r16_/.test(found.form) && only(found, RESULT)) ||
      (/^(SHL|SHR|SAL|SHLD|SHRD)$/.test(found.mnemonic) && only(found, /^(frame\.)?rflags\..F$/)),
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
      found.mnemonic.startsWith("PUSH") &&
      /push [c-gs]s$/.test(found.text) &&
      only(found, /^memory\./),
  },
  {
    name: "SLDT, STR and SMSW of wide registers",
    by: "the manuals",
    explanation:
      "The upper half of a 32-bit destination is undefined (SDM vol. 2B, SMSW; SLDT, STR).",
    matches: (found) =>
      /^(SLDT|STR|SMSW)/.test(found.mnemonic) &&
      // A fault behind it pushes ESP.
      only(found, found.text.endsWith(" esp") ? /^(rsp|memory\.stack)$/ : REGISTERS),
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
  {
    name: "what branches lead to",
    by: "the sequence",
    explanation:
      "A branch into memory of other content runs what lies there: one of the other causes.",
    matches: (found) =>
      isBranch(found) &&
      (found.endings.some((ending) => !/^#(12|13|14)$/.test(ending)) ||
        // What no branch changes.
        only(found, /^(st\d|xmm\d+|fsw|ftw|fcw|mxcsr)$/)),
  },
  {
    name: "far pointers of 64 bits",
    by: "the manuals",
    explanation:
      "LSS, LFS and LGS behind REX.W load 64 bits and the selector behind them on Intel's processors (SDM vol. 2A, LDS), 32 bits and the selector behind those on AMD's and in libunicorn.",
    matches: (found) =>
      /^L[SFG]S$/.test(found.mnemonic) &&
      (only(found, REGISTERS) || /^L[sfg]s_r64_m1664$/.test(found.form)),
  },
  {
    name: "BSF and BSR of zero",
    by: "the manuals",
    explanation: "The destination is undefined (SDM vol. 2A, BSF).",
    matches: (found) => /^BS[FR]$/.test(found.mnemonic) && only(found, REGISTERS),
  },
  {
    name: "features that aren't offered",
    by: "the host",
    explanation:
      "LZCNT, TZCNT, POPCNT, TPAUSE and what there is of AVX and others in ring 3 run where the host's processor has them, whatever CPUID says; else they are BSR, BSF or undefined.",
    matches: (found) =>
      (found.mnemonic === "POPCNT" &&
        only(found, /^vector$/) &&
        !/f2f3|f3f2/.test(found.bytes.toHex())) ||
      /^(LZCNT|TZCNT|CLDEMOTE|ADCX|ADOX|ENDBR|RDSSP|TPAUSE)/.test(found.mnemonic) ||
      (/^(VP[A-Z]+|XGETBV|UMONITOR|UMWAIT)$/.test(found.mnemonic) && found.cpl === 3) ||
      (/^(RDTSCP|CLZERO|MONITORX|MWAITX)$/.test(found.mnemonic) &&
        found.cpl === 3 &&
        faultOf(found, "unicorn") === 6),
  },
  {
    name: "stores of no byte",
    by: "the manuals",
    explanation:
      "Whether MASKMOVQ and MASKMOVDQU fault with a mask that selects nothing is the processor's (SDM vol. 2B).",
    matches: (found) =>
      /^MASKMOV(Q|DQU)$/.test(found.mnemonic) &&
      endingOf(found, "kvm") === "#14" &&
      endingOf(found, "unicorn") !== "#14",
  },
  {
    name: "the end of FXSAVE's area",
    by: "the manuals",
    explanation:
      "Whether FXSAVE faults on the bytes of its area that it doesn't write isn't said (SDM vol. 1, 10.5.1).",
    matches: (found) =>
      /^FXSAVE(64)?$/.test(found.mnemonic) &&
      endingOf(found, "kvm") === "#14" &&
      endingOf(found, "unicorn") !== "#14",
  },
];
