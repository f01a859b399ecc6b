/** Causes of KVM's instruction emulator, of which kvm_pvm runs whole guests, and of kvm_pvm itself. */
import type { InstructionCause } from "./cause.ts";
import { difference, endingOf, faultOf, isBranch, names, only, valueOf } from "./finding.ts";

const by = "KVM's instruction emulator";

/** What the emulator has no code for, or only for real mode: it gives #UD. */
const NOT_EMULATED =
  /^(V?ERR|VERW|LAR|LSL|ARPL|CRC32|MOVBE|POPCNT|DAA|AAA|AAS|INT|INT1|INT3|INTO|IRET.*|SYSENTER|SYSEXIT.*|SYSCALL|SYSRET.*|ENTER|BOUND|RESERVEDNOP|PREFETCH.*|RSM|XLATB|SALC|CMPXCHG16B|RET|CALL|JMP|LEAVE|LSS|LFS|LGS|LDS|LES|CLFLUSH|CPUID|MOV|UD.*|RDPMC|SGDT|SIDT|SLDT|STR|SMSW)$/;
const IS_SIMD =
  /^(P[A-Z]|MOV[A-Z]|CVT|F[A-Z0-9]|[A-Z]+[SP][SDSB]$|EMMS|LDMXCSR|STMXCSR|MASK|EXTR|INSERT|BLEND|ROUND|DPP|MPSAD|LDDQU|MAX|MIN|SQRT|ADD|SUB|MUL|DIV|AND|OR|XOR|UNPCK|SHUF|RCP|RSQRT|CMP|COMI|UCOMI|HADD|HSUB|WAIT)/;

function isSwapGs(bytes: Uint8Array): boolean {
  return bytes.toHex().includes("0f01f8");
}

