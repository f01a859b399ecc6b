/**
 * Whether what ran is still what was meant to: execution may leave a sequence's instructions, and a
 * sequence may change what its exceptions end by.
 */
import { type Case, segmentAt, STATE } from "./case.ts";
import { pushed } from "./compare.ts";
import type { Decoded } from "./decode.ts";
import { GDT, HANDLERS, isLong, MEMORY_SIZE, type Mode, TABLES, template } from "./layout.ts";
import { Ending, HLT, type Target } from "./target.ts";

const TEMPLATES = new Map<Mode, Buffer>();

/** What a frame takes at most: SS, RSP, RFLAGS, CS, RIP and an error code, aligned. */
const FRAME = 64;
const PE_AND_PG = 0x80000001;
const TABLES_SIZE = 0x4000;

/** Bits that a processor sets by itself: a segment's accessed and busy bits, a page's accessed and dirty. */
const OF_DESCRIPTORS = 3;
const OF_PAGES = 0x60;

function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}

/** Whether an instruction is a near branch into another of the sequence. */
export function leadsInside({ target }: Decoded, it: Case, decoded: readonly Decoded[]): boolean {
  return target > it.at && target < it.at + it.code.length && !endsAt(target, it, decoded);
}

// Where an instruction begins or the last one ends. How long a reserved encoding is nobody knows.
function endsAt(at: number, it: Case, decoded: readonly Decoded[]): boolean {
  const ends = decoded.filter((one) => one.mnemonic !== "INVALID").map((one) => one.end);
  return [0, it.code.length, ...ends].some((end) => it.at + end === at);
}

/**
 * Whether a run of a sequence's beginning has stopped at no beginning of an instruction of it, or in
 * another code segment.
 */
export function hasStrayed(target: Target, it: Case, decoded: readonly Decoded[]): boolean {
  if (target.ending === Ending.BUDGET) return true;
  if (target.ending !== Ending.HALT) return false;
  const cs = segmentAt("cs") + 12;
  const [now, first] = [viewOf(target.state), viewOf(it.state)];
  const stop =
    target.vector < 0
      ? { rip: now.getUint32(STATE.rip, true) - 1, cs: now.getUint16(cs, true) }
      : pushed(target, it);
  if (stop === undefined) return false;
  if (stop.cs !== first.getUint16(cs, true)) return true;
  return !endsAt(stop.rip, it, decoded);
}

/**
 * Whether an exception would end elsewhere than in its handler, or a translation be another: vectors,
 * descriptors, page tables or handlers are overwritten, others were loaded, the mode is another, or the
 * stack isn't in memory.
 */
export function isDisplaced(target: Target, it: Case): boolean {
  if (tablesChanged(target.memory, it)) return true;
  if (target.ending !== Ending.HALT) return false;
  const [now, first] = [viewOf(target.state), viewOf(it.state)];
  for (const table of ["gdt", "idt"] as const) {
    const at = STATE[table];
    if (now.getBigUint64(at, true) !== first.getBigUint64(at, true)) return true;
    if (now.getUint16(at + 8, true) !== first.getUint16(at + 8, true)) return true;
  }
  if (((now.getUint32(STATE.cr0, true) ^ first.getUint32(STATE.cr0, true)) & PE_AND_PG) !== 0) {
    return true;
  }
  return target.vector < 0 && it.cpl === 0 && stackIsAway(now, it.mode);
}

/** Whether the stack that a case begins with is out of memory. */
export function beginsDisplaced(it: Case): boolean {
  return it.cpl === 0 && stackIsAway(viewOf(it.state), it.mode);
}

function stackIsAway(view: DataView, mode: Mode): boolean {
  const pointer = view.getBigUint64(STATE.rsp, true);
  const at = mode === "real" || mode === "prot16" ? pointer & 0xffffn : pointer;
  const base = isLong(mode) ? 0n : view.getBigUint64(segmentAt("ss"), true);
  return base + at < BigInt(FRAME) || base + at > BigInt(MEMORY_SIZE);
}

function tablesChanged(memory: Buffer, it: Case): boolean {
  const first = beginning(it);
  const end = HANDLERS + 0x100;
  const differs = (from: number, to: number) => memory.compare(first, from, to, from, to) !== 0;
  if (it.mode === "real") return differs(0, 0x400) || handlersChanged(memory);
  if (differs(GDT, end) && changedButFor(memory, first, GDT, end, 5, OF_DESCRIPTORS)) return true;
  const tables = TABLES + TABLES_SIZE;
  return (
    isLong(it.mode) &&
    differs(TABLES, tables) &&
    changedButFor(memory, first, TABLES, tables, 0, OF_PAGES)
  );
}

function handlersChanged(memory: Buffer): boolean {
  return memory.subarray(HANDLERS, HANDLERS + 0x100).some((byte) => byte !== HLT);
}

// Of words of 8 bytes, some bits of one byte are left out.
function changedButFor(
  a: Buffer,
  b: Buffer,
  from: number,
  to: number,
  byte: number,
  bits: number,
): boolean {
  for (let at = from; at < to; at++) {
    const mask = at % 8 === byte ? ~bits : 0xff;
    if (((a[at] ^ b[at]) & mask) !== 0) return true;
  }
  return false;
}

// The memory that a case begins with, but for its code.
function beginning({ mode, patches }: Case): Buffer {
  let first = TEMPLATES.get(mode);
  if (first === undefined) TEMPLATES.set(mode, (first = Buffer.from(template(mode))));
  if (patches.length === 0) return first;
  const patched = Buffer.from(first);
  for (const { at, bytes } of patches) patched.set(bytes, at);
  return patched;
}
