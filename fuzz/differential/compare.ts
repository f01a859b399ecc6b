/** What differs between two engines' ends of a case, by name. */
import { CPU_LAYOUT, SEGMENTS } from "../../src/vmm/cpu-codec.ts";
import { type Case, FPU_XMM, GENERAL, segmentAt, STATE } from "./case.ts";
import {
  GDT,
  IDT,
  isLong,
  isPaged,
  LDT,
  MEMORY_SIZE,
  type Mode,
  physical,
  TABLES,
  TSS,
} from "./layout.ts";
import { Ending, type Target } from "./target.ts";

/** RFLAGS' bits by name: arithmetic ones may be undefined (undefined.ts), the others never. */
export const FLAGS: readonly (readonly [name: string, bit: number])[] = [
  ["CF", 0x1],
  ["PF", 0x4],
  ["AF", 0x10],
  ["ZF", 0x40],
  ["SF", 0x80],
  ["TF", 0x100],
  ["IF", 0x200],
  ["DF", 0x400],
  ["OF", 0x800],
  ["IOPL", 0x3000],
  ["NT", 0x4000],
  ["RF", 0x10000],
  ["VM", 0x20000],
  ["AC", 0x40000],
  ["VIF", 0x180000],
  ["ID", 0x200000],
];

/** Exceptions with an error code; Intel SDM vol. 3A, table 6-1. */
const WITH_CODE = new Set([8, 10, 11, 12, 13, 14, 17]);

export interface Difference {
  /** "rax", "rflags.CF", "cs.base", "vector", "frame.code", "memory.data", "ending" … */
  readonly what: string;
  readonly a: string;
  readonly b: string;
}

const hex = (value: number | bigint) => `0x${value.toString(16)}`;

/**
 * Quick: whether nothing at all differs.
 * @returns false, too, where only what nobody can see of a segment does: `differences` has none then.
 */
export function isIdentical(a: Target, b: Target, it: Case): boolean {
  if (a.ending !== b.ending || a.what !== b.what) return false;
  if (a.ending !== Ending.HALT) {
    return a.ending !== Ending.EXIT || a.memory.equals(b.memory);
  }
  const [state, other] = [a.words, b.words];
  // Registers, segments, control registers.
  for (let i = 0; i < 104; i++) if (state[i] !== other[i]) return false;
  if (!a.memory.equals(b.memory)) return false;
  return !it.deep || deepDifferences(a, b).length === 0;
}

/** All that differs. Nothing is left out here for being undefined. */
export function differences(a: Target, b: Target, it: Case): Difference[] {
  if (a.ending !== b.ending || a.what !== b.what) {
    return [{ what: "ending", a: endingText(a), b: endingText(b) }];
  }
  if (a.ending === Ending.EXIT) return memory(a, b, it.mode, NOWHERE);
  if (a.ending !== Ending.HALT) return [];
  if (a.vector !== b.vector) {
    return [{ what: "vector", a: endingText(a), b: endingText(b) }];
  }
  const found: Difference[] = [];
  registers(a, b, found);
  segments(a, b, found);
  control(a, b, found);
  const frame = a.vector >= 0 ? frames(a, b, it, found) : NOWHERE;
  found.push(...memory(a, b, it.mode, frame));
  if (it.deep) found.push(...deepDifferences(a, b));
  return found;
}

/** "halt", "#13", "out 0x80/1 5a", … */
export function endingText(target: Target): string {
  if (target.ending === Ending.HALT) return target.vector < 0 ? "halt" : `#${target.vector}`;
  if (target.ending === Ending.BUDGET) return "endless";
  return target.what;
}

function views(a: Uint8Array, b: Uint8Array): [DataView, DataView] {
  return [a, b].map((bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)) as [
    DataView,
    DataView,
  ];
}

function flags(a: number, b: number, prefix: string, found: Difference[]): void {
  for (const [name, bit] of FLAGS) {
    if (((a ^ b) & bit) === 0) continue;
    found.push({ what: `${prefix}.${name}`, a: hex(a & bit), b: hex(b & bit) });
  }
}

function registers(a: Target, b: Target, found: Difference[]): void {
  const [va, vb] = views(a.state, b.state);
  [...GENERAL, "rip"].forEach((what, i) => {
    const [x, y] = [va.getBigUint64(i * 8, true), vb.getBigUint64(i * 8, true)];
    if (x !== y) found.push({ what, a: hex(x), b: hex(y) });
  });
  const at = STATE.rflags;
  flags(va.getUint32(at, true), vb.getUint32(at, true), "rflags", found);
}

