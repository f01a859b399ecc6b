/**
 * Whether a struct vmm_cpu is a state that a processor can be in, as far as an engine would not
 * notice: Intel SDM vol. 3A, 2.4, 2.5, 3.4.5; vol. 3C, 27.3.1 (checks on guest state).
 */
import { CR0 } from "./cpu.ts";
import { CPU_LAYOUT, decodeCpu, SEGMENTS } from "./cpu-codec.ts";

const MSRS_MAX = 32;
const XSAVE_MAX = 4096;
const XSAVE_MIN = 576;
const SEGMENT_SIZE = 24;

// RFLAGS: bit 1 is set; 3, 5, 15 and those from 22 on are reserved.
const RFLAGS_ONE = 2n;
const RFLAGS_RESERVED = ~0x3f7fd7n & (2n ** 64n - 1n);
const RFLAGS_VM = 1n << 17n;
const EFER = { SCE: 1n, LME: 1n << 8n, LMA: 1n << 10n, NXE: 1n << 11n } as const;
/** SVME, LMSLE, FFXSR, TCE too: KVM shows them where the host has them. */
const EFER_KNOWN = EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE | (0xfn << 12n);
const CR4_PAE = 1n << 5n;
const CR0_PG = 1n << 31n;
const CR0_KNOWN = 0xe005003fn;
const CR4_KNOWN = 0x3ff7fffn;

/** What is wrong with it; undefined: nothing. @param view of a whole struct vmm_cpu */
export function checkCpu(view: DataView): string | undefined {
  const get = (offset: number) => view.getBigUint64(offset, true);
  const sregs = CPU_LAYOUT.sregs;
  const rip = get(16 * 8);
  const rflags = get(17 * 8);
  const cr0 = get(sregs + 224);
  const cr3 = get(sregs + 240);
  const cr4 = get(sregs + 248);
  const efer = get(sregs + 264);
  const pe = (cr0 & BigInt(CR0.PE)) !== 0n;
  const pg = (cr0 & CR0_PG) !== 0n;
  const long = (efer & EFER.LMA) !== 0n;
  if (view.getUint32(CPU_LAYOUT.msrCount, true) > MSRS_MAX) return "it has too many MSRs";
  const xsave = view.getUint32(CPU_LAYOUT.xsaveSize, true);
  if (xsave !== 0 && (xsave < XSAVE_MIN || xsave > XSAVE_MAX)) return "its XSAVE area has no size";
  if ((rflags & RFLAGS_ONE) === 0n || (rflags & RFLAGS_RESERVED) !== 0n) {
    return `RFLAGS is 0x${rflags.toString(16)}`;
  }
  if ((cr0 & ~CR0_KNOWN) !== 0n || (pg && !pe)) return `CR0 is 0x${cr0.toString(16)}`;
  if (cr3 >= 2n ** 52n) return `CR3 is 0x${cr3.toString(16)}`;
  if ((cr4 & ~CR4_KNOWN) !== 0n) return `CR4 is 0x${cr4.toString(16)}`;
  if ((efer & ~EFER_KNOWN) !== 0n || long !== ((efer & EFER.LME) !== 0n && pg)) {
    return `EFER is 0x${efer.toString(16)}`;
  }
  if (long && (cr4 & CR4_PAE) === 0n) return "long mode without PAE";
  if (get(sregs + 256) > 15n) return "CR8 is too large";
  return (
    checkSegments(view, { pe, long, vm86: (rflags & RFLAGS_VM) !== 0n }) ??
    checkRip(view, rip, long) ??
    checkEvents(view)
  );
}

interface Mode {
  pe: boolean;
  long: boolean;
  vm86: boolean;
}

function checkSegments(view: DataView, { pe, long, vm86 }: Mode): string | undefined {
  const state = decodeCpu(view);
  for (const [index, name] of SEGMENTS.entries()) {
    const at = CPU_LAYOUT.sregs + index * SEGMENT_SIZE;
    const { type, present, dpl, db, s, l, g, avl, unusable } = state[name];
    const bits = [present, db, s, l, g, avl, unusable];
    if (type > 15 || dpl > 3 || bits.some((bit) => bit > 1))
      return `${name} has impossible attributes`;
    if (!isCanonical(view.getBigUint64(at, true))) return `${name} has an impossible base`;
    if (unusable === 1) continue;
    const system = name === "tr" || name === "ldt";
    if (pe && !vm86 && present === 1 && s !== (system ? 0 : 1)) return `${name} is of another kind`;
  }
  const { cs } = state;
  if (pe && !vm86 && cs.unusable === 0 && (cs.type & 8) === 0 && cs.present === 1) {
    // A data segment in CS happens while real mode is left: then it is a writable one.
    if ((cs.type & 2) === 0) return "cs is no code";
  }
  if (long && cs.l === 1 && cs.db === 1) return "cs is of two widths";
  const tables = [192, 208].map((offset) => view.getBigUint64(CPU_LAYOUT.sregs + offset, true));
  return tables.every(isCanonical) ? undefined : "a descriptor table has an impossible base";
}

function checkRip(view: DataView, rip: bigint, long: boolean): string | undefined {
  const wide = long && decodeCpu(view).cs.l === 1;
  const possible = wide ? isCanonical(rip) : rip < 2n ** 32n;
  return possible ? undefined : `RIP is 0x${rip.toString(16)}`;
}

/** struct kvm_vcpu_events. */
function checkEvents(view: DataView): string | undefined {
  const at = CPU_LAYOUT.events;
  const exception = view.getUint8(at + 1);
  return exception > 31 ? `exception ${exception} is pending` : undefined;
}

/** Bits 63 to 47 are equal. */
function isCanonical(address: bigint): boolean {
  const high = address >> 47n;
  return high === 0n || high === 0x1ffffn;
}
