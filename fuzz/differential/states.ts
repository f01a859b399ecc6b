/** Random machine states: registers with values that matter, segments, control registers. */
import { SEGMENTS } from "../../src/vmm/cpu-codec.ts";
import { type Case, FPU_SIZE, FPU_XMM, segmentAt, STATE } from "./case.ts";
import { inLab } from "./lab.ts";
import {
  bitness,
  CODE,
  CODE_END,
  DATA,
  GDT,
  GDT_LIMIT,
  HANDLERS,
  IDT,
  isLong,
  isPaged,
  LDT,
  MEMORY_SIZE,
  MMIO,
  type Mode,
  READONLY,
  SELECTOR,
  SELECTORS,
  STACK_TOP,
  TABLES,
  template,
  TSS,
  TSS_LIMIT,
} from "./layout.ts";
import type { Random } from "./random.ts";

const APIC_OFF = 0xfee00100;
/**
 * A busy TSS; in the lab one that isn't: QEMU's emulation of AMD-V ends with "invalid tss type" when a
 * guest that starts with a busy one of 32 bits changes its ring.
 */
const LEGACY_TSS = inLab ? 0x89 : 0x8b;
// CF PF AF ZF SF OF, each by chance.
const ARITHMETIC = 0x8d5;
const RFLAGS = { FIXED: 2, TF: 0x100, IF: 0x200, DF: 0x400, NT: 0x4000, AC: 0x40000, ID: 0x200000 };
const CR0 = { PE: 1, MP: 2, EM: 4, TS: 8, ET: 0x10, NE: 0x20, WP: 0x10000, AM: 0x40000 };
const CR0_PG = 0x80000000;
const CR4 = { TSD: 4, DE: 8, PSE: 0x10, PAE: 0x20, PGE: 0x80, OSFXSR: 0x200, OSXMMEXCPT: 0x400 };
const EFER = { SCE: 1, LME: 0x100, LMA: 0x400, NXE: 0x800 };

const INTERESTING = [
  0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 0x7e, 0x7f, 0x80, 0x81, 0xff, 0x100, 0x7fff, 0x8000,
  0xffff, 0x10000, 0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe, 0xffffffff,
];
/** What floats can be, as doubles. */
const FLOATS = [0, -0, 1, -1, 1.5, 2 ** 31, -(2 ** 31), 2 ** 63, 1e300, 5e-324, Infinity, NaN, 0.1];

/** Fills `it`'s registers, FPU and memory in, all but its code. */
export function randomState(random: Random, it: Case): void {
  const view = new DataView(it.state.buffer, it.state.byteOffset, it.state.byteLength);
  it.state.fill(0);
  for (let i = 0; i < 16; i++) value(random, view, i * 8, it.mode);
  it.at = place(random);
  const stack = STACK_TOP - random.below(16) * (random.chance(10) ? 1 : 8);
  set64(view, STATE.rsp, random.chance(4) ? address(random) : stack);
  set64(view, STATE.rip, it.at);
  set64(view, STATE.rflags, flags(random, it));
  segments(random, view, it);
  control(random, view, it);
  it.patches = [contents(random, stack, it.mode), { at: DATA, bytes: bytes(random, 128) }];
  if (it.deep) fpu(random, it.fpu);
}

export function set64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

export function bytes(random: Random, count: number): Uint8Array {
  const result = new Uint8Array(count);
  for (let i = 0; i < count; i++) result[i] = random.next() >>> 11;
  return result;
}

/** An address in which something may be. */
export function address(random: Random): number {
  const kind = random.below(100);
  if (kind < 60) return DATA + random.below(0x1f00);
  if (kind < 68) return random.pick([DATA + 0x1000, READONLY]) - 1 - random.below(15);
  if (kind < 74) return READONLY + random.below(0x1000);
  if (kind < 80) return READONLY + 0x1000 - random.below(16);
  if (kind < 86) return MMIO + random.below(0x1000);
  if (kind < 90) return 0x12000 + random.below(0x3000);
  if (kind < 94) return random.below(CODE);
  return random.below(0x20000);
}

function value(random: Random, view: DataView, at: number, mode: Mode): void {
  const kind = random.below(100);
  let low: number;
  let high = 0;
  if (kind < 45) {
    low = address(random);
  } else if (kind < 60) {
    low = random.pick(INTERESTING);
    if (random.chance(20)) high = random.pick(INTERESTING);
  } else if (kind < 66) {
    low = (random.pick(SELECTORS) | (random.chance(60) ? 3 : random.below(8))) >>> 0;
  } else if (kind < 74) {
    low = 0xffffffff - random.below(256);
    high = 0xffffffff;
  } else {
    low = random.next();
    high = random.next();
  }
  if (mode !== "long") high = random.chance(95) ? 0 : high;
  view.setUint32(at, low, true);
  view.setUint32(at + 4, high, true);
}

function place(random: Random): number {
  const kind = random.below(100);
  if (kind < 88) return CODE + random.below(0x800);
  // Over the bounds of a page: of code, and to data.
  return random.pick([CODE + 0x1000, CODE_END]) - 1 - random.below(24);
}

