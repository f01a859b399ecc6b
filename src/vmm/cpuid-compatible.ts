/**
 * Whether a guest that has seen one processor may go on with another: the rules by which vmd once
 * received VMs. What a feature leaf showed must be there; families and models may differ.
 */
import type { CpuidLeaf } from "./cpuid.ts";

/** Feature leaves: in these registers, each bit that was seen must be there. */
const FEATURES: readonly [leaf: number, subleaf: number, registers: readonly Register[]][] = [
  [1, 0, ["ecx", "edx"]],
  [7, 0, ["ebx", "ecx", "edx"]],
  [0xd, 0, ["eax", "edx"]],
  [0xd, 1, ["eax"]],
  [0x80000001, 0, ["ecx", "edx"]],
  [0x40000001, 0, ["eax"]],
  // KVM's own: its clock.
  [0x40000101, 0, ["eax"]],
];
type Register = "eax" | "ebx" | "ecx" | "edx";
/** Of leaf 1's ECX: shows a state of the guest's, no feature. */
const OSXSAVE = 1 << 27;

/** Why the guest can't go on, in a sentence's second half; undefined: it can. */
export function missingFeature(
  seen: readonly CpuidLeaf[],
  have: readonly CpuidLeaf[],
): string | undefined {
  const find = (leaves: readonly CpuidLeaf[], leaf: number, subleaf: number) =>
    leaves.find((entry) => entry.leaf === leaf && entry.subleaf === subleaf);
  for (const first of [0, 0x80000000]) {
    const theirs = find(seen, first, 0)?.eax ?? 0;
    const ours = find(have, first, 0)?.eax ?? 0;
    if (theirs > ours) {
      return `the guest knows CPUID leaves up to 0x${theirs.toString(16)}, here they end at 0x${ours.toString(16)}`;
    }
  }
  const vendor = vendorOf(find(seen, 0, 0));
  const ours = vendorOf(find(have, 0, 0));
  if (vendor !== ours) return `the guest's processor is of ${vendor}, this one of ${ours}`;
  for (const [leaf, subleaf, registers] of FEATURES) {
    for (const register of registers) {
      const wanted = find(seen, leaf, subleaf)?.[register] ?? 0;
      const there = find(have, leaf, subleaf)?.[register] ?? 0;
      const lacking = wanted & ~there & (leaf === 1 && register === "ecx" ? ~OSXSAVE : -1);
      if (lacking !== 0) {
        const bits = (lacking >>> 0).toString(16);
        return `CPUID leaf 0x${leaf.toString(16)} lacks 0x${bits} in ${register.toUpperCase()}, which the guest has seen`;
      }
    }
  }
  for (const register of ["ebx", "ecx"] as const) {
    const wanted = find(seen, 0xd, 0)?.[register] ?? 0;
    const there = find(have, 0xd, 0)?.[register] ?? 0;
    if (wanted > there) return `the guest's XSAVE area has ${wanted} bytes, this one ${there}`;
  }
  return undefined;
}

function vendorOf(leaf: CpuidLeaf | undefined): string {
  if (leaf === undefined) return "nobody";
  const bytes = new DataView(new ArrayBuffer(12));
  bytes.setUint32(0, leaf.ebx, true);
  bytes.setUint32(4, leaf.edx, true);
  bytes.setUint32(8, leaf.ecx, true);
  return new TextDecoder("latin1").decode(bytes).replaceAll(/[^ -~]/g, "?");
}
