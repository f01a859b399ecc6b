/** One case: a machine's whole state, and code to run in it. */
import { GENERAL_REGISTERS } from "../../src/vmm/cpu.ts";
import { CPU_LAYOUT, SEGMENTS } from "../../src/vmm/cpu-codec.ts";
import type { Mode } from "./layout.ts";

/** kvm_regs and kvm_sregs, as struct vmm_cpu and a run page's kvm_sync_regs begin. */
export const STATE_SIZE = CPU_LAYOUT.debugregs;
/** struct kvm_fpu. */
export const FPU_SIZE = CPU_LAYOUT.xcr0 - CPU_LAYOUT.fpu;

/** Where struct kvm_fpu has its 16 XMM registers. */
export const FPU_XMM = 152;

/** Order in struct kvm_regs. */
export const GENERAL = GENERAL_REGISTERS.slice(0, 16);

/** Offsets in the state, bytes. */
export const STATE = {
  rsp: 48,
  rip: 128,
  rflags: 136,
  segments: 144,
  segmentSize: 24,
  gdt: 336,
  idt: 352,
  cr0: 368,
  cr2: 376,
  cr3: 384,
  cr4: 392,
  cr8: 400,
  efer: 408,
  apicBase: 416,
} as const;

/** Offset of a segment register in the state. */
export function segmentAt(name: (typeof SEGMENTS)[number]): number {
  return STATE.segments + SEGMENTS.indexOf(name) * STATE.segmentSize;
}

/** Bytes that a case puts into memory besides its code. */
export interface Patch {
  readonly at: number;
  readonly bytes: Uint8Array;
}

export interface Case {
  mode: Mode;
  cpl: number;
  /** Its FPU, MSRs and debug registers count too; else they have their reset values. */
  deep: boolean;
  /** Where the code lies; HLT follows it. */
  at: number;
  code: Uint8Array;
  state: Uint8Array;
  /** struct kvm_fpu; used by deep cases. */
  fpu: Uint8Array;
  patches: Patch[];
}
