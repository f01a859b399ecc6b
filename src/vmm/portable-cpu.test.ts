import { describe, expect, test } from "bun:test";
import { type CpuidLeaf, cpuidPolicy } from "./cpuid.ts";
import { missingFeature } from "./cpuid-compatible.ts";
import { Engine, EngineError, probe } from "./engine.ts";
import { MachineImage } from "./image.ts";
import { portableCpuid } from "./portable-cpu.ts";

const KHZ = 2_596_123;
const ONES = 0xffffffff;
const leaf = (number: number, registers: Partial<CpuidLeaf> = {}): CpuidLeaf => {
  return { leaf: number, subleaf: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers };
};
/** By leaf 0x15: the crystal's Hz, and the TSC's ratio to it. */
const tscOfCpuid = (seen: readonly CpuidLeaf[]) => {
  const { eax, ebx, ecx } = seen.find((entry) => entry.leaf === 0x15) as CpuidLeaf;
  return (ecx * ebx) / eax / 1000;
};
const all = { eax: ONES, ebx: ONES, ecx: ONES, edx: ONES };
/** An AMD processor that ends at leaf 0xd, with every feature. */
const amd = [
  leaf(0, { eax: 0xd, ebx: 0x68747541, ecx: 0x444d4163, edx: 0x69746e65 }),
  leaf(1, all),
  leaf(7, all),
  leaf(0x80000000, { eax: 0x80000008 }),
  leaf(0x80000001, all),
  leaf(0x40000000),
];
const without = (number: number, register: "ebx" | "ecx" | "edx", bit: number) =>
  amd.map((entry) =>
    entry.leaf === number ? { ...entry, [register]: (ONES & ~(1 << bit)) >>> 0 } : entry,
  );
const open = (processor: Parameters<typeof Engine.open>[3]) => {
  const image = new MachineImage([{ base: 0, size: 4096, readonly: false }]);
  try {
    return Engine.open("unicorn", image, {}, processor);
  } catch (error) {
    image[Symbol.dispose]();
    throw error;
  }
};

describe("a portable processor", () => {
  test("is the same whatever the host's is, and has a TSC that the guest can read of", () => {
    const seen = portableCpuid(cpuidPolicy(amd), KHZ) as CpuidLeaf[];
    const intel = amd.map((entry) => ({ ...entry }));
    Object.assign(intel[0], { eax: 0x1f, ebx: 0x756e6547, ecx: 0x6c65746e, edx: 0x49656e69 });
    expect(portableCpuid(cpuidPolicy(intel), KHZ)).toEqual(seen);
    expect(missingFeature(seen, portableCpuid(cpuidPolicy(intel), KHZ) as CpuidLeaf[])).toBe(
      undefined,
    );
    expect(tscOfCpuid(seen)).toBe(KHZ);
    expect(tscOfCpuid(portableCpuid(cpuidPolicy(amd), 5_000_001) as CpuidLeaf[])).toBe(5_000_001);
  });

  test("promises no immunity, and no clock of KVM's", () => {
    const kvm = [...amd, leaf(0x40000001, all)];
    const seen = portableCpuid(cpuidPolicy(kvm), KHZ) as CpuidLeaf[];
    expect(seen.find((entry) => entry.leaf === 7)?.edx).toBe(0);
    // The guest trusts its TSC, whatever the host's is.
    expect(seen.find((entry) => entry.leaf === 0x80000007)?.edx).toBe(1 << 8);
    expect(seen.some((entry) => entry.leaf > 0x40000000 && entry.leaf < 0x80000000)).toBe(false);
    // XSAVE, AVX, RDRAND
    expect((seen.find((entry) => entry.leaf === 1)?.ecx ?? 0) & 0x7c000000).toBe(0);
  });

  test.each([
    [1, "ecx", 23, "CPUID leaf 0x1 lacks 0x800000 in ECX"],
    [7, "ebx", 20, "CPUID leaf 0x7 lacks 0x100000 in EBX"],
    [0x80000001, "edx", 20, "CPUID leaf 0x80000001 lacks 0x100000 in EDX"],
  ] as const)("can't be had where leaf 0x%x lacks a bit of %s", (number, register, bit, what) => {
    const possible = without(number, register, bit);
    expect(portableCpuid(possible, KHZ)).toBe(`no portable processor: ${what}`);
  });
});

test("a guest that knows KVM's clock can't do without it", () => {
  const guest = cpuidPolicy([...amd, leaf(0x40000001, all)]);
  expect(missingFeature(guest, cpuidPolicy(amd))).toBe(
    "CPUID leaf 0x40000101 lacks 0x100000a in EAX, which the guest has seen",
  );
});

const unicorn = probe("unicorn");
describe.skipIf(!unicorn.available)("on unicorn", () => {
  test("a portable processor is what any other one would show", () => {
    using engine = open({ portable: true });
    expect(engine.tscKhz).toBe(1_000_000);
    const same = portableCpuid(cpuidPolicy(amd), 1_000_000) as CpuidLeaf[];
    const its = (leaves: readonly CpuidLeaf[]) =>
      leaves.filter((entry) => entry.leaf !== 0x40000000);
    expect(its(engine.cpuid)).toEqual(its(same));
  });

  test("the TSC counts as fast as it is told, for a guest that goes on as well", () => {
    for (const processor of [
      { portable: true, tscKhz: KHZ },
      { portable: true, tscKhz: KHZ, cpuid: portableCpuid(cpuidPolicy(amd), KHZ) as CpuidLeaf[] },
    ]) {
      using engine = open(processor);
      expect(engine.tscKhz).toBe(KHZ);
      expect(tscOfCpuid(engine.cpuid)).toBe(KHZ);
      const tsc = () => {
        const before = engine.now();
        const view = new DataView(engine.cpuBytes().slice().buffer);
        return { before, after: engine.now(), value: view.getBigUint64(1080 + 8, true) };
      };
      const [a, b] = [tsc(), (Bun.sleepSync(20), tsc())];
      const counted = Number(b.value - a.value) * (1e6 / KHZ);
      expect(counted).toBeGreaterThanOrEqual(b.before - a.after - 1000);
      expect(counted).toBeLessThanOrEqual(b.after - a.before + 1000);
    }
  });

  test("what the guest has seen of another processor is missed here", () => {
    expect(() => open({ cpuid: cpuidPolicy(amd) })).toThrow(EngineError);
  });
});
