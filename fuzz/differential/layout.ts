/**
 * What lies where in the memory of a case: one slot of 64 KiB from address 0, beyond which everything
 * is MMIO.
 *
 * ```
 * 0x0000  real mode's interrupt vectors      0x8000  code, two pages, filled with HLT
 * 0x1000  GDT, LDT (0x1600), TSS (0x1800)    0xa000  data, two pages
 * 0x2000  IDT                                0xc000  data, read-only where there are page tables
 * 0x3000  handlers: HLT at 0x3000 + vector   0xd000  not present there
 * 0x4000  page tables, four pages            0xe000  stack; 0xf000 ring 0's
 * ```
 *
 * Page tables map each page to itself, and at 0x10000 two pages of MMIO, at 0x12000 data again but not
 * executable (where the mode has that), at 0x13000 with a reserved bit set (likewise), at 0x14000 data
 * for the supervisor alone. Nothing else is mapped.
 */
export const MEMORY_SIZE = 0x10000;
export const GDT = 0x1000;
export const GDT_LIMIT = 0xff;
export const LDT = 0x1600;
export const TSS = 0x1800;
export const TSS_LIMIT = 0x1ff;
export const IDT = 0x2000;
export const HANDLERS = 0x3000;
export const TABLES = 0x4000;
export const CODE = 0x8000;
export const CODE_END = 0xa000;
export const DATA = 0xa000;
export const READONLY = 0xc000;
export const ABSENT = 0xd000;
export const STACK = 0xe000;
export const STACK_TOP = 0xef00;
export const RING0_STACK = 0xff00;
export const MMIO = 0x10000;

/** What a case's processor does when it starts. */
export const MODES = ["real", "prot16", "prot32", "paged32", "pae", "long", "compat"] as const;
export type Mode = (typeof MODES)[number];

export function isLong(mode: Mode): boolean {
  return mode === "long" || mode === "compat";
}

export function isPaged(mode: Mode): boolean {
  return mode === "paged32" || mode === "pae" || isLong(mode);
}

/** Bits of the default operand size. */
export function bitness(mode: Mode): 16 | 32 | 64 {
  if (mode === "real" || mode === "prot16") return 16;
  return mode === "long" ? 64 : 32;
}

/** Selectors of the GDT, without RPL. */
export const SELECTOR = {
  CODE32: 0x08,
  DATA: 0x10,
  CODE64: 0x18,
  CODE16: 0x20,
  DATA16: 0x28,
  USER_CODE32: 0x30,
  USER_DATA: 0x38,
  USER_CODE64: 0x40,
  USER_CODE16: 0x48,
  /** Ends at 0xbfff. */
  SHORT: 0x50,
  /** From 0x1000 up. */
  EXPAND_DOWN: 0x58,
  READONLY: 0x60,
  ABSENT: 0x68,
  CONFORMING: 0x70,
  EXECUTE_ONLY: 0x78,
  TSS: 0x80,
  LDT: 0x90,
  CALL_GATE: 0xa0,
  TASK_GATE: 0xb0,
  RESERVED: 0xb8,
  /** Begins at 0x100. */
  BASED: 0xc0,
} as const;

export const SELECTORS = Object.values(SELECTOR);

const CODE32 = 0xcf9b000000ffffn;
const DATA32 = 0xcf93000000ffffn;
const DPL3 = 0x600000000000n;

const DESCRIPTORS: Record<number, bigint> = {
  [SELECTOR.CODE32]: CODE32,
  [SELECTOR.DATA]: DATA32,
  [SELECTOR.CODE64]: 0xaf9b000000ffffn,
  [SELECTOR.CODE16]: 0x009b000000ffffn,
  [SELECTOR.DATA16]: 0x0093000000ffffn,
  [SELECTOR.USER_CODE32]: CODE32 | DPL3,
  [SELECTOR.USER_DATA]: DATA32 | DPL3,
  [SELECTOR.USER_CODE64]: 0xaffb000000ffffn,
  [SELECTOR.USER_CODE16]: 0x00fb000000ffffn,
  [SELECTOR.SHORT]: 0x40f2000000bfffn,
  [SELECTOR.EXPAND_DOWN]: 0x40f60000000fffn,
  [SELECTOR.READONLY]: 0xcff0000000ffffn,
  [SELECTOR.ABSENT]: 0xcf72000000ffffn,
  [SELECTOR.CONFORMING]: 0xcf9e000000ffffn,
  [SELECTOR.EXECUTE_ONLY]: 0xcf98000000ffffn,
  [SELECTOR.TASK_GATE]: 0x0000e50000800000n,
  [SELECTOR.RESERVED]: 0xcf88000000ffffn,
  [SELECTOR.BASED]: 0xcff2000100ffffn,
};

// Descriptors of a system segment.
function system(base: number, limit: number, access: bigint): bigint {
  return (
    BigInt(limit) |
    (BigInt(base & 0xffffff) << 16n) |
    (access << 40n) |
    (BigInt(base >>> 24) << 56n)
  );
}

/** Present, writable, user's, and the two together. */
const P = 1;
const W = 2;
const U = 4;

