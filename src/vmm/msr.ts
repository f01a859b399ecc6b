/**
 * MSR policy, as vmm(4)'s: MSRs that the engine keeps work; of the others, reading a few gives 0
 * because kernels read them without a guard, reading any other raises #GP, and writes are ignored.
 */

const ZERO = new Set([
  0x17, // IA32_PLATFORM_ID
  0x3b, // IA32_TSC_ADJUST: with it Linux trusts the TSC, however late its timer interrupts are
  0x8b, // IA32_BIOS_SIGN_ID
  0xfe, // MTRRcap
  0x2ff, // MTRRdefType
  0xc0010010, // AMD SYSCFG
  0xc0010015, // AMD HWCR
  0xc0010055, // AMD interrupt pending
  0xc0011029, // AMD DE_CFG
]);

/** The value that RDMSR gives, or undefined for #GP. */
export function readMsr(index: number): bigint | undefined {
  return ZERO.has(index >>> 0) ? 0n : undefined;
}

/** Whether WRMSR of an MSR that the engine doesn't know is ignored rather than answered by #GP. */
export function ignoreMsrWrite(_index: number): boolean {
  return true;
}
