/**
 * struct vmm_cpu of native/vmm.h: kvm_regs, kvm_sregs, kvm_debugregs, kvm_vcpu_events, kvm_fpu and
 * MSRs, one after the other, as in linux/kvm.h.
 */
import { type CpuState, type DescriptorTable, GENERAL_REGISTERS, type Segment } from "./cpu.ts";

/** Offsets in struct vmm_cpu, bytes. */
export const CPU_LAYOUT = {
  regs: 0,
  sregs: 144,
  debugregs: 456,
  events: 584,
  fpu: 648,
  xcr0: 1064,
  msrCount: 1072,
  halted: 1076,
  msrs: 1080,
  xsaveSize: 1592,
  xsave: 1600,
  size: 5696,
} as const;

/** Order in struct kvm_sregs. */
export const SEGMENTS = ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"] as const;
const SEGMENT_SIZE = 24;
const GDT = 192;
const IDT = 208;
const CONTROL = ["cr0", "cr2", "cr3", "cr4"] as const;
const CR0 = 224;
const CR8 = 256;
const EFER = 264;
const APIC_BASE = 272;
const INTERRUPT_BITMAP = 280;

/** IA32_APIC_BASE of a bootstrap processor whose local APIC is off: KVM shows it in CPUID else. */
const APIC_OFF = 0xfee00100;

const MSR_PAT = 0x277;
const MSR_MISC_ENABLE = 0x1a0;
const MSR_TSC = 0x10;
/** PAT after reset; Intel SDM vol. 3A, 12.12.4. */
const PAT_RESET = 0x0007040600070406n;

function get64(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
}

function set64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % 2 ** 32, true);
  view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
}

function decodeSegment(view: DataView, at: number): Segment {
  const byte = (index: number) => view.getUint8(at + 14 + index);
  return {
    base: get64(view, at),
    limit: view.getUint32(at + 8, true),
    selector: view.getUint16(at + 12, true),
    type: byte(0),
    present: byte(1),
    dpl: byte(2),
    db: byte(3),
    s: byte(4),
    l: byte(5),
    g: byte(6),
    avl: byte(7),
    unusable: byte(8),
  };
}

function encodeSegment(view: DataView, at: number, segment: Segment): void {
  const { type, present, dpl, db, s, l, g, avl, unusable } = segment;
  set64(view, at, segment.base);
  view.setUint32(at + 8, segment.limit, true);
  view.setUint16(at + 12, segment.selector, true);
  [type, present, dpl, db, s, l, g, avl, unusable].forEach((value, index) => {
    view.setUint8(at + 14 + index, value);
  });
}

function decodeTable(view: DataView, at: number): DescriptorTable {
  return { base: get64(view, at), limit: view.getUint16(at + 8, true) };
}

function encodeTable(view: DataView, at: number, table: DescriptorTable): void {
  set64(view, at, table.base);
  view.setUint16(at + 8, table.limit, true);
}

/**
 * The registers of a struct vmm_cpu, or of kvm_sync_regs (`sregs` at the same offset there).
 * 64-bit values lose what is beyond 53 bits: for people and loaders, not for comparing.
 */
export function decodeCpu(view: DataView, base = 0): CpuState {
  const state: Record<string, unknown> = {};
  GENERAL_REGISTERS.forEach((name, index) => {
    state[name] = get64(view, base + index * 8);
  });
  const sregs = base + CPU_LAYOUT.sregs;
  SEGMENTS.forEach((name, index) => {
    state[name] = decodeSegment(view, sregs + index * SEGMENT_SIZE);
  });
  state.gdt = decodeTable(view, sregs + GDT);
  state.idt = decodeTable(view, sregs + IDT);
  CONTROL.forEach((name, index) => {
    state[name] = get64(view, sregs + CR0 + index * 8);
  });
  state.efer = get64(view, sregs + EFER);
  return state as unknown as CpuState;
}

/**
 * Writes a state as after RESET# but for what `state` says. The MSRs that are listed in `view`
 * (as vmm_get_cpu left them) get their reset values; the TSC goes on.
 */
