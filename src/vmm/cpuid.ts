/**
 * CPUID policy: what a guest may know of its processor. It follows vmm(4)'s: nothing that needs an
 * APIC, nested virtualisation, power management or a performance monitor, and no feature whose
 * state the machine image wouldn't keep.
 *
 * Leaves and bits: Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E.
 */

/** One leaf: struct kvm_cpuid_entry2. */
export interface CpuidLeaf {
  leaf: number;
  subleaf: number;
  /** Bit 0: the subleaf matters. */
  flags: number;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

const bits = (...numbers: number[]): number =>
  numbers.reduce((mask, bit) => (mask | (1 << bit)) >>> 0, 0);

// Leaf 1, ECX: DTES64 2, MWAIT 3, DS-CPL 4, VMX 5, SMX 6, EST 7, TM2 8, CNXT-ID 10, SDBG 11,
// xTPR 14, PDCM 15, PCID 17, DCA 18, x2APIC 21, TSC deadline 24.
const HIDE_1_ECX = bits(2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 17, 18, 21, 24);
const HYPERVISOR = bits(31);
// Leaf 1, EDX: MCE 7, APIC 9, MTRR 12, MCA 14, PSN 18, DS 21, ACPI 22, SS 27, HTT 28, TM 29, PBE 31.
const HIDE_1_EDX = bits(7, 9, 12, 14, 18, 21, 22, 27, 28, 29, 31);
// Leaf 7.0, EBX: SGX 2, HLE 4, INVPCID 10, RTM 11, PQM 12, MPX 14, PQE 15,
// AVX-512 16 17 21 26 27 28 30 31, PCOMMIT 22, PT 25.
const HIDE_7_EBX = bits(2, 4, 10, 11, 12, 14, 15, 16, 17, 21, 22, 25, 26, 27, 28, 30, 31);
const KEEP_7_ECX = bits(2); // UMIP
// MD_CLEAR, and ARCH_CAPABILITIES: the MSR in which a processor says what it isn't vulnerable to.
const KEEP_7_EDX = bits(10, 29);
const XSAVE_BITS = 0b111; // x87, SSE, AVX
const LEGACY_XSAVE_SIZE = 576; // FXSAVE's area and XSAVE's header
// Leaf 0x80000001, ECX: SVM 2, extended APIC 3, IBS 10, SKINIT 12, WDT 13, LWP 15, topology 22,
// performance counters 23 24 28, MWAITX 29. EDX: MCE 7, APIC 9, MTRR 12, MCA 14, RDTSCP 27.
const HIDE_EXT_ECX = bits(2, 3, 10, 12, 13, 15, 22, 23, 24, 28, 29);
const HIDE_EXT_EDX = bits(7, 9, 12, 14, 27);
const INVARIANT_TSC = bits(8);
const MAX_BASIC = 0x16;
const MAX_EXTENDED = 0x80000008;
/** KVM_FEATURE_CLOCKSOURCE2 and KVM_FEATURE_CLOCKSOURCE_STABLE_BIT, NOP_IO_DELAY. */
const KVM_FEATURES = bits(1, 3, 24);

/** Leaves that a guest sees as zero. */
const ZERO = new Set([3, 5, 6, 9, 0xa, 0xb, 0xf, 0x12, 0x14]);

const KVM_LEAF = 0x40000000;

/** Applies the policy to what an engine supports. */
export function cpuidPolicy(supported: readonly CpuidLeaf[]): CpuidLeaf[] {
  const leaves: CpuidLeaf[] = [];
  const kvm = supported.find((entry) => entry.leaf === KVM_LEAF + 1);
  const xsaveSize = xsaveAreaSize(supported);
  for (const entry of supported) {
    if (entry.leaf >= KVM_LEAF && entry.leaf < 0x80000000) continue;
    const filtered = filterLeaf({ ...entry }, xsaveSize);
    if (filtered !== undefined) leaves.push(filtered);
  }
  const [b, c, d] = signature("OpenBSDVMM58");
  leaves.push({ leaf: KVM_LEAF, subleaf: 0, flags: 0, eax: KVM_LEAF + 1, ebx: b, ecx: c, edx: d });
  if (kvm !== undefined) {
    // Linux looks for signatures at steps of 0x100; so a guest finds KVM's clock as well.
    const at = KVM_LEAF + 0x100;
    const [ebx, ecx, edx] = signature("KVMKVMKVM\0\0\0");
    leaves.push({ leaf: at, subleaf: 0, flags: 0, eax: at + 1, ebx, ecx, edx });
    leaves.push({
      ...kvm,
      leaf: at + 1,
      eax: (kvm.eax & KVM_FEATURES) >>> 0,
      ebx: 0,
      ecx: 0,
      edx: 0,
    });
  }
  return leaves;
}

function filterLeaf(e: CpuidLeaf, xsaveSize: number): CpuidLeaf | undefined {
  if (ZERO.has(e.leaf)) return { ...e, eax: 0, ebx: 0, ecx: 0, edx: 0 };
  switch (e.leaf) {
    case 0:
      e.eax = Math.min(e.eax, MAX_BASIC);
      return e;
    case 1:
      e.ebx = (e.ebx & 0x0000ffff) >>> 0; // APIC id 0, one logical processor
      e.ecx = ((e.ecx & ~HIDE_1_ECX) | HYPERVISOR) >>> 0;
      e.edx = (e.edx & ~HIDE_1_EDX) >>> 0;
      return e;
    case 4:
      // One core, one thread to a cache.
      e.eax = (e.eax & 0x00003fff) >>> 0;
      return e;
    case 7:
      if (e.subleaf > 0) return undefined;
      e.eax = 0;
      e.ebx = (e.ebx & ~HIDE_7_EBX) >>> 0;
      e.ecx = (e.ecx & KEEP_7_ECX) >>> 0;
      e.edx = (e.edx & KEEP_7_EDX) >>> 0;
      return e;
    case 0xd:
      if (xsaveSize === 0 || e.subleaf > 2) return undefined;
      if (e.subleaf === 0) return { ...e, eax: (e.eax & XSAVE_BITS) >>> 0, ecx: xsaveSize, edx: 0 };
      // XSAVEOPT; no XSAVEC, XSAVES
      if (e.subleaf === 1) return { ...e, eax: (e.eax & 1) >>> 0, ebx: 0, ecx: 0, edx: 0 };
      return e;
    case 0x80000000:
      e.eax = Math.min(e.eax, MAX_EXTENDED);
      return e;
    case 0x80000001:
      e.ecx = (e.ecx & ~HIDE_EXT_ECX) >>> 0;
      e.edx = (e.edx & ~HIDE_EXT_EDX) >>> 0;
      return e;
    case 0x80000007:
      return { ...e, eax: 0, ebx: 0, ecx: 0, edx: (e.edx & INVARIANT_TSC) >>> 0 };
    case 0x80000008:
      return { ...e, ebx: 0, ecx: 0, edx: 0 };
    default:
      if (e.leaf > MAX_EXTENDED) return undefined;
      if (e.leaf > MAX_BASIC && e.leaf < 0x80000000) return undefined;
      return e;
  }
}

// Bytes of XSAVE's area with the state that a guest may enable; 0 without XSAVE.
function xsaveAreaSize(supported: readonly CpuidLeaf[]): number {
  if (!supported.some((e) => e.leaf === 1 && (e.ecx & bits(26)) !== 0)) return 0;
  const avx = supported.find((e) => e.leaf === 0xd && e.subleaf === 2);
  return avx === undefined ? LEGACY_XSAVE_SIZE : avx.eax + avx.ebx;
}

function signature(text: string): [number, number, number] {
  const view = new DataView(new TextEncoder().encode(text).buffer);
  return [view.getUint32(0, true), view.getUint32(4, true), view.getUint32(8, true)];
}

/** struct kvm_cpuid_entry2[count]. */
export function decodeCpuid(buffer: ArrayBuffer, count: number): CpuidLeaf[] {
  const words = new Uint32Array(buffer);
  return Array.from({ length: count }, (_, index) => {
    const [leaf, subleaf, flags, eax, ebx, ecx, edx] = words.subarray(index * 10, index * 10 + 7);
    return { leaf, subleaf, flags, eax, ebx, ecx, edx };
  });
}

export function encodeCpuid(leaves: readonly CpuidLeaf[]): ArrayBuffer {
  const words = new Uint32Array(leaves.length * 10);
  leaves.forEach(({ leaf, subleaf, flags, eax, ebx, ecx, edx }, index) => {
    words.set([leaf, subleaf, flags, eax, ebx, ecx, edx], index * 10);
  });
  return words.buffer;
}