export const EMULATOR_CAUSES: readonly InstructionCause[] = [
  {
    name: "states that KVM refuses",
    by: "kvm_pvm",
    explanation: "KVM_RUN or KVM_SET_SREGS doesn't take the state.",
    matches: (found) => /NativeError|errno/.test(endingOf(found, "kvm")),
  },
  {
    name: "not emulated",
    by,
    explanation:
      "The emulator has no code for the instruction, or for real mode only, and raises #UD; SIMD instructions look for #UD before #NM and #GP.",
    matches: (found) =>
      faultOf(found, "kvm") === 6 &&
      faultOf(found, "unicorn") !== 6 &&
      (NOT_EMULATED.test(found.mnemonic) || IS_SIMD.test(found.mnemonic)),
  },
  {
    name: "SWAPGS outside of 64-bit mode",
    by: "kvm_pvm",
    explanation:
      "SWAPGS is undefined outside of 64-bit mode (SDM vol. 2B); it runs, and the sequence goes on.",
    matches: (found) =>
      found.mnemonic === "INVALID" && found.mode !== "long" && isSwapGs(found.bytes),
  },
  {
    name: "reserved encodings with operands",
    by,
    explanation:
      "Of an encoding that is reserved the emulator reads the operand first, or runs it; a processor raises #UD before that.",
    matches: (found) => found.mnemonic === "INVALID" && endingOf(found, "unicorn") === "#6",
  },
  {
    name: "delivery of double faults",
    by: "kvm_pvm",
    explanation:
      "kvm_pvm shuts down, or stays with another CR2 or SS, where an exception in an exception's delivery makes a double fault.",
    matches: (found) =>
      endingOf(found, "kvm") === "SHUTDOWN" ||
      endingOf(found, "kvm") === "#8" ||
      (endingOf(found, "unicorn") === "#8" && only(found, /^(vector|ending|ss\..*|cr2)$/)),
  },
  {
    name: "CR2 and SS after delivery",
    by: "kvm_pvm",
    explanation:
      "CR2 isn't the last page fault's, and SS keeps its selector where a stack of the interrupt stack table is taken.",
    matches: (found) => only(found, /^(cr2|ss\..*)$/),
  },
  {
    name: "no code of the selector",
    by,
    explanation:
      "Loads of segments and far transfers that fail give the error code 0, not the selector's (SDM vol. 3A, 6.13).",
    matches: (found) =>
      only(found, /^frame\.code$/) &&
      [10, 11, 12, 13].some((vector) => endingOf(found, "kvm") === `#${vector}`),
  },
  {
    name: "privilege before presence",
    by,
    explanation:
      "What only ring 0 may do, or SVM's address has to be right for, is #GP before it is looked for; where it isn't offered a processor raises #UD.",
    matches: (found) =>
      /^(VM[A-Z]+|STGI|CLGI|SKINIT|INVLPGA|MONITOR|MWAIT|XSETBV)$/.test(found.mnemonic) &&
      faultOf(found, "kvm") === 13 &&
      faultOf(found, "unicorn") === 6,
  },
  {
    name: "limit of the interrupt vectors",
    by,
    explanation:
      "In real mode the IDT's limit isn't looked at: where a vector is beyond it there is a double fault, and then a shutdown (SDM vol. 3A, 20.1.4).",
    matches: (found) =>
      found.mode === "real" &&
      endingOf(found, "unicorn") === "SHUTDOWN" &&
      (/^(halt|#\d+)$/.test(endingOf(found, "kvm")) || found.mnemonic === "LIDT") &&
      [...found.earlier, found.bytes.toHex()].some((bytes) => /0f01/.test(bytes)),
  },
  {
    name: "INT 1Ah and 1Bh",
    by: "kvm_pvm",
    explanation: "Outside of real mode they do nothing.",
    matches: (found) =>
      found.mode !== "real" &&
      /cd1[ab]$/.test(found.bytes.toHex()) &&
      endingOf(found, "kvm") === "halt",
  },
  {
    name: "order of checks of segment loads",
    by,
    explanation:
      "Segment loads and far transfers check in another order, so another exception comes.",
    matches: (found) =>
      /^(MOV|POP|L[DEFGS]S|LSS|LTR|LLDT|LGDT|LIDT|IRET.*|RET|RETF|CALL|JMP|SYSRET.*|SYSEXIT.*|SYSENTER|SYSCALL|INT|INTO)$/.test(
        found.mnemonic,
      ) && only(found, /^vector$/),
  },
  {
    name: "flags of AAM and AAD",
    by,
    explanation: "SF, ZF and PF are set by more than AL.",
    matches: (found) =>
      /^AA[DM]$/.test(found.mnemonic) && only(found, /^(rax|(frame\.)?rflags\.[SZP]F)$/),
  },
  {
    name: "more or wider accesses",
    by,
    explanation:
      "The emulator reads destinations that are only written (SLDT, STR, SMSW, SETcc), and INS and OUTS in pieces of its own.",
    matches: ({ endings, differences }) =>
      differences[0]?.what === "ending" &&
      endings.every((ending) => /^(read|write|in|out) /.test(ending)) &&
      endings[0].split(" ")[0] !== endings[1].split(" ")[0],
  },
  {
    name: "steps",
    by,
    explanation:
      "Under TF it runs a repeated string instruction to its end and pushes RF; HLT and what ends behind it leave BS in DR6 set.",
    matches: (found) =>
      (names(found).includes("dr6") && only(found, /^(dr6|memory\.stack)$/)) ||
      endingOf(found, "kvm") === "#1" ||
      endingOf(found, "unicorn") === "#1" ||
      names(found).includes("frame.rflags.RF") ||
      names(found).includes("rflags.RF"),
  },
  {
    name: "targets of branches that can't be",
    by: "the manuals",
    explanation:
      "Where a branch leads out of CS, or to no canonical address, Intel's processors fault at the branch, AMD's and libunicorn at the target.",
    matches: (found) =>
      isBranch(found) &&
      (difference(found, "frame.rip") !== undefined ||
        [12, 13, 14].includes(faultOf(found, "kvm")) ||
        valueOf(found, "rip", "kvm") !== undefined),
  },
  {
    name: "I/O and flags of ring 3",
    by: "kvm_pvm",
    explanation:
      "With no IOPL in ring 3, CLI, STI, POPF, PUSHF and port instructions do as with IOPL 0; IF is not the guest's.",
    matches: (found) =>
      found.cpl === 3 && /^(POPF|PUSHF|CLI|STI|IN|OUT|INS|OUTS|IRET)/.test(found.mnemonic),
  },
  {
    name: "PUSHF and POPF",
    by: "kvm_pvm",
    explanation: "RF, IF and VIF of what is pushed and popped aren't those of the guest.",
    matches: (found) =>
      /^(POPF|PUSHF)/.test(found.mnemonic) && only(found, /^(memory\.|(frame\.)?rflags)/),
  },
  {
    name: "ENTER",
    by,
    explanation:
      "ENTER is done for one nesting level only, with the stack's width for the operand's.",
    matches: (found) => found.mnemonic === "ENTER",
  },
  {
    name: "paging outside of long mode",
    by: "kvm_pvm",
    explanation: "CR0.PG can't be set outside of long mode: #GP, or the guest ends.",
    matches: (found) => /^(mov cr[034]|lmsw)/.test(found.text),
  },
  {
    name: "MSRs and debug registers",
    by: "the host",
    explanation: "Which there are, and which values they take, is the processor's.",
    matches: (found) => /^(RDMSR|WRMSR)$/.test(found.mnemonic) || /\bdr\d/.test(found.text),
  },
  {
    name: "order of SIMD's checks",
    by,
    explanation: "Operands are looked at before #UD and #NM for CR0 and CR4.",
    matches: (found) => IS_SIMD.test(found.mnemonic) && [6, 7].includes(faultOf(found, "unicorn")),
  },
  {
    name: "system calls outside of 64-bit mode",
    by,
    explanation:
      "SYSCALL, SYSRET, SYSENTER and SYSEXIT go by the host's vendor, and by mode another way.",
    matches: (found) => found.mnemonic.startsWith("SYS"),
  },
  {
    name: "interrupts of real mode",
    by,
    explanation:
      "INT behind an operand-size prefix pushes 32 bits, and ESP's upper half is cleared.",
    matches: (found) =>
      found.mode === "real" &&
      (found.mnemonic.startsWith("INT")
        ? only(found, /^(rsp|memory\..*|frame\..*)$/) ||
          found.endings.every((ending) => ending.startsWith("write "))
        : names(found).includes("rsp") && only(found, /^(rsp|memory\..*|frame\..*)$/)),
  },
  {
    name: "hint NOPs",
    by,
    explanation:
      "NOPs of 0F 19 to 0F 1F are undefined or have no ModRM byte, whose bytes run then.",
    matches: (found) =>
      /^(RESERVEDNOP|CLDEMOTE)$/.test(found.mnemonic) && endingOf(found, "unicorn") !== "#6",
  },
  {
    name: "selectors of ring 3",
    by: "kvm_pvm",
    explanation:
      "In ring 3 of long mode the host's processor runs the code, with selectors and descriptors of the host's.",
    matches: (found) =>
      found.cpl === 3 &&
      found.mode !== "real" &&
      (/\b[c-gs]s$/.test(found.text) ||
        (/^(mov [c-gs]s,|l[fg]s )/.test(found.text) && only(found, /^[c-gs]s\.selector$/)) ||
        // The host has a segment there.
        (/^mov [d-g]s,/.test(found.text) &&
          faultOf(found, "kvm") === -1 &&
          faultOf(found, "unicorn") === 13 &&
          only(found, /^([d-g]s\.(selector|base)|frame\.(code|rip))$/)) ||
        /^(LSL|LAR|VER|SLDT|STR|SMSW|SGDT|SIDT|PUSH)/.test(found.mnemonic)),
  },
  {
    name: "writes over two pages",
    by,
    explanation: "A write that spans two pages of which the second faults has written the first.",
    matches: (found) => endingOf(found, "kvm") === "#14" && only(found, /^memory\./),
  },
  {
    name: "emulated at first",
    by: "kvm_pvm",
    explanation:
      "In ring 3 the host's processor runs the code, but the emulator does where a page is touched first: whether an instruction is #UD depends on what ran before the case.",
    matches: (found) =>
      found.mnemonic === "STATE" &&
      found.cpl === 3 &&
      (only(found, /^vector$/)
        ? found.differences[0][found.engines[0] === "kvm" ? "a" : "b"] === "#6"
        : endingOf(found, "kvm") === "#6" && only(found, /^frame\.rip$/)),
  },
  {
    name: "what the case before has left",
    by: "kvm_pvm",
    explanation:
      "The case alone doesn't show it: a debug exception under TF that a shutdown came before is raised in the next case, and FNSAVE and FNSTENV store the last selectors of another.",
    matches: (found) =>
      !found.alone &&
      found.mnemonic === "STATE" &&
      (found.differences.some(({ a, b }) => a === "#1" || b === "#1") ||
        (only(found, /^memory\./) &&
          found.earlier.some((bytes) => /(d9|dd)([37b][0-7])/.test(bytes)))),
  },
  {
    name: "upper half of ESP",
    by: "kvm_pvm",
    explanation: "An exception on a stack of 16 bits clears it; a processor leaves it.",
    matches: (found) => {
      const [a, b] = [valueOf(found, "rsp", "kvm"), valueOf(found, "rsp", "unicorn")];
      if (a === undefined || b === undefined || found.mode !== "prot16") return false;
      return a === (b & 0xffff) && only(found, /^(rsp|memory\.stack)$/);
    },
  },
  {
    name: "tables that a string overwrote",
    by: "kvm_pvm",
    explanation:
      "An exception goes through a gate and a code segment that the instruction has just overwritten: a double fault and a shutdown where they are wrong; kvm_pvm enters the handler all the same.",
    matches: (found) =>
      /^(MOVS|STOS|INS)[BWDQ]$/.test(found.mnemonic) &&
      endingOf(found, "unicorn") === "SHUTDOWN" &&
      /^(halt|#\d+)$/.test(endingOf(found, "kvm")),
  },
  {
    name: "tables over the end of a segment",
    by: "both engines",
    explanation:
      "LGDT and LIDT of an operand that goes beyond 64 KiB in 16-bit code is #GP; the emulator wraps, libunicorn reads on.",
    matches: (found) =>
      /^L[GI]DT$/.test(found.mnemonic) &&
      endingOf(found, "kvm") === "halt" &&
      /^read 0x1000[0-9a-f]\//.test(endingOf(found, "unicorn")),
  },
  {
    name: "16 bits to memory",
    by,
    explanation:
      "MOV of a segment register, SLDT, STR and SMSW write 16 bits to memory, whatever the operand's size (SDM vol. 2); the emulator writes as many as that, and so may reach another page.",
    matches: (found) =>
      /^(MOV|SLDT|STR|SMSW)$/.test(found.mnemonic) &&
      (only(found, /^(memory\..*|frame\..*)$/) ||
        (found.text.includes("[") &&
          endingOf(found, "unicorn") === "halt" &&
          /^(#14|read .*|write .*)$/.test(endingOf(found, "kvm")))),
  },
];