function flags(random: Random, { mode, cpl }: Case): number {
  let result = RFLAGS.FIXED | (random.next() & ARITHMETIC);
  if (random.chance(50)) result |= RFLAGS.IF;
  if (random.chance(25)) result |= RFLAGS.DF;
  if (random.chance(2)) result |= RFLAGS.TF;
  if (random.chance(3)) result |= RFLAGS.NT;
  if (random.chance(10)) result |= RFLAGS.AC;
  if (random.chance(10)) result |= RFLAGS.ID;
  if (mode !== "real") result |= (cpl === 3 ? random.pick([0, 0, 3]) : random.below(4)) << 12;
  return result;
}

interface Descriptor {
  base: number;
  limit: number;
  /** Bits 40 to 55 of the descriptor. */
  access: number;
}

const TEMPLATE = new DataView(template("long").buffer);

function descriptor(selector: number): Descriptor {
  const table = selector & 4 ? LDT : GDT;
  const at = table + (selector & 0xfff8);
  const low = TEMPLATE.getUint32(at, true);
  const high = TEMPLATE.getUint32(at + 4, true);
  const limit = (low & 0xffff) | (high & 0xf0000);
  return {
    base: ((low >>> 16) | ((high & 0xff) << 16) | (high & 0xff000000)) >>> 0,
    limit: (high & 0x800000 ? limit * 4096 + 4095 : limit) >>> 0,
    access: (high >>> 8) & 0xffff,
  };
}

type SegmentName = (typeof SEGMENTS)[number];

function segment(
  view: DataView,
  name: SegmentName,
  selector: number,
  { base, limit, access }: Descriptor,
): void {
  const at = segmentAt(name);
  set64(view, at, base);
  view.setUint32(at + 8, limit, true);
  view.setUint16(at + 12, selector, true);
  const fields = [
    access & 15,
    access >>> 7,
    access >>> 5,
    access >>> 14,
    access >>> 4,
    access >>> 13,
    access >>> 15,
    access >>> 12,
  ];
  const widths = [15, 1, 3, 1, 1, 1, 1, 1];
  fields.forEach((field, i) => view.setUint8(at + 14 + i, field & widths[i]));
  view.setUint8(at + 22, access & 0x80 ? 0 : 1);
}

// The accessed bit is set in what a segment register holds.
function load(view: DataView, name: SegmentName, selector: number): void {
  const found = descriptor(selector);
  segment(view, name, selector, { ...found, access: found.access | 1 });
}

const USER = 3;

function segments(random: Random, view: DataView, { mode, cpl }: Case): void {
  if (mode === "real") {
    for (const name of ["cs", "ss", "ds", "es", "fs", "gs"] as const) {
      const near = name === "cs" || name === "ss" || random.chance(70);
      const selector = near ? 0 : random.pick([0x10, 0x100, 0xa00, 0xb80, 0xfff]);
      const access = name === "cs" ? 0x9b : 0x93;
      segment(view, name, selector, { base: selector * 16, limit: 0xffff, access });
    }
    segment(view, "tr", 0, { base: 0, limit: 0xffff, access: 0x8b });
    segment(view, "ldt", 0, { base: 0, limit: 0xffff, access: 0x82 });
    return;
  }
  const user = cpl === 3;
  const code = { prot16: [0x20, 0x48], long: [0x18, 0x40] }[mode as string] ?? [0x08, 0x30];
  load(view, "cs", code[user ? 1 : 0] | cpl);
  const wide = user ? SELECTOR.USER_DATA | USER : SELECTOR.DATA;
  load(view, "ss", mode === "prot16" && !user ? SELECTOR.DATA16 : wide);
  for (const name of ["ds", "es", "fs", "gs"] as const) {
    const kind = random.below(100);
    if (kind < 70) load(view, name, SELECTOR.USER_DATA | USER);
    else if (kind < 75) segment(view, name, random.below(4), { base: 0, limit: 0, access: 0 });
    else {
      const { SHORT, EXPAND_DOWN, READONLY: readable, BASED, CONFORMING } = SELECTOR;
      load(view, name, random.pick([SHORT, EXPAND_DOWN, readable, BASED, CONFORMING]) | USER);
    }
  }
  if (mode === "long") {
    for (const name of ["fs", "gs"] as const) {
      if (random.chance(50)) set64(view, segmentAt(name), random.below(0x1000));
    }
  }
  const tss = { base: TSS, limit: TSS_LIMIT, access: isLong(mode) ? 0x8b : LEGACY_TSS };
  segment(view, "tr", SELECTOR.TSS, tss);
  segment(view, "ldt", SELECTOR.LDT, { base: LDT, limit: 0x1f, access: 0x82 });
}