export function encodeCpu(view: DataView, state: CpuState): void {
  GENERAL_REGISTERS.forEach((name, index) => {
    set64(view, index * 8, state[name]);
  });
  const sregs = CPU_LAYOUT.sregs;
  SEGMENTS.forEach((name, index) => {
    encodeSegment(view, sregs + index * SEGMENT_SIZE, state[name]);
  });
  encodeTable(view, sregs + GDT, state.gdt);
  encodeTable(view, sregs + IDT, state.idt);
  CONTROL.forEach((name, index) => {
    set64(view, sregs + CR0 + index * 8, state[name]);
  });
  set64(view, sregs + CR8, 0);
  set64(view, sregs + EFER, state.efer);
  set64(view, sregs + APIC_BASE, APIC_OFF);
  for (let i = 0; i < 4; i++) set64(view, sregs + INTERRUPT_BITMAP + i * 8, 0);

  clear(view, CPU_LAYOUT.debugregs, CPU_LAYOUT.xcr0);
  set64(view, CPU_LAYOUT.debugregs + 32, 0xffff0ff0); // DR6
  set64(view, CPU_LAYOUT.debugregs + 40, 0x400); // DR7
  view.setUint16(CPU_LAYOUT.fpu + 128, 0x37f, true); // FCW
  view.setUint32(CPU_LAYOUT.fpu + 408, 0x1f80, true); // MXCSR
  set64(view, CPU_LAYOUT.xcr0, 1);
  view.setUint32(CPU_LAYOUT.halted, 0, true);
  view.setUint32(CPU_LAYOUT.xsaveSize, 0, true);

  const count = view.getUint32(CPU_LAYOUT.msrCount, true);
  for (let i = 0; i < count; i++) {
    const at = CPU_LAYOUT.msrs + i * 16;
    const index = view.getUint32(at, true);
    if (index === MSR_TSC) continue;
    let value = 0n;
    if (index === MSR_PAT) value = PAT_RESET;
    if (index === MSR_MISC_ENABLE) value = 1n; // fast strings
    view.setBigUint64(at + 8, value, true);
  }
}

function clear(view: DataView, from: number, to: number): void {
  new Uint8Array(view.buffer, view.byteOffset + from, to - from).fill(0);
}

/** The registers of a struct vmm_cpu as lines of text, to the last bit. */
export function formatCpuBytes(view: DataView): string {
  const exact = (at: number) => view.getBigUint64(at, true);
  const state: Record<string, unknown> = { ...decodeCpu(view) };
  GENERAL_REGISTERS.forEach((name, index) => {
    state[name] = exact(index * 8);
  });
  const sregs = CPU_LAYOUT.sregs;
  SEGMENTS.forEach((name, index) => {
    state[name] = { ...(state[name] as Segment), base: exact(sregs + index * SEGMENT_SIZE) };
  });
  for (const [name, at] of [["gdt", GDT] as const, ["idt", IDT] as const]) {
    state[name] = { ...(state[name] as DescriptorTable), base: exact(sregs + at) };
  }
  CONTROL.forEach((name, index) => {
    state[name] = exact(sregs + CR0 + index * 8);
  });
  return formatCpu(state as unknown as CpuState);
}

/** The registers as lines of text, for people: 53 bits of each. */
export function formatCpu(state: CpuState): string {
  const hex = (value: number | bigint, digits = 16) => value.toString(16).padStart(digits, "0");
  const lines: string[] = [];
  for (let i = 0; i < GENERAL_REGISTERS.length; i += 3) {
    lines.push(
      GENERAL_REGISTERS.slice(i, i + 3)
        .map((name) => `${name.padEnd(6)} ${hex(state[name])}`)
        .join("  "),
    );
  }
  for (const name of SEGMENTS) {
    const { selector, base, limit, type, s, dpl, present, l, db } = state[name];
    lines.push(
      `${name.padEnd(6)} ${hex(selector, 4)} base ${hex(base)} limit ${hex(limit, 8)} ` +
        `type ${type} s ${s} dpl ${dpl} p ${present} l ${l} db ${db}`,
    );
  }
  lines.push(
    `gdt    base ${hex(state.gdt.base)} limit ${hex(state.gdt.limit, 4)}`,
    `idt    base ${hex(state.idt.base)} limit ${hex(state.idt.limit, 4)}`,
    `${CONTROL.map((name) => `${name} ${hex(state[name])}`).join("  ")}`,
    `efer   ${hex(state.efer)}`,
  );
  return lines.join("\n");
}
