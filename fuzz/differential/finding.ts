/** Questions that causes ask of a finding. */
import type { EngineName } from "../../src/vmm/engine.ts";
import type { Difference } from "./compare.ts";
import type { Mode } from "./layout.ts";

/** A difference, and all that its cause is found by. */
export interface Finding {
  /** What the instruction is; "STATE" where the state alone differs, "ELSEWHERE" behind the sequence. */
  readonly mnemonic: string;
  readonly form: string;
  readonly text: string;
  readonly bytes: Uint8Array;
  /** Its address. */
  readonly at: number;
  readonly engines: readonly [EngineName, EngineName];
  readonly mode: Mode;
  readonly cpl: number;
  /** What differs, without what the architecture leaves undefined. */
  readonly differences: readonly Difference[];
  /** How it ended on both. */
  readonly endings: readonly [a: string, b: string];
  /** Flags that are undefined differed already before the instruction, which may have read them. */
  readonly carried: boolean;
  /** The instructions before it, as hexadecimal digits. */
  readonly earlier: readonly string[];
  /**
   * What came before it branches into an instruction, or has stopped at none of the sequence or in
   * another code segment.
   */
  readonly strayed: boolean;
  /** Vectors, descriptors, page tables, mode or stack aren't those of the beginning any more. */
  readonly displaced: boolean;
  /** The case by itself shows it; false: only behind the cases before it. */
  readonly alone: boolean;
  /** Bases of ES, CS, SS and DS at the beginning: by the order of their prefixes. */
  readonly bases: readonly number[];
  /** The code in memory is no longer the sequence, or a handler no longer HLT. */
  readonly changedItself: boolean;
}

export function endingOf(found: Finding, engine: EngineName): string {
  return found.endings[found.engines[0] === engine ? 0 : 1];
}

/** What differs, without its values. */
export function names(found: Finding): string[] {
  return found.differences.map((one) => one.what);
}

export function only(found: Finding, pattern: RegExp): boolean {
  return found.differences.length > 0 && found.differences.every(({ what }) => pattern.test(what));
}

export function difference(found: Finding, what: string): Difference | undefined {
  return found.differences.find((one) => one.what === what);
}

/** An engine's value of a difference. */
export function sideOf(one: Difference, engines: Finding["engines"], engine: EngineName): number {
  return Number(engines[0] === engine ? one.a : one.b);
}

export function valueOf(found: Finding, what: string, engine: EngineName): number | undefined {
  const one = difference(found, what);
  return one === undefined ? undefined : sideOf(one, found.engines, engine);
}

/**
 * The exception that the instruction itself raised on an engine; -1 for none. Both may have ended in the
 * same handler, one at the instruction and one at the HLT behind it.
 */
export function faultOf(found: Finding, engine: EngineName): number {
  const ending = endingOf(found, engine);
  const vector = /^#(\d+)$/.exec(ending)?.[1];
  if (vector === undefined) return -1;
  const rip = valueOf(found, "frame.rip", engine);
  if (rip !== undefined && rip !== (found.at & 0xffff) && rip !== found.at) return -1;
  return Number(vector);
}

/** Instructions whose last operand in `text` is in memory, or that use it without saying so. */
export function usesMemory({ text, mnemonic }: Finding): boolean {
  return text.includes("[") || /^(PUSH|POP|CALL|RET|IRET|ENTER|LEAVE|INT)/.test(mnemonic);
}

/** Prefixes by the segment register that they name, in the order of `bases`. */
const SEGMENT_PREFIXES = [0x26, 0x2e, 0x36, 0x3e];
const PREFIXES = [...SEGMENT_PREFIXES, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];

/** Its prefixes, REX among them in 64-bit mode. */
export function prefixesOf({ bytes, mode }: Finding): number[] {
  const isPrefix = (byte: number) =>
    PREFIXES.includes(byte) || (mode === "long" && (byte & 0xf0) === 0x40);
  const end = bytes.findIndex((byte) => !isPrefix(byte));
  return [...bytes.subarray(0, end < 0 ? bytes.length : end)];
}

/** The base of the segment that a prefix names: of ES, CS, SS and DS; 0 without one. */
export function prefixedBase(found: Finding): number {
  const last = prefixesOf(found).findLast(
    (byte) => byte === 0x64 || byte === 0x65 || SEGMENT_PREFIXES.includes(byte),
  );
  return last === undefined ? 0 : (found.bases[SEGMENT_PREFIXES.indexOf(last)] ?? 0);
}

const BRANCHES = /^(J|CALL|RET|LOOP|SYSRET|SYSEXIT|IRET|UIRET)/;

export function isBranch({ mnemonic }: Finding): boolean {
  return BRANCHES.test(mnemonic);
}