function control(random: Random, view: DataView, { mode, deep }: Case): void {
  const { PE, MP, EM, TS, ET, NE, WP, AM } = CR0;
  let cr0 = ET | (random.chance(80) ? NE : 0) | (random.chance(50) ? MP : 0);
  if (mode !== "real") cr0 |= PE;
  if (isPaged(mode)) cr0 |= CR0_PG | (random.chance(50) ? WP : 0);
  if (random.chance(20)) cr0 |= AM;
  if (deep && random.chance(4)) cr0 |= TS;
  if (deep && random.chance(4)) cr0 |= EM;
  let cr4 = random.next() & (CR4.TSD | CR4.DE | CR4.PSE | CR4.PGE);
  if (mode === "pae" || isLong(mode)) cr4 |= CR4.PAE;
  if (random.chance(90)) cr4 |= CR4.OSFXSR | (random.chance(50) ? CR4.OSXMMEXCPT : 0);
  let efer = 0;
  if (isPaged(mode)) efer |= EFER.NXE;
  if (random.chance(60)) efer |= EFER.SCE;
  if (isLong(mode)) efer |= EFER.LME | EFER.LMA;
  set64(view, STATE.cr0, cr0 >>> 0);
  set64(view, STATE.cr3, isPaged(mode) ? TABLES : 0);
  set64(view, STATE.cr4, cr4);
  set64(view, STATE.efer, efer);
  set64(view, STATE.apicBase, APIC_OFF);
  const real = mode === "real";
  set64(view, STATE.gdt, GDT);
  view.setUint16(STATE.gdt + 8, GDT_LIMIT, true);
  set64(view, STATE.idt, real ? 0 : IDT);
  view.setUint16(STATE.idt + 8, real ? 0x3ff : isLong(mode) ? 0xfff : 0x7ff, true);
}

/** What returns and pops find: addresses of code, selectors, flags, anything. */
function contents(random: Random, stack: number, mode: Mode): { at: number; bytes: Uint8Array } {
  const width = bitness(mode) / 8;
  const at = Math.min(stack, MEMORY_SIZE - 128) & ~1;
  const result = new Uint8Array(96);
  const view = new DataView(result.buffer);
  const code = { real: [0], prot16: [0x20, 0x4b], long: [0x18, 0x43] }[mode as string];
  for (let i = 0; i + width <= result.length; i += width) {
    const kind = random.below(6);
    let word = random.next();
    if (kind === 0) word = CODE + random.below(0x800);
    else if (kind === 1) word = random.pick(code ?? [0x08, 0x33]);
    else if (kind === 2) word = 2 | (random.next() & 0x3e4fd5);
    else if (kind === 3) word = random.pick(SELECTORS) | random.below(4);
    else if (kind === 4) word = random.chance(50) ? HANDLERS + random.below(256) : address(random);
    if (width === 2) view.setUint16(i, word, true);
    else view.setUint32(i, word, true);
    if (width === 8 && kind === 5) view.setUint32(i + 4, random.next(), true);
  }
  return { at, bytes: result };
}

function fpu(random: Random, to: Uint8Array): void {
  const view = new DataView(to.buffer, to.byteOffset, FPU_SIZE);
  to.fill(0);
  for (let i = 0; i < 8; i++) {
    if (random.chance(50)) extended(view, i * 16, random.pick(FLOATS));
    else for (let j = 0; j < 10; j++) to[i * 16 + j] = random.next() >>> 9;
  }
  const control = random.chance(70) ? 0x37f : (random.next() & 0xf3f) | 0x40;
  view.setUint16(128, control, true);
  // TOP and the condition codes; no exception waits.
  view.setUint16(130, random.chance(60) ? 0 : random.next() & 0x7f00, true);
  view.setUint8(132, random.chance(40) ? 0 : random.next() & 0xff);
  for (let i = 0; i < 16; i++) {
    for (let j = 0; j < 16; j += 8) {
      const at = FPU_XMM + i * 16 + j;
      const kind = random.below(3);
      if (kind === 0) view.setFloat64(at, random.pick(FLOATS), true);
      else if (kind === 1) {
        view.setFloat32(at, random.pick(FLOATS), true);
        view.setFloat32(at + 4, random.pick(FLOATS), true);
      } else for (let k = 0; k < 8; k++) to[at + k] = random.next() >>> 9;
    }
  }
  const unmasked = random.chance(5) ? random.next() & 0x1f80 : 0x1f80;
  const mxcsr = random.chance(70) ? 0x1f80 : unmasked | (random.next() & 0xe03f);
  view.setUint32(408, mxcsr >>> 0, true);
}

/** A double as the 80-bit format has it. */
function extended(view: DataView, at: number, value: number): void {
  const bits = new DataView(new ArrayBuffer(8));
  bits.setFloat64(0, value);
  const high = bits.getUint32(0);
  const exponent = (high >>> 20) & 0x7ff;
  const fraction = ((BigInt(high & 0xfffff) << 32n) | BigInt(bits.getUint32(4))) << 11n;
  const isInteger = exponent !== 0 ? 1n << 63n : 0n;
  let biased = exponent === 0 ? 0 : exponent - 1023 + 16383;
  if (exponent === 0x7ff) biased = 0x7fff;
  view.setBigUint64(at, fraction | isInteger, true);
  view.setUint16(at + 8, biased | ((high >>> 31) << 15), true);
}
