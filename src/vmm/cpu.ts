/**
 * A CPU's registers: the state a loader asks for (CpuState), and the binary form that engines and
 * machine images hold (`struct vmm_cpu` of native/vmm.h: kvm_regs, kvm_sregs, ...).
 */

/** A segment register with its hidden part; Intel SDM vol. 3A, 3.4.3 and 3.4.5. */
export interface Segment {
  selector: number;
  base: number;
  /** In bytes, granularity already applied. */
  limit: number;
  /** The descriptor's type field, 4 bits. */
  type: number;
  /** Code or data (1) rather than a system segment (0). */
  s: number;
  dpl: number;
  present: number;
  avl: number;
  /** 64-bit code. */
  l: number;
  /** 32-bit default operand size. */
  db: number;
  g: number;
  unusable: number;
}

/** GDTR or IDTR. */
export interface DescriptorTable {
  base: number;
  limit: number;
}

export const GENERAL_REGISTERS = [
  "rax",
  "rbx",
  "rcx",
  "rdx",
  "rsi",
  "rdi",
  "rsp",
  "rbp",
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
  "rip",
  "rflags",
] as const;

export type GeneralRegister = (typeof GENERAL_REGISTERS)[number];

/**
 * The state in which a kernel or firmware is entered. 64-bit values are numbers below 2^53, which
 * every entry point this project knows keeps to.
 */
export interface CpuState extends Record<GeneralRegister, number> {
  cs: Segment;
  ds: Segment;
  es: Segment;
  fs: Segment;
  gs: Segment;
  ss: Segment;
  tr: Segment;
  ldt: Segment;
  gdt: DescriptorTable;
  idt: DescriptorTable;
  cr0: number;
  cr2: number;
  cr3: number;
  cr4: number;
  efer: number;
}

export const CR0 = {
  PE: 1,
  MP: 2,
  ET: 0x10,
  NE: 0x20,
  WP: 0x10000,
  NW: 0x20000000,
  CD: 0x40000000,
  PG: 0x80000000,
} as const;
export const CR4 = { PSE: 0x10, PAE: 0x20, OSFXSR: 0x200, OSXMMEXCPT: 0x400 } as const;
export const EFER = { SCE: 1, LME: 0x100, LMA: 0x400, NX: 0x800 } as const;

const real = (selector: number, type: number): Segment => ({
  selector,
  base: selector * 16,
  limit: 0xffff,
  type,
  s: 1,
  dpl: 0,
  present: 1,
  avl: 0,
  l: 0,
  db: 0,
  g: 0,
  unusable: 0,
});

/** A flat 4 GiB segment; `l` makes it 64-bit code. */
export function flat(selector: number, kind: "code32" | "code64" | "data"): Segment {
  return {
    ...real(selector, kind === "data" ? 3 : 11),
    base: 0,
    limit: 0xffffffff,
    l: kind === "code64" ? 1 : 0,
    db: kind === "code64" ? 0 : 1,
    g: 1,
  };
}

/** The state after RESET#; Intel SDM vol. 3A, table 9-1. */
export function resetState(): CpuState {
  const general = Object.fromEntries(GENERAL_REGISTERS.map((name) => [name, 0])) as Record<
    GeneralRegister,
    number
  >;
  const data = real(0, 3);
  return {
    ...general,
    rdx: 0x600,
    rip: 0xfff0,
    rflags: 2,
    cs: { ...real(0xf000, 11), base: 0xffff0000 },
    ds: { ...data },
    es: { ...data },
    fs: { ...data },
    gs: { ...data },
    ss: { ...data },
    tr: { ...real(0, 11), s: 0 },
    ldt: { ...real(0, 2), s: 0 },
    gdt: { base: 0, limit: 0xffff },
    idt: { base: 0, limit: 0xffff },
    cr0: 0x60000010,
    cr2: 0,
    cr3: 0,
    cr4: 0,
    efer: 0,
  };
}
