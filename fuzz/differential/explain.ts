/**
 * Which instruction a difference comes from: the shortest beginning of the sequence that shows it ends
 * with that instruction.
 */
import type { EngineName } from "../../src/vmm/engine.ts";
import { beginsDisplaced, hasStrayed, isDisplaced, leadsInside } from "./astray.ts";
import { type Case, segmentAt } from "./case.ts";
import type { Cause, Seen } from "./cause.ts";
import { stateCauseOf } from "./causes.ts";
import { type Difference, differences, endingText, FLAGS, isIdentical } from "./compare.ts";
import { decode, type Decoded, textOf } from "./decode.ts";
import type { Finding } from "./finding.ts";
import { bitness, HANDLERS } from "./layout.ts";
import { Ending, HLT, TAIL, type Target } from "./target.ts";

const FLAG_BITS = new Map(FLAGS);

/** Leaves out the flags of a mask, in RFLAGS and where an exception has pushed them. */
export function masked(found: readonly Difference[], mask: number): Difference[] {
  if (mask === 0) return [...found];
  return found.filter(({ what }) => {
    const flag = /^(?:rflags|frame\.rflags)\.(.+)$/.exec(what)?.[1];
    return flag === undefined || (FLAG_BITS.get(flag)! & mask) === 0;
  });
}

/**
 * Of a case that both have just run.
 * @param all what differs.
 * @returns undefined where nothing but undefined flags differs; a cause where that explains it all
 *   whatever the instructions are; else what to look for a cause by.
 */
export function explain(
  a: Target,
  b: Target,
  it: Case,
  engines: readonly [EngineName, EngineName],
  all: Difference[],
): Finding | Cause | undefined {
  const decoded = decode(it.code, bitness(it.mode), it.at);
  const union = decoded.reduce((mask, one) => mask | one.undefinedFlags, 0);
  const defined = masked(all, union);
  if (defined.length === 0) return undefined;
  // Of what has just run.
  const remaining = (found: readonly Difference[]) =>
    ofInstructions(found, { engines, vector: a.vector });
  const left = remaining(defined);
  if (left.length === 0) return stateCauseOf(defined[0], { engines, vector: a.vector });
  let mask = 0;
  const progress = { carried: false, strayed: false, displaced: beginsDisplaced(it) };
  if (decoded.length > 1) {
    const at0 = remaining(run(a, b, it, 0));
    if (at0.length > 0) return finding(a, b, it, engines, undefined, at0, progress);
  }
  for (const one of decoded) {
    mask |= one.undefinedFlags;
    // The whole has been run already.
    const found = decoded.length === 1 ? all : run(a, b, it, endOf(one, it));
    const here = remaining(masked(found, mask));
    progress.displaced ||= isDisplaced(a, it) || isDisplaced(b, it);
    if (here.length > 0) return finding(a, b, it, engines, one, here, progress);
    progress.strayed ||=
      leadsInside(one, it, decoded) || hasStrayed(a, it, decoded) || hasStrayed(b, it, decoded);
    progress.carried = remaining(found).length > 0;
  }
  // Whatever it is, it isn't of this case alone where the same again doesn't show it.
  const again = run(a, b, it, it.code.length);
  const alone = remaining(masked(again, union)).length > 0;
  return { ...finding(a, b, it, engines, undefined, left, progress), alone };
}

/** How much runs up to it. How long a reserved encoding is nobody knows: all that is left is its. */
function endOf(one: Decoded | undefined, it: Case): number {
  return one === undefined || one.mnemonic === "INVALID" ? it.code.length : one.end;
}

/** What has happened before the instruction to blame. */
type Progress = Pick<Finding, "carried" | "strayed" | "displaced">;

function ofInstructions(found: readonly Difference[], seen: Seen): Difference[] {
  return found.filter((one) => stateCauseOf(one, seen) === undefined);
}

function run(a: Target, b: Target, it: Case, length: number): Difference[] {
  // An instruction that random bytes end in goes on into the HLTs.
  const code = it.code.subarray(0, Math.min(length, it.code.length));
  a.run(it, code);
  b.run(it, code);
  if (!isComparable(a, b)) return [];
  return isIdentical(a, b, it) ? [] : differences(a, b, it);
}

/** Both ran it to an end. */
export function isComparable(a: Target, b: Target): boolean {
  return [a, b].every(({ ending }) => ending !== Ending.NOT_RUN && ending !== Ending.BUDGET);
}

function finding(
  a: Target,
  b: Target,
  it: Case,
  engines: readonly [EngineName, EngineName],
  one: Decoded | undefined,
  found: readonly Difference[],
  progress: Progress,
): Finding {
  const decoded = decode(it.code, bitness(it.mode), it.at);
  // All of it where none is to blame: what they lead to is.
  const before = decoded.filter(({ end }) => one === undefined || end < one.end);
  const at = it.at + (one?.end ?? 0) - (one?.bytes.length ?? 0);
  return {
    mnemonic: one?.mnemonic ?? "STATE",
    form: one?.form ?? "",
    text: one === undefined ? "" : textOf(one.bytes, bitness(it.mode), at),
    bytes: one?.bytes ?? new Uint8Array(),
    at,
    engines,
    mode: it.mode,
    cpl: it.cpl,
    differences: found,
    endings: [endingText(a), endingText(b)],
    ...progress,
    alone: true,
    earlier: before.map(({ bytes }) => bytes.toHex()),
    bases: basesOf(it),
    changedItself: [a, b].some(({ memory }) => changed(memory, it, endOf(one, it))),
  };
}

function basesOf({ state }: Case): number[] {
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
  return (["es", "cs", "ss", "ds"] as const).map((name) => view.getUint32(segmentAt(name), true));
}

function changed(memory: Uint8Array, it: Case, length: number): boolean {
  const handlers = memory.subarray(HANDLERS, HANDLERS + 0x100);
  const code = it.code.subarray(0, length);
  const end = it.at + it.code.length + TAIL;
  return (
    code.some((byte, i) => memory[it.at + i] !== byte) ||
    memory.subarray(it.at + code.length, end).some((byte) => byte !== HLT) ||
    handlers.some((byte) => byte !== HLT)
  );
}
