/**
 * A processor that every engine has, on every host whose own isn't older than it: a guest that has seen
 * no other can go on with any engine. It is the software engine's, an Intel one of 2008 with a few
 * features more, but for what only that engine can promise: that it has no Meltdown.
 *
 * Leaves and bits: Intel SDM vol. 2A, CPUID.
 */
import type { CpuidLeaf } from "./cpuid.ts";
import { missingFeature } from "./cpuid-compatible.ts";

const NAME = "vmd portable CPU";
const MAX_BASIC = 0x16;
const MAX_EXTENDED = 0x80000008;
const SUBLEAF_MATTERS = 1;
/** Family 6, model 26, stepping 5. */
const SIGNATURE = 0x106a5;
/** CLFLUSH's line: 8 quadwords. */
const LINE = 0x800;
/** 40 bits of physical, 48 of linear addresses. */
const ADDRESSES = 0x3028;
const BUS_MHZ = 100;

const bits = (...numbers: number[]): number =>
  numbers.reduce((mask, bit) => (mask | (1 << bit)) >>> 0, 0);

// SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES, a hypervisor
const FEATURES_ECX = bits(0, 1, 9, 13, 19, 20, 22, 23, 25, 31);
// FPU DE PSE TSC MSR PAE CX8 SEP PGE CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2
const FEATURES_EDX = bits(0, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26);
// TSC_ADJUST SMEP SMAP
const FEATURES_7_EBX = bits(1, 7, 20);
// LAHF LZCNT
const FEATURES_EXTENDED_ECX = bits(0, 5);
// SYSCALL NX LM
const FEATURES_EXTENDED_EDX = bits(11, 20, 29);
/**
 * Shown wherever the guest is, also where KVM doesn't say it of its host: a guest that compares its TSC
 * with timer interrupts finds those of a busy software engine late, gives up the TSC, and loses time.
 */
const INVARIANT_TSC = bits(8);

const VENDOR = words("GenuineIntel");

/**
 * @param possible what an engine can show
 * @param tscKhz how fast the TSC counts
 * @returns what the guest sees, or what the engine lacks for it, in a sentence's second half
 */
export function portableCpuid(
  possible: readonly CpuidLeaf[],
  tscKhz: number,
): CpuidLeaf[] | string {
  const leaves = model(tscKhz);
  const find = (leaf: number) => possible.find((entry) => entry.leaf === leaf);
  // Any engine can show any vendor, and as many leaves as are wanted: only features are its own.
  const [first, extended] = [0, 0x80000000].map(find);
  const features = leaves.map((entry): CpuidLeaf => {
    if (entry.leaf === 0) return { ...(first ?? entry), eax: 0 };
    return entry.leaf === 0x80000000 ? { ...(extended ?? entry), eax: 0 } : entry;
  });
  const why = missingFeature(features, possible);
  if (why !== undefined) return `no portable processor: ${why.replace(/, which .*/, "")}`;
  return [...leaves, ...possible.filter(({ leaf }) => leaf === 0x40000000)];
}

function model(tscKhz: number): CpuidLeaf[] {
  const [b, d, c] = VENDOR;
  const name = words(NAME.padEnd(48, "\0"));
  const mhz = Math.round(tscKhz / 1000);
  // The crystal is as fast as the TSC, or half so fast: what is exact.
  const ratio = tscKhz * 1000 > 0xffffffff ? 2 : 1;
  return [
    plain(0, { eax: MAX_BASIC, ebx: b, ecx: c, edx: d }),
    plain(1, { eax: SIGNATURE, ebx: LINE, ecx: FEATURES_ECX, edx: FEATURES_EDX }),
    plain(2, { eax: 1 }),
    plain(3),
    plain(4, { flags: SUBLEAF_MATTERS }),
    plain(5),
    plain(6),
    plain(7, { flags: SUBLEAF_MATTERS, ebx: FEATURES_7_EBX }),
    plain(0x15, { eax: 1, ebx: ratio, ecx: Math.floor((tscKhz * 1000) / ratio) }),
    plain(MAX_BASIC, { eax: mhz, ebx: mhz, ecx: BUS_MHZ }),
    plain(0x80000000, { eax: MAX_EXTENDED }),
    plain(0x80000001, { ecx: FEATURES_EXTENDED_ECX, edx: FEATURES_EXTENDED_EDX }),
    ...[2, 3, 4].map((number, index) => {
      const [eax, ebx, ecx, edx] = name.slice(index * 4, index * 4 + 4);
      return plain(0x80000000 + number, { eax, ebx, ecx, edx });
    }),
    plain(0x80000005),
    plain(0x80000006),
    plain(0x80000007, { edx: INVARIANT_TSC }),
    plain(MAX_EXTENDED, { eax: ADDRESSES }),
  ];
}

function plain(leaf: number, registers: Partial<CpuidLeaf> = {}): CpuidLeaf {
  return { leaf, subleaf: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers };
}

/** Text, in 32-bit words. */
function words(text: string): number[] {
  const view = new DataView(new TextEncoder().encode(text).buffer);
  return Array.from({ length: text.length / 4 }, (_, index) => view.getUint32(index * 4, true));
}
