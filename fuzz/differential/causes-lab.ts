/**
 * Causes of the lab, where KVM is real and the processor below it is QEMU 7.2's. KVM's emulator runs
 * there what touches MMIO, and that alone.
 */
import type { InstructionCause, PartialCause, StateCause } from "./cause.ts";
import type { Difference } from "./compare.ts";
import { isReadModifyWrite } from "./decode.ts";
import {
  endingOf,
  faultOf,
  type Finding,
  isBranch,
  only,
  prefixesOf,
  sideOf,
  valueOf,
} from "./finding.ts";
import { bitness, isLong, TABLES } from "./layout.ts";

const by = "QEMU's TCG, the lab's processor";
const emulator = "KVM's instruction emulator";

/** Debug exceptions, INT3 and INTO: RF is as it was. */
const TRAPS = [1, 3, 4];
/** Of a page fault's error code. */
const CODE = { PRESENT: 1, WRITE: 2, RESERVED: 8 };

const DR6_BS = 0x4000;

const FLAGS = /^(frame\.)?rflags\./;

const lower = (value: string) => BigInt(value) & 0xffffffffn;

const isMmio = (ending: string) => /^(read|write) 0x/.test(ending);

// Of an opcode of two bytes: the ModRM byte is behind it.
const isRelative = (found: Finding) => (found.bytes[prefixesOf(found).length + 2] & 0xc7) === 5;

/** Whether memory, "0x8b4: 0000000000000000", differs in the first byte's bit 0 alone, as RF is of RFLAGS' third. */
function isRf({ a, b }: Difference): boolean {
  const [x, y] = [a, b].map((text) => BigInt(`0x${text.split(": ")[1]}`));
  return (x ^ y) === 1n << 56n;
}

const PREFIXES = "^(26|2e|36|3e|6[4-7]|f[023]|4.)*";
/** RCL and RCR, or SETcc, of memory. */
const ROTATES_OR_SETS = new RegExp(`${PREFIXES}((c[01]|d[0-3])[159]|0f9)`);
const EXCHANGES = new RegExp(`${PREFIXES}0fc7[048][89a-f]`);

/** Whether the last before it is such, or any where none is to blame: its doing isn't always the same. */
function ran({ mnemonic, earlier }: Finding, instruction: RegExp): boolean {
  const last = mnemonic === "STATE" ? earlier : earlier.slice(-1);
  return last.some((bytes) => instruction.test(bytes));
}

/** Both error codes of a page fault. */
function codes(one: Difference, found: Finding): [kvm: number, unicorn: number] {
  return [sideOf(one, found.engines, "kvm"), sideOf(one, found.engines, "unicorn")];
}

/** Whether it reads memory to write it, or what runs then may. */
function mayReadModifyWrite(found: Finding): boolean {
  if (found.strayed || isBranch(found)) return true;
  if (/^(SYSCALL|SYSENTER|STATE)$/.test(found.mnemonic)) return true;
  return isReadModifyWrite(found.bytes, bitness(found.mode));
}

/** The first page-directory pointer with and without bit 5, as differences show it. */
const POINTERS = [0x0160, 0x2160].map(
  (word) => `0x${TABLES.toString(16)}: ${word.toString(16).padStart(4, "0")}000000000000`,
);

export const LAB_STATE_CAUSES: readonly StateCause[] = [
  {
    name: "RF of faults",
    by,
    explanation: "A fault doesn't push RF (SDM vol. 3A, 6.8.3 and 17.3.1.1 want it).",
    covers: (difference, { engines, vector }) =>
      difference.what === "frame.rflags.RF" &&
      sideOf(difference, engines, "kvm") === 0 &&
      !TRAPS.includes(vector),
  },
  {
    name: "accessed bits of PAE's pointers",
    by,
    explanation:
      "A walk sets bit 5 of a page-directory pointer, which has no accessed bit (SDM vol. 3A, 4.4.1).",
    covers: ({ what, a, b }) =>
      what === "memory.pointers" && [a, b].sort().join() === POINTERS.join(),
  },
];