// Offsets and widths in struct kvm_segment.
const SEGMENT_FIELDS = [
  ["type", 14],
  ["present", 15],
  ["dpl", 16],
  ["db", 17],
  ["s", 18],
  ["l", 19],
  ["g", 20],
  ["avl", 21],
] as const;

// Hidden parts of a null segment, of CS.limit in 64-bit mode and the like are nobody's to see.
function segments(a: Target, b: Target, found: Difference[]): void {
  const [va, vb] = views(a.state, b.state);
  const long = (va.getUint32(STATE.efer, true) & 0x400) !== 0;
  const wide = long && va.getUint8(segmentAt("cs") + 19) === 1;
  for (const name of SEGMENTS) {
    const at = segmentAt(name);
    const add = (field: string, x: number | bigint, y: number | bigint) => {
      if (x !== y) found.push({ what: `${name}.${field}`, a: hex(x), b: hex(y) });
    };
    add("selector", va.getUint16(at + 12, true), vb.getUint16(at + 12, true));
    const hidden = [va, vb].some(
      (view) => view.getUint8(at + 22) !== 0 || view.getUint8(at + 15) === 0,
    );
    const based = name === "fs" || name === "gs";
    if (!hidden || (wide && based)) {
      if (!wide || based || name === "tr" || name === "ldt") {
        add("base", va.getBigUint64(at, true), vb.getBigUint64(at, true));
      }
    }
    if (hidden || (wide && name !== "tr" && name !== "ldt")) continue;
    add("limit", va.getUint32(at + 8, true), vb.getUint32(at + 8, true));
    for (const [field, offset] of SEGMENT_FIELDS) {
      // What is loaded is accessed, or busy, whether or not its descriptor says so.
      const mask = field !== "type" ? 0xff : name === "tr" ? 0xd : 0xe;
      add(field, va.getUint8(at + offset) & mask, vb.getUint8(at + offset) & mask);
    }
  }
}

function control(a: Target, b: Target, found: Difference[]): void {
  const [va, vb] = views(a.state, b.state);
  for (const table of ["gdt", "idt"] as const) {
    const [x, y] = [va.getBigUint64(STATE[table], true), vb.getBigUint64(STATE[table], true)];
    if (x !== y) found.push({ what: `${table}.base`, a: hex(x), b: hex(y) });
    const [m, n] = [va.getUint16(STATE[table] + 8, true), vb.getUint16(STATE[table] + 8, true)];
    if (m !== n) found.push({ what: `${table}.limit`, a: hex(m), b: hex(n) });
  }
  for (const name of ["cr0", "cr2", "cr3", "cr4", "cr8", "efer"] as const) {
    const [x, y] = [va.getBigUint64(STATE[name], true), vb.getBigUint64(STATE[name], true)];
    if (x !== y) found.push({ what: name, a: hex(x), b: hex(y) });
  }
}

const NOWHERE: ReadonlySet<number> = new Set();

/** The words that a handler finds on its stack, by name, and where in memory they lie. */
function* frameOf(target: Target, it: Case): Generator<[what: string, at: number]> {
  const view = new DataView(target.state.buffer, target.state.byteOffset);
  const width = frameWidth(it.mode);
  const base = isLong(it.mode) ? 0 : view.getUint32(segmentAt("ss"), true);
  let stack = view.getUint32(STATE.rsp, true);
  const code = width > 2 && WITH_CODE.has(target.vector) ? ["frame.code"] : [];
  for (const what of [...code, "frame.rip", "frame.cs", "frame.rflags"]) {
    // SP wraps in real mode.
    const at = physical(it.mode, (base + (width === 2 ? stack & 0xffff : stack)) >>> 0);
    stack += width;
    if (at + width <= MEMORY_SIZE) yield [what, at];
  }
}

function frameWidth(mode: Mode): number {
  return mode === "real" ? 2 : isLong(mode) ? 8 : 4;
}

function frameWord({ memory }: Target, mode: Mode, at: number): number {
  return frameWidth(mode) === 2 ? memory.readUInt16LE(at) : memory.readUInt32LE(at);
}

/** Where an exception that ended in its handler came from; undefined where its frame isn't in memory. */
export function pushed(target: Target, it: Case): { rip: number; cs: number } | undefined {
  const words = new Map<string, number>();
  for (const [what, at] of frameOf(target, it)) words.set(what, frameWord(target, it.mode, at));
  const [rip, cs] = [words.get("frame.rip"), words.get("frame.cs")];
  return rip === undefined || cs === undefined ? undefined : { rip, cs: cs & 0xffff };
}

