/** The instructions of a sequence, and the flags that they leave undefined: iced-x86 knows. */
import {
  Code,
  Decoder,
  DecoderOptions,
  Formatter,
  FormatterSyntax,
  InstructionInfoFactory,
  Mnemonic,
  OpAccess,
  RflagsBits,
} from "iced-x86";

/** What follows a sequence. */
const HLT = 0xf4;
const LONGEST_INSTRUCTION = 15;

/** iced's bits, and those of RFLAGS. */
const UNDEFINED: readonly (readonly [bit: number, rflags: number])[] = [
  [RflagsBits.CF, 0x1],
  [RflagsBits.PF, 0x4],
  [RflagsBits.AF, 0x10],
  [RflagsBits.ZF, 0x40],
  [RflagsBits.SF, 0x80],
  [RflagsBits.OF, 0x800],
];

export interface Decoded {
  /** "ADD", "INVALID" … */
  readonly mnemonic: string;
  /** The exact encoding: "Add_rm32_imm8". */
  readonly form: string;
  /** From the sequence's beginning to the instruction's end, bytes. */
  readonly end: number;
  /** Bits of RFLAGS that the architecture leaves undefined. */
  readonly undefinedFlags: number;
  readonly bytes: Uint8Array;
  /** Where a near branch leads; 0 of others. */
  readonly target: number;
}

/**
 * @param bits 16, 32 or 64.
 * @param at the address of its first byte.
 * @returns all to its end; the last may be INVALID.
 */
export function decode(code: Uint8Array, bits: number, at: number): Decoded[] {
  const padded = new Uint8Array(code.length + LONGEST_INSTRUCTION).fill(HLT);
  padded.set(code);
  const decoder = new Decoder(bits, padded, DecoderOptions.None);
  decoder.ip = BigInt(at);
  const found: Decoded[] = [];
  while (decoder.position < code.length) {
    const from = decoder.position;
    const instruction = decoder.decode();
    const bits = instruction.rflagsUndefined;
    let undefinedFlags = 0;
    for (const [bit, flag] of UNDEFINED) if (bits & bit) undefinedFlags |= flag;
    const end = decoder.position;
    found.push({
      mnemonic: Mnemonic[instruction.mnemonic].toUpperCase(),
      form: Code[instruction.code],
      end,
      undefinedFlags,
      bytes: padded.slice(from, end),
      target: Number(instruction.nearBranchTarget),
    });
    const isInvalid = instruction.isInvalid;
    instruction.free();
    if (isInvalid) break;
  }
  decoder.free();
  return found;
}

// One for all: to make one takes longer than to decode.
const FORMATTER = new Formatter(FormatterSyntax.Intel);

/**
 * An instruction with its operands: "add eax,[10h]".
 * @param bits 16, 32 or 64.
 * @param at the address of its first byte.
 */
export function textOf(bytes: Uint8Array, bits: number, at: number): string {
  const decoder = new Decoder(bits, bytes, DecoderOptions.None);
  decoder.ip = BigInt(at);
  const instruction = decoder.decode();
  const text = FORMATTER.format(instruction);
  instruction.free();
  decoder.free();
  return text;
}

const INFO = new InstructionInfoFactory();
const READS_AND_WRITES = [OpAccess.ReadWrite, OpAccess.ReadCondWrite];

/** Whether an instruction reads memory and writes it back. */
export function isReadModifyWrite(bytes: Uint8Array, bits: number): boolean {
  const decoder = new Decoder(bits, bytes, DecoderOptions.None);
  const instruction = decoder.decode();
  const info = INFO.info(instruction);
  const all = info.usedMemory();
  const found = all.some(({ access }) => READS_AND_WRITES.includes(access));
  for (const one of [...all, info, instruction, decoder]) one.free();
  return found;
}