export const LAB_PARTIAL_CAUSES: readonly PartialCause[] = [
  {
    name: "reserved bits without P",
    by,
    explanation:
      "A page fault for a reserved bit lacks P in its error code (SDM vol. 3A, 4.7), and W where a read-modify-write has it.",
    covers: (one, found) => {
      if (one.what !== "frame.code" || found.endings[0] !== "#14") return false;
      const [kvm, unicorn] = codes(one, found);
      const { PRESENT, WRITE, RESERVED } = CODE;
      const missing = unicorn & ~kvm;
      return (
        (kvm & RESERVED) !== 0 &&
        (kvm | missing) === unicorn &&
        (missing === PRESENT || (missing === (PRESENT | WRITE) && mayReadModifyWrite(found)))
      );
    },
  },
  {
    name: "RF of faults in other frames",
    by,
    explanation:
      "The same where the frame isn't its handler's: of a fault before a double fault or a shutdown, or of one that memory of other content handles.",
    covers: (one, { endings }) =>
      one.what.startsWith("memory.") &&
      endings[0] === endings[1] &&
      /^(#\d+|SHUTDOWN)$/.test(endings[0]) &&
      isRf(one),
  },
  {
    name: "read-modify-writes fault as reads",
    by,
    explanation: "The error code of a page fault lacks W. libunicorn's did, too.",
    covers: (one, found) => {
      if (one.what !== "frame.code" || found.endings[0] !== "#14") return false;
      const [kvm, unicorn] = codes(one, found);
      return (kvm | CODE.WRITE) === unicorn && mayReadModifyWrite(found);
    },
  },
];

export const LAB_CAUSES: readonly InstructionCause[] = [
  {
    name: "LOCK isn't checked",
    by,
    explanation: "LOCK where it isn't allowed runs (SDM vol. 2A, LOCK: #UD). libunicorn did, too.",
    matches: (found) =>
      found.mnemonic === "INVALID" &&
      found.bytes.includes(0xf0) &&
      // A stack that isn't there makes more of it.
      /^(#6|#8|SHUTDOWN)$/.test(endingOf(found, "unicorn")),
  },
  {
    name: "reserved encodings aren't checked",
    by,
    explanation:
      "EMMS, MOVLPD, MOVHPD, MOVNTI, MOVNTQ, MOVNTDQ and the group of FXSAVE run behind prefixes and with operands that they don't have, MOV of an immediate and POP by another reg field than 0 (SDM vol. 2: #UD). libunicorn did, too.",
    matches: (found) =>
      /^(INVALID|EMMS)$/.test(found.mnemonic) &&
      /^(26|2e|36|3e|6[4-7]|f[023]|4.)*(0f(1[2367]|77|ae|c3|e7)|8f|c[67])/.test(
        found.bytes.toHex(),
      ) &&
      endingOf(found, "unicorn") === "#6",
  },
  {
    name: "SSE's instructions with MMX registers",
    by,
    explanation:
      "With CR0.EM or CR0.TS set, or CR4.OSFXSR clear, those with a register of each kind are #UD or #NM (SDM vol. 2, CVTPI2PS, MOVQ2DQ); they run.",
    matches: (found) =>
      /^(CVTT?P[SD]2PI|CVTPI2P[SD]|MOVQ2DQ|MOVDQ2Q)$/.test(found.mnemonic) &&
      /^#[67]$/.test(endingOf(found, "unicorn")) &&
      ![6, 7].includes(faultOf(found, "kvm")),
  },
  {
    name: "LDMXCSR takes reserved bits",
    by,
    explanation: "It is #GP (SDM vol. 2A, LDMXCSR). libunicorn took them, too.",
    matches: (found) =>
      found.mnemonic === "LDMXCSR" &&
      faultOf(found, "unicorn") === 13 &&
      faultOf(found, "kvm") !== 13,
  },
  {
    name: "SHLD and SHRD relative to RIP",
    by,
    explanation:
      "By an immediate, of memory relative to RIP, the address is one less. libunicorn's was, too.",
    matches: (found) =>
      found.mode === "long" &&
      /^(Shld|Shrd)_rm\d+_r\d+_imm8$/.test(found.form) &&
      isRelative(found),
  },
  {
    name: "PEXTRW and PINSRW of MMX registers by more than 3",
    by,
    explanation:
      "Bits 0 and 1 of the immediate count (SDM vol. 2B, PEXTRW); here bit 2 does, too, and the word lies behind the register.",
    matches: (found) =>
      /^P(EXTR|INSR)W$/.test(found.mnemonic) &&
      /\bmm\d/.test(found.text) &&
      (found.bytes.at(-1)! & 4) !== 0,
  },
  {
    name: "MOV to CR3 takes reserved bits",
    by,
    explanation: "It is #GP in long mode (SDM vol. 2B); the next entry into the guest fails.",
    matches: (found) =>
      found.text.startsWith("mov cr3,") &&
      endingOf(found, "kvm") === "FAIL_ENTRY" &&
      endingOf(found, "unicorn") === "#13",
  },
  {
    name: "PAE's pointers with an accessed bit",
    by,
    explanation:
      "Bit 5 of a page-directory pointer is reserved. As the processor sets it in a walk, KVM refuses it where a move to CR0, CR3 or CR4 reads the pointers again: #GP.",
    matches: (found) =>
      found.mode === "pae" &&
      /^(mov cr[034],|lmsw )/.test(found.text) &&
      faultOf(found, "kvm") === 13 &&
      faultOf(found, "unicorn") !== 13,
  },
  {
    name: "VMRUN and its like before EFER.SVME",
    by,
    explanation:
      "In ring 3 what SVM has is #GP; where EFER.SVME is clear it is #UD (AMD APM vol. 3, VMRUN).",
    matches: (found) =>
      /^(VMRUN|VMLOAD|VMSAVE|STGI|CLGI|SKINIT|INVLPGA)$/.test(found.mnemonic) &&
      faultOf(found, "kvm") === 13 &&
      endingOf(found, "unicorn") === "#6",
  },
  {
    name: "hypercalls",
    by: "true KVM",
    explanation: "VMCALL and VMMCALL are calls to KVM; elsewhere they are undefined.",
    matches: (found) => /^VMM?CALL$/.test(found.mnemonic) && endingOf(found, "unicorn") === "#6",
  },
  {
    name: "flags of faults",
    by,
    explanation:
      "RCL, RCR and SETcc bring the flags to another form before they fault, and some are lost; not where KVM has mapped a page at that instruction just now. libunicorn did, too.",
    matches: (found) =>
      (/^(RC[LR]|SET[A-Z]+)$/.test(found.mnemonic) ||
        ran(found, ROTATES_OR_SETS) ||
        isBranch(found)) &&
      only(found, FLAGS) &&
      found.endings.every((ending) => /^#1[2-4]$/.test(ending)),
  },
  {
    name: "flags of CMPXCHG8B",
    by,
    explanation:
      "CMPXCHG8B sets all flags by what was computed last (SDM vol. 2A: ZF alone). libunicorn did, too.",
    matches: (found) =>
      (/^CMPXCHG(8|16)B$/.test(found.mnemonic) || ran(found, EXCHANGES)) && only(found, FLAGS),
  },
  {
    name: "flags of SYSCALL",
    by,
    explanation:
      "SYSCALL clears the arithmetic flags and DF, whatever FMASK says, and what it leads to runs with them. libunicorn did, too.",
    matches: (found) =>
      found.mnemonic === "SYSCALL" &&
      found.differences.some(
        (one) =>
          one.what === "frame.rip" ||
          (/^(frame\.)?rflags\.([CPAZSO]|D)F$/.test(one.what) &&
            sideOf(one, found.engines, "kvm") === 0),
      ),
  },
  {
    name: "wide control registers",
    by,
    explanation:
      "MOV to CR2 takes 64 bits of a register in compatibility mode, too (SDM vol. 2B, MOV to control registers). libunicorn did, too.",
    matches: (found) =>
      found.text.startsWith("mov cr2,") &&
      found.differences.every(({ what, a, b }) => what === "cr2" && lower(a) === lower(b)),
  },
  {
    name: "INT1",
    by,
    explanation:
      "F1 is undefined; it is a debug exception (SDM vol. 3A, 6.3.1, and AMD APM vol. 3).",
    matches: (found) =>
      found.mnemonic === "INT1" &&
      faultOf(found, "kvm") === 6 &&
      endingOf(found, "unicorn") === "#1",
  },
  {
    name: "I/O map of a busy TSS",
    by,
    explanation:
      "The I/O map is looked at in a TSS that isn't busy alone, which in long mode none is: #GP.",
    matches: (found) =>
      found.cpl === 3 &&
      isLong(found.mode) &&
      /^(IN|OUT|INS[BWD]|OUTS[BWD])$/.test(found.mnemonic) &&
      faultOf(found, "kvm") === 13,
  },
  {
    name: "MMIO that isn't emulated",
    by: emulator,
    explanation: "In ring 3 an access to MMIO by an instruction that the emulator hasn't is #UD.",
    matches: (found) =>
      found.cpl === 3 && endingOf(found, "kvm") === "#6" && isMmio(endingOf(found, "unicorn")),
  },
  {
    name: "segments are checked in emulation",
    by: emulator,
    explanation:
      "The emulator, which runs accesses to MMIO, INS, OUTS and LMSW, checks them against their segment's limit and type; neither QEMU's TCG nor libunicorn checks one.",
    matches: (found) =>
      found.mode !== "long" &&
      [12, 13].includes(faultOf(found, "kvm")) &&
      (isMmio(endingOf(found, "unicorn")) || /^(LMSW|INS|OUTS)/.test(found.mnemonic)),
  },
  {
    name: "destinations that are read",
    by: emulator,
    explanation: "SLDT, STR, SMSW and SETcc to MMIO read it first.",
    matches: (found) =>
      /^(SLDT|STR|SMSW|SET[A-Z]+)$/.test(found.mnemonic) &&
      endingOf(found, "kvm").startsWith("read ") &&
      endingOf(found, "unicorn").startsWith("write "),
  },
  {
    name: "SGDT and SIDT to MMIO",
    by: emulator,
    explanation: "They make no exit there.",
    matches: (found) =>
      /^S[GI]DT$/.test(found.mnemonic) &&
      endingOf(found, "unicorn").startsWith("write ") &&
      !isMmio(endingOf(found, "kvm")),
  },
  {
    name: "steps over STI",
    by,
    explanation:
      "Under TF no debug exception comes behind STI, which puts off interrupts alone (SDM vol. 3A, 6.8.3).",
    matches: (found) =>
      found.mnemonic === "STI" &&
      endingOf(found, "unicorn") === "#1" &&
      endingOf(found, "kvm") !== "#1",
  },
  {
    name: "steps over HLT",
    by: "true KVM",
    explanation:
      "Under TF, BS is set in DR6 as HLT exits, since KVM has its debug exception ready then.",
    matches: (found) => {
      const [kvm = 0, unicorn = 0] = (["kvm", "unicorn"] as const).map((engine) =>
        valueOf(found, "dr6", engine),
      );
      return only(found, /^dr6$/) && kvm - unicorn === DR6_BS && found.endings[0] === "halt";
    },
  },
  {
    name: "SYSENTER and SYSEXIT in long mode",
    by: "the manuals",
    explanation:
      "AMD's processors, as the lab's is one, have none in long mode: #UD (AMD APM vol. 3); Intel's and libunicorn do.",
    matches: (found) =>
      /^SYS(ENTER|EXITQ?)$/.test(found.mnemonic) &&
      isLong(found.mode) &&
      faultOf(found, "kvm") === 6,
  },
  {
    name: "MSRs and bits of CR4",
    by: "the host",
    explanation: "Which there are is the processor's.",
    matches: (found) =>
      (/^(RDMSR|WRMSR)$/.test(found.mnemonic) || found.text.startsWith("mov cr4,")) &&
      only(found, /^(vector|msr\..*)$/),
  },
];

/** For the table. */
export const ALL_LAB_CAUSES = [...LAB_STATE_CAUSES, ...LAB_PARTIAL_CAUSES, ...LAB_CAUSES];
