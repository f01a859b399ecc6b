/** Causes of libunicorn 2.0.1, that are known and left as they are. */
import type { InstructionCause } from "./cause.ts";
import type { Finding } from "./finding.ts";
import {
  difference,
  endingOf,
  faultOf,
  isBranch,
  only,
  prefixedBase,
  prefixesOf,
  usesMemory,
  valueOf,
} from "./finding.ts";

const by = "libunicorn";

// "read 0x10325/4" → [read, 0x10325, 4].
function access(ending: string): { kind: string; at: number; size: number } | undefined {
  const found = /^(read|write) 0x([0-9a-f]+)\/(\d)/.exec(ending);
  if (found === null) return undefined;
  return { kind: found[1], at: parseInt(found[2], 16), size: Number(found[3]) };
}

// F6 or F7, and a ModRM byte of /1.
function isByOne(bytes: Uint8Array): boolean {
  return bytes.some((byte, i) => (byte & 0xfe) === 0xf6 && ((bytes[i + 1] >> 3) & 7) === 1);
}

// A REX with another prefix behind it, which makes it void.
function hasVoidRex(bytes: Uint8Array): boolean {
  const prefixes = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];
  return bytes.some((byte, i) => (byte & 0xf0) === 0x40 && prefixes.includes(bytes[i + 1]));
}

// String instructions and XLAT say so without brackets of their own, LEA's aren't an access.
function usesDataOf(found: Finding): boolean {
  return usesMemory(found) && found.mnemonic !== "LEA";
}

// "0xad0f: 001038b460d41e92".
function isZeroBeforeInput(found: Finding): boolean {
  const zero = found.engines[0] === "unicorn" ? "a" : "b";
  return (
    found.endings[0] === found.endings[1] &&
    (found.endings[0].startsWith("in ") || (isBranch(found) && found.displaced)) &&
    found.differences.every((one) => one.what.startsWith("memory.") && one[zero].includes(": 00"))
  );
}

const IS_FLOATING =
  /^(st\d|xmm\d+|fsw|ftw|fcw|mxcsr|(frame\.)?rflags\.[CZPASO]F|memory\.(data|stack|code|vectors))$/;

/** Not of the lab, whose processor checks no segments either. */
export const UNCHECKED_SEGMENTS: InstructionCause = {
  name: "segments aren't checked",
  by,
  explanation:
    "No access is checked against a segment's limit and type, and none is refused for a null selector: #GP and #SS for that don't come, but for what loads the segments.",
  matches: (found) =>
    found.mode !== "long" &&
    [12, 13].includes(faultOf(found, "kvm")) &&
    ![12, 13].includes(faultOf(found, "unicorn")) &&
    usesMemory(found),
};