// By page of 4 KiB from 0: flags of the page-table entry, and the page it maps if that isn't itself.
const PAGES: readonly (readonly [flags: number, frame?: number, high?: "nx" | "reserved"])[] = [
  [P | W],
  [P | W],
  [P | W],
  [P],
  [P | W],
  [P | W],
  [P | W],
  [P | W],
  [P | W | U],
  [P | W | U],
  [P | W | U],
  [P | W | U],
  [P | U],
  [0],
  [P | W | U],
  [P | W],
  [P | W | U],
  [P | W | U],
  [P | W | U, 10, "nx"],
  [P | W | U, 10, "reserved"],
  [P | W, 11],
];

/** Where an address that is mapped lies in memory. */
export function physical(mode: Mode, at: number): number {
  const frame = isPaged(mode) ? PAGES[at >>> 12]?.[1] : undefined;
  return frame === undefined ? at : frame * 0x1000 + (at & 0xfff);
}

/** The memory of a mode before a case puts its own into it. */
export function template(mode: Mode): Uint8Array {
  const bytes = new Uint8Array(MEMORY_SIZE);
  const view = new DataView(bytes.buffer);
  // Data that isn't all the same: a multiplicative pattern.
  for (let at = DATA; at < MEMORY_SIZE; at += 4) {
    view.setUint32(at, Math.imul(at, 0x9e3779b1) >>> 0, true);
  }
  bytes.fill(0xf4, HANDLERS, HANDLERS + 0x100);
  bytes.fill(0xf4, CODE, CODE_END);
  for (let vector = 0; vector < 256; vector++) {
    // Segment 0x300: handlers by their offset.
    view.setUint32(vector * 4, ((HANDLERS >>> 4) << 16) | vector, true);
  }
  if (mode !== "real") {
    descriptors(view, mode);
    gates(view, mode);
  }
  if (isPaged(mode)) pageTables(view, mode);
  return bytes;
}

function descriptors(view: DataView, mode: Mode): void {
  for (const [selector, descriptor] of Object.entries(DESCRIPTORS)) {
    view.setBigUint64(GDT + Number(selector), descriptor, true);
  }
  view.setBigUint64(GDT + SELECTOR.TSS, system(TSS, TSS_LIMIT, 0x8bn), true);
  view.setBigUint64(GDT + SELECTOR.LDT, system(LDT, 0x1f, 0x82n), true);
  const target = isLong(mode) ? SELECTOR.CODE64 : SELECTOR.CODE32;
  // To the handler of vector 0xff, from any ring.
  const gate = (BigInt(target) << 16n) | BigInt(HANDLERS + 0xff) | (0xecn << 40n);
  view.setBigUint64(GDT + SELECTOR.CALL_GATE, gate, true);
  view.setBigUint64(LDT + 8, DESCRIPTORS[SELECTOR.USER_DATA], true);
  view.setBigUint64(LDT + 16, DESCRIPTORS[SELECTOR.USER_CODE32], true);
  if (isLong(mode)) {
    view.setUint32(TSS + 4, RING0_STACK, true);
    view.setUint32(TSS + 36, RING0_STACK - 0x400, true);
  } else {
    view.setUint32(TSS + 4, RING0_STACK, true);
    view.setUint32(TSS + 8, SELECTOR.DATA, true);
  }
  // The I/O map: ports below 0x100 are free, then comes a byte of ones.
  view.setUint16(TSS + 102, 0x88, true);
  view.setUint8(TSS + 0x88 + 0x20, 0xff);
  for (let at = 0x88 + 0x21; at <= TSS_LIMIT; at++) view.setUint8(TSS + at, 0xff);
}

function gates(view: DataView, mode: Mode): void {
  const size = isLong(mode) ? 16 : 8;
  const target = isLong(mode) ? SELECTOR.CODE64 : SELECTOR.CODE32;
  for (let vector = 0; vector < 256; vector++) {
    const at = IDT + vector * size;
    // INT3, INTO, BOUND and every fourth of the others may come from ring 3.
    const open = (vector >= 3 && vector <= 5) || (vector >= 32 && vector % 4 === 0);
    view.setUint32(at, (target << 16) | (HANDLERS + vector), true);
    view.setUint32(at + 4, (open ? 0xee00 : 0x8e00) | (size === 16 && vector === 8 ? 1 : 0), true);
  }
}

function pageTables(view: DataView, mode: Mode): void {
  const directory = mode === "paged32" ? TABLES : TABLES + 0x2000;
  const pages = TABLES + 0x3000;
  const link = P | W | U;
  if (mode === "pae") view.setUint32(TABLES, directory | P, true);
  if (isLong(mode)) {
    view.setUint32(TABLES, (TABLES + 0x1000) | link, true);
    view.setUint32(TABLES + 0x1000, directory | link, true);
  }
  view.setUint32(directory, pages | link, true);
  const size = mode === "paged32" ? 4 : 8;
  PAGES.forEach(([flags, frame, high], page) => {
    view.setUint32(pages + page * size, ((frame ?? page) << 12) | flags, true);
    if (size === 4 || high === undefined) return;
    view.setUint32(pages + page * size + 4, high === "nx" ? 0x80000000 : 0x00080000, true);
  });
}