/** What the handler finds on its stack. @returns where that lies, by bytes. */
function frames(a: Target, b: Target, it: Case, found: Difference[]): ReadonlySet<number> {
  const [va, vb] = views(a.state, b.state);
  if (va.getUint32(STATE.rsp, true) !== vb.getUint32(STATE.rsp, true)) return NOWHERE;
  const whole = new Set<number>();
  for (const [what, at] of frameOf(a, it)) {
    const [x, y] = [a, b].map((target) => frameWord(target, it.mode, at));
    if (what === "frame.rflags") flags(x, y, what, found);
    else if (x !== y) found.push({ what, a: hex(x), b: hex(y) });
    for (let i = 0; i < frameWidth(it.mode); i++) whole.add(at + i);
  }
  return whole;
}

/** PAE's four page-directory pointers, bytes. */
const PAE_POINTERS = 32;

function regionOf(at: number, mode: Mode): string {
  if (at < 0x400) return "vectors";
  if (at >= GDT && at < LDT + 0x100) return "descriptors";
  if (at >= TSS && at < IDT) return "tss";
  if (mode === "pae" && at >= TABLES && at < TABLES + PAE_POINTERS) return "pointers";
  if (isPaged(mode) && at >= TABLES && at < TABLES + 0x4000) return "tables";
  if (at >= 0x8000 && at < 0xa000) return "code";
  if (at >= 0xe000) return "stack";
  return "data";
}

/** What is compared at once, bytes. */
const BLOCK = 4096;

function memory(a: Target, b: Target, mode: Mode, except: ReadonlySet<number>): Difference[] {
  if (a.memory.equals(b.memory)) return [];
  const found = new Map<string, Difference>();
  // Most of it is the same: by blocks, then by words, then by bytes.
  for (let block = 0; block < MEMORY_SIZE; block += BLOCK) {
    if (a.memory.compare(b.memory, block, block + BLOCK, block, block + BLOCK) === 0) continue;
    for (let i = block / 4; i < (block + BLOCK) / 4; i++) {
      if (a.memoryWords[i] === b.memoryWords[i]) continue;
      for (let at = i * 4; at < i * 4 + 4; at++) {
        if (a.memory[at] === b.memory[at] || except.has(at)) continue;
        const what = `memory.${regionOf(at, mode)}`;
        if (found.has(what)) continue;
        const show = (bytes: Uint8Array) => `${hex(at)}: ${bytes.subarray(at, at + 8).toHex()}`;
        found.set(what, { what, a: show(a.memory), b: show(b.memory) });
      }
    }
  }
  return [...found.values()];
}

// struct kvm_fpu without the last instruction's opcode and addresses, which processors keep or don't.
const FPU_FIELDS = [
  ["fcw", 128, 2],
  ["fsw", 130, 2],
  ["ftw", 132, 1],
  ["mxcsr", 408, 4],
] as const;

/** Of FPU, debug registers and MSRs. The TSC runs on, so it isn't compared. */
function deepDifferences(a: Target, b: Target): Difference[] {
  const found: Difference[] = [];
  const [fa, fb] = [a.fpu, b.fpu];
  const add = (what: string, from: number, length: number) => {
    for (let i = from; i < from + length; i++) {
      if (fa[i] === fb[i]) continue;
      const [x, y] = [fa, fb].map((bytes) => bytes.subarray(from, from + length).toHex());
      found.push({ what, a: x, b: y });
      return;
    }
  };
  for (let i = 0; i < 8; i++) add(`st${i}`, i * 16, 10);
  for (const [what, at, length] of FPU_FIELDS) add(what, at, length);
  for (let i = 0; i < 16; i++) add(`xmm${i}`, FPU_XMM + i * 16, 16);
  const [va, vb] = views(a.cpu, b.cpu);
  ["dr0", "dr1", "dr2", "dr3", "dr6", "dr7"].forEach((what, i) => {
    const at = CPU_LAYOUT.debugregs + i * 8;
    const [x, y] = [va.getBigUint64(at, true), vb.getBigUint64(at, true)];
    if (x !== y) found.push({ what, a: hex(x), b: hex(y) });
  });
  const values = msrs(vb);
  for (const [index, value] of msrs(va)) {
    const other = values.get(index);
    if (other === undefined || other === value || index === 0x10) continue;
    found.push({ what: `msr.${hex(index)}`, a: hex(value), b: hex(other) });
  }
  return found;
}

function msrs(view: DataView): Map<number, bigint> {
  const found = new Map<number, bigint>();
  const count = view.getUint32(CPU_LAYOUT.msrCount, true);
  for (let i = 0; i < count; i++) {
    const at = CPU_LAYOUT.msrs + i * 16;
    found.set(view.getUint32(at, true), view.getBigUint64(at + 8, true));
  }
  return found;
}