export const UNICORN_CAUSES: readonly InstructionCause[] = [
  {
    name: "#SS and #GP of addresses that aren't canonical",
    by,
    explanation:
      "An address through RSP or RBP that isn't canonical is #SS(0); there it is #GP(0).",
    matches: (found) => endingOf(found, "kvm") === "#12" && endingOf(found, "unicorn") === "#13",
  },
  {
    name: "alignment isn't checked",
    by,
    explanation:
      "CR0.AM and RFLAGS.AC make no #AC; SSE's operands of 16 bytes aren't checked either.",
    matches: (found) => faultOf(found, "kvm") === 17,
  },
  {
    name: "MMIO in aligned pieces",
    by,
    explanation:
      "An access to MMIO that isn't aligned, or is larger than 4 bytes, exits as aligned reads that hold it, or as single bytes written.",
    matches: (found) => {
      const [a, b] = [endingOf(found, "kvm"), endingOf(found, "unicorn")].map(access);
      if (a === undefined || b === undefined || a.kind !== b.kind) return false;
      return Math.abs(a.at - b.at) < 8;
    },
  },
  {
    name: "TEST by /1",
    by,
    explanation:
      "F6 /1 and F7 /1 are TEST, too (AMD APM vol. 3, appendix A); here they are undefined.",
    matches: (found) =>
      found.mnemonic === "TEST" && (faultOf(found, "unicorn") === 6 || isByOne(found.bytes)),
  },
  {
    name: "INS writes before it reads",
    by,
    explanation: "INS stores a zero first, to fault before the port is read; the exit shows it.",
    matches: (found) =>
      (found.mnemonic.startsWith("INS") &&
        (only(found, /^memory\./) || /^(in|write) /.test(endingOf(found, "unicorn")))) ||
      // What came before led to one.
      ((found.strayed || found.displaced) && isZeroBeforeInput(found)),
  },
  {
    name: "accessed bit of code",
    by,
    explanation:
      "A far transfer doesn't set the accessed bit in the descriptor of its code segment.",
    matches: (found) => only(found, /^memory\.descriptors$/),
  },
  {
    name: "CLFLUSH touches nothing",
    by,
    explanation: "CLFLUSH and the prefetches don't translate their address, so fault nowhere.",
    matches: (found) => /^(CLFLUSH|PREFETCH)/.test(found.mnemonic),
  },
  {
    name: "loads in parts",
    by,
    explanation:
      "SSE's loads of 16 bytes, FLDENV, FRSTOR and FXRSTOR load parts: what a page fault ends halfway is changed already, CR2 is the part's, and what FLDENV and FRSTOR don't need isn't read.",
    matches: (found) =>
      (/^(MOV(DQ|UP|AP)[AUSD]|LDDQU|FLDENV|FRSTOR|FXRSTOR(64)?)$/.test(found.mnemonic) &&
        found.endings.every((ending) => ending === "#14") &&
        only(found, /^(cr2|st\d|xmm\d+|fcw|fsw|ftw|mxcsr)$/)) ||
      (/^(FLDENV|FRSTOR)$/.test(found.mnemonic) &&
        faultOf(found, "kvm") === 14 &&
        faultOf(found, "unicorn") !== 14),
  },
  {
    name: "FXSAVE leaves the opcode",
    by,
    explanation:
      "Bytes 6 and 7 of FXSAVE's area are the last x87 instruction's opcode (SDM vol. 1, table 10-2); here they stay as they were.",
    matches: (found) =>
      /^FXSAVE(64)?$/.test(found.mnemonic) &&
      found.differences.every(({ what, a }) => /^memory\.\S+$/.test(what) && /[67]:/.test(a)),
  },
  {
    name: "floating point",
    by,
    explanation:
      "x87 stack faults and unmasked exceptions don't come, and status bits, NaN payloads and denormals differ in places.",
    matches: (found) =>
      (only(found, IS_FLOATING) && /^(F|WAIT|CVT|[A-Z]+[SP][SD]$)/.test(found.mnemonic)) ||
      (faultOf(found, "kvm") === 19 && faultOf(found, "unicorn") !== 19) ||
      (faultOf(found, "kvm") === 16 && /^(F|WAIT)/.test(found.mnemonic)),
  },
  {
    name: "reserved encodings run",
    by,
    explanation:
      "Encodings that are reserved, as SSE's memory-only instructions with a register, run as if they had a meaning, or look at #NM and operands before #UD.",
    matches: (found) => found.mnemonic === "INVALID" && endingOf(found, "kvm") === "#6",
  },
  {
    name: "prefetches of a register",
    by,
    explanation: "0F 0D and 0F 18 with a register are undefined here, and NOPs on processors.",
    matches: (found) =>
      /^(RESERVEDNOP|PREFETCH.*)$/.test(found.mnemonic) && faultOf(found, "unicorn") === 6,
  },
  {
    name: "CMPXCHG of unequal registers",
    by,
    explanation:
      "With an operand of 32 bits in a register that isn't equal, the register's upper half is cleared; processors leave it.",
    matches: (found) => found.mnemonic === "CMPXCHG" && only(found, /^r/),
  },
  {
    name: "INS looks at memory first",
    by,
    explanation: "INS and OUTS fault on their memory before the port, or the other way round.",
    matches: (found) => /^(INS|OUTS)/.test(found.mnemonic),
  },
  {
    name: "MMX leaves exponents",
    by,
    explanation:
      "A write of an MMX register sets bits 64 to 79 of its x87 register (SDM vol. 1, 9.2.3) and marks all as valid; here they stay.",
    matches: (found) =>
      (/\bmm\d/.test(found.text) || found.mnemonic === "EMMS") &&
      only(found, /^(st\d|ftw|fsw|memory\..*|frame.*|rflags.*)$/),
  },
  {
    name: "fetches over the end of a page",
    by,
    explanation:
      "A block of code that goes on over a page that isn't there faults as a whole: at its beginning, before what comes first has run.",
    matches: (found) => {
      if (!found.endings.every((ending) => ending === "#14")) return false;
      const [page, code] = ["cr2", "frame.code"].map((what) => valueOf(found, what, "unicorn"));
      const [later, at] = [
        valueOf(found, "frame.rip", "kvm"),
        valueOf(found, "frame.rip", "unicorn"),
      ];
      // A fetch of the next page; or the same fault, of an instruction that comes later.
      if (page !== undefined && code !== undefined)
        return page % 0x1000 === 0 && (code & 0x10) !== 0;
      return later! > at! && later! >>> 12 === at! >>> 12 && later! % 0x1000 > 0xff0;
    },
  },
  {
    name: "which page of two",
    by,
    explanation:
      "Where an access spans two pages and neither may be accessed so, the second is the one that faults.",
    matches: (found) =>
      endingOf(found, "kvm") === "#14" && only(found, /^(cr2|frame\.code|memory\..*|r..)$/),
  },
  {
    name: "alignment of 16 bytes",
    by,
    explanation: "SSE's and FXSAVE's operands needn't be aligned: no #GP, or not before #PF.",
    matches: (found) =>
      found.text.includes("[") &&
      /^(FX|MOV[ADN]|[A-Z]+[SP][SD]$|P[A-Z]+|CVT|LDDQU|MASK|MPSADBW|AES)/.test(found.mnemonic) &&
      (faultOf(found, "kvm") === 13 || faultOf(found, "unicorn") === 13),
  },
  {
    name: "LOCK NEG behind another prefix",
    by,
    explanation: "LOCK NEG sets flags by its operand, unless LOCK is its first byte.",
    matches: (found) => found.mnemonic === "NEG" && only(found, /^(frame\.)?rflags\..F$/),
  },
  {
    name: "long instructions",
    by,
    explanation:
      "An instruction of more than 15 bytes is #GP; the decoder's limit is looked at elsewhere.",
    matches: (found) => found.bytes.length > 14 && only(found, /^(vector|ending|frame\..*)$/),
  },
  {
    name: "REX before another prefix",
    by,
    explanation:
      "REX counts only right before the opcode (SDM vol. 2A, 2.2.1); here it counts anywhere.",
    matches: (found) => found.mode === "long" && hasVoidRex(found.bytes),
  },
  {
    name: "bases of segments in 64-bit mode",
    by,
    explanation:
      "The prefixes 26, 2E, 36 and 3E mean nothing in 64-bit mode (SDM vol. 1, 3.3.7); here the base of ES, CS, SS or DS is added where it isn't zero.",
    matches: (found) => found.mode === "long" && prefixedBase(found) !== 0 && usesDataOf(found),
  },
  {
    name: "LGDT and LIDT behind 66",
    by,
    explanation:
      "In 64-bit mode the base is of 64 bits whatever the operand's size (SDM vol. 2A, LGDT/LIDT); here it is of 24.",
    matches: (found) =>
      found.mode === "long" &&
      /^L[GI]DT$/.test(found.mnemonic) &&
      prefixesOf(found).includes(0x66) &&
      only(found, /^[gi]dt\.base$/),
  },
  {
    name: "flags of repeated comparisons that fault",
    by,
    explanation:
      "A page fault of a repeated CMPS or SCAS restores the flags from before the instruction (SDM vol. 2B, REP); here they are those of the last round.",
    matches: (found) =>
      /^(CMPS|SCAS)[BWDQ]$/.test(found.mnemonic) &&
      found.endings.every((ending) => ending === "#14") &&
      only(found, /^(frame\.)?rflags\.[CPAZSO]F$/),
  },
  {
    name: "REX.R of C6 and C7",
    by,
    explanation:
      "REX.R means nothing where the ModRM byte's reg field is part of the opcode; MOV of an immediate is undefined with it here.",
    matches: (found) =>
      found.mode === "long" &&
      found.mnemonic === "MOV" &&
      /4[4-7cdef]c[67]/.test(found.bytes.toHex()) &&
      faultOf(found, "unicorn") === 6,
  },
  {
    name: "66, F2 and F3 together",
    by,
    explanation:
      "Of F2 and F3 the last counts, and either before 66 (as in iced-x86's tables); here 66 counts first, F2 before F3 of a string, and CRC32 behind F2 and F3 is undefined.",
    matches: (found) => {
      const prefixes = prefixesOf(found);
      const [narrow, repeat, repeatNot] = [0x66, 0xf3, 0xf2].map((byte) => prefixes.includes(byte));
      if (found.mnemonic === "CRC32") {
        return repeat && repeatNot && faultOf(found, "unicorn") === 6;
      }
      if (/^(CMPS|SCAS)[BWDQ]$/.test(found.mnemonic)) return repeat && repeatNot;
      return (
        [narrow, repeat, repeatNot].filter(Boolean).length > 1 &&
        (faultOf(found, "unicorn") === 6 ||
          only(
            found,
            /^(xmm\d+|r[a-ds][xip]|r[sbd]p|r\d+|st\d|ftw|fsw|mxcsr|rflags.*|frame.*)$/,
          )) &&
        /^(..)*0f/.test(found.bytes.toHex())
      );
    },
  },
  {
    name: "LOCK over its own block",
    by,
    explanation:
      "A read-modify-write with LOCK that writes into the block of code that it is translated in is done twice.",
    matches: (found) =>
      found.text.startsWith("lock ") &&
      difference(found, "memory.code") !== undefined &&
      only(found, /^(memory\.code|(frame\.)?rflags\.[CPAZSO]F)$/),
  },
  {
    name: "MOVBE in 16-bit code",
    by,
    explanation:
      "The prefix 66 makes its operand 16 bits wide there, too, and without it there are 32 (SDM vol. 2B, MOVBE has it the other way round).",
    matches: (found) =>
      found.mnemonic === "MOVBE" &&
      (found.mode === "real" || found.mode === "prot16") &&
      !found.displaced,
  },
  {
    name: "POPCNT in 16-bit code",
    by,
    explanation: "Without a prefix 66 it counts 32 bits there, and writes as many.",
    matches: (found) =>
      found.mnemonic === "POPCNT" &&
      (found.mode === "real" || found.mode === "prot16") &&
      !prefixesOf(found).includes(0x66) &&
      only(found, /^(r[a-ds][xip]|r[sbd][pi]|(frame\.)?rflags\..F)$/),
  },
  {
    name: "ENTER of 16 bits on a stack of 32",
    by,
    explanation:
      "With an operand of 16 bits and a stack of 32 BP is written (AMD APM vol. 3, ENTER); here EBP is.",
    matches: (found) => {
      const [a, b] = [valueOf(found, "rbp", "kvm"), valueOf(found, "rbp", "unicorn")];
      if (found.mnemonic !== "ENTER" || a === undefined || b === undefined) return false;
      return only(found, /^rbp$/) && ((a ^ b) & 0xffff) === 0;
    },
  },
  {
    name: "#NM before #UD",
    by,
    explanation:
      "With CR0.TS and without CR4.OSFXSR, or with CR0.EM, an instruction of SSE is #UD (SDM vol. 3A, table 13-1); here it is #NM.",
    matches: (found) => faultOf(found, "kvm") === 6 && faultOf(found, "unicorn") === 7,
  },
  {
    name: "comparisons by more than 7",
    by,
    explanation:
      "CMPPS and its like take bits 0 to 2 of their immediate; with another one set they are undefined here.",
    matches: (found) =>
      /^CMP[PS][SD]$/.test(found.mnemonic) &&
      found.bytes.at(-1)! > 7 &&
      faultOf(found, "unicorn") === 6,
  },
  {
    name: "PHADD and PHSUB of a register with itself",
    by,
    explanation: "The lower half of the result is taken for the source of the upper half.",
    matches: (found) => {
      const operands = /^ph(add|sub)\S+ (\S+),(\S+)$/.exec(found.text);
      return operands !== null && operands[2] === operands[3];
    },
  },
  {
    name: "LGDT and LIDT take any base",
    by,
    explanation: "A base that isn't canonical is loaded; it is #GP (SDM vol. 2A, LGDT/LIDT).",
    matches: (found) =>
      /^L[GI]DT$/.test(found.mnemonic) && found.mode === "long" && faultOf(found, "kvm") === 13,
  },
];
