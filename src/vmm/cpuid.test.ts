import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type CpuidLeaf, cpuidPolicy, decodeCpuid, encodeCpuid } from "./cpuid.ts";

type Register = "eax" | "ebx" | "ecx" | "edx";

const ONES = 0xffffffff;
const leaf = (number: number, subleaf = 0, value = ONES): CpuidLeaf => ({
  leaf: number,
  subleaf,
  flags: 1,
  eax: value,
  ebx: value,
  ecx: value,
  edx: value,
});

/** What the policy makes of a leaf of all ones. */
function allowed(number: number, subleaf = 0): CpuidLeaf | undefined {
  const xsave = { ...leaf(1), flags: 0 };
  return cpuidPolicy([xsave, leaf(number, subleaf)]).findLast(
    (entry) => entry.leaf === number && entry.subleaf === subleaf,
  );
}

/** Bits that must not be seen, leaf by leaf. */
const HIDDEN: [string, number, Register, Record<string, number>][] = [
  [
    "1 ECX",
    1,
    "ecx",
    {
      DTES64: 2,
      MWAIT: 3,
      "DS-CPL": 4,
      VMX: 5,
      SMX: 6,
      EST: 7,
      TM2: 8,
      "CNXT-ID": 10,
      SDBG: 11,
      xTPR: 14,
      PDCM: 15,
      PCID: 17,
      DCA: 18,
      x2APIC: 21,
      "TSC deadline": 24,
    },
  ],
  [
    "1 EDX",
    1,
    "edx",
    {
      MCE: 7,
      APIC: 9,
      MTRR: 12,
      MCA: 14,
      PSN: 18,
      DS: 21,
      ACPI: 22,
      SS: 27,
      HTT: 28,
      TM: 29,
      PBE: 31,
    },
  ],
  [
    "7 EBX",
    7,
    "ebx",
    {
      SGX: 2,
      HLE: 4,
      INVPCID: 10,
      RTM: 11,
      PQM: 12,
      MPX: 14,
      "AVX-512F": 16,
      "AVX-512DQ": 17,
      "AVX-512IFMA": 21,
      PCOMMIT: 22,
      PT: 25,
      "AVX-512PF": 26,
      "AVX-512ER": 27,
      "AVX-512CD": 28,
      "AVX-512BW": 30,
      "AVX-512VL": 31,
    },
  ],
  ["80000001 ECX", 0x80000001, "ecx", { SVM: 2, MWAITX: 29 }],
  ["80000001 EDX", 0x80000001, "edx", { APIC: 9, RDTSCP: 27 }],
];

/** Bits that are left as the engine has them. */
const KEPT: [string, number, Register, Record<string, number>][] = [
  [
    "1 ECX",
    1,
    "ecx",
    { SSE3: 0, SSSE3: 9, CX16: 13, "SSE4.1": 19, "SSE4.2": 20, POPCNT: 23, AES: 25, AVX: 28 },
  ],
  [
    "1 EDX",
    1,
    "edx",
    { FPU: 0, PSE: 3, TSC: 4, MSR: 5, PAE: 6, CX8: 8, SEP: 11, PGE: 13, CMOV: 15, FXSR: 24 },
  ],
  ["7 EBX", 7, "ebx", { FSGSBASE: 0, BMI1: 3, AVX2: 5, SMEP: 7, BMI2: 8, ERMS: 9, SMAP: 20 }],
  ["7 ECX", 7, "ecx", { UMIP: 2 }],
  ["7 EDX", 7, "edx", { MD_CLEAR: 10, ARCH_CAPABILITIES: 29 }],
  ["80000001 EDX", 0x80000001, "edx", { SYSCALL: 11, NX: 20, LM: 29 }],
  ["80000007 EDX", 0x80000007, "edx", { "invariant TSC": 8 }],
];

for (const [name, number, register, bits] of HIDDEN) {
  test.each(Object.entries(bits))(`${name} hides %s`, (_, bit) => {
    expect(((allowed(number) as CpuidLeaf)[register] >>> bit) & 1).toBe(0);
  });
}

for (const [name, number, register, bits] of KEPT) {
  test.each(Object.entries(bits))(`${name} keeps %s`, (_, bit) => {
    expect(((allowed(number) as CpuidLeaf)[register] >>> bit) & 1).toBe(1);
  });
}

describe("whole registers", () => {
  test("7 ECX and EDX, 80000007 and 80000008 have nothing else", () => {
    expect(allowed(7)?.eax).toBe(0);
    expect(allowed(7)?.ecx).toBe(1 << 2);
    expect(allowed(7)?.edx).toBe((1 << 10) | (1 << 29));
    expect(allowed(0x80000007)).toMatchObject({ eax: 0, ebx: 0, ecx: 0, edx: 1 << 8 });
    expect(allowed(0x80000008)).toMatchObject({ eax: ONES, ebx: 0, ecx: 0, edx: 0 });
  });

  test.each([3, 5, 6, 9, 0xa, 0xb, 0xf, 0x12, 0x14])("leaf 0x%x is zero", (number) => {
    expect(allowed(number)).toMatchObject({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
  });

  test("the hypervisor bit is set, whatever the engine says", () => {
    const [one] = cpuidPolicy([leaf(1, 0, 0)]);
    expect(one.ecx).toBe(0x80000000);
  });

  test("the APIC's id and the number of processors are 0", () => {
    expect((allowed(1) as CpuidLeaf).ebx >>> 16).toBe(0);
    expect((allowed(4) as CpuidLeaf).eax >>> 14).toBe(0);
  });

  test("the highest leaves are bounded, and none beyond them is there", () => {
    expect(allowed(0)?.eax).toBe(0x16);
    expect(allowed(0x80000000)?.eax).toBe(0x80000008);
    for (const number of [0x17, 0x24, 0x80000009, 0x8000001f, 0xc0000001]) {
      expect(allowed(number)).toBeUndefined();
    }
    const [low] = cpuidPolicy([{ ...leaf(0), eax: 7 }]);
    expect(low.eax).toBe(7);
  });

  test("XSAVE: x87, SSE and AVX, no XSAVEC or XSAVES, nothing without XSAVE", () => {
    expect(allowed(0xd)).toMatchObject({ eax: 7, edx: 0 });
    expect(allowed(0xd, 1)).toMatchObject({ eax: 1, ebx: 0, ecx: 0, edx: 0 });
    expect(allowed(0xd, 2)).toBeDefined();
    expect(allowed(0xd, 5)).toBeUndefined();
    const without = cpuidPolicy([leaf(1, 0, 0), leaf(0xd)]);
    expect(without.some((entry) => entry.leaf === 0xd)).toBe(false);
  });

  test("subleaves of 7 beyond the first are gone", () => {
    expect(allowed(7, 1)).toBeUndefined();
  });
});

describe("hypervisor leaves", () => {
  const text = ({ ebx, ecx, edx }: CpuidLeaf) =>
    Buffer.from(Uint32Array.of(ebx, ecx, edx).buffer).toString("latin1");
  const find = (leaves: CpuidLeaf[], number: number) =>
    leaves.find((entry) => entry.leaf === number);

  test("vmd's signature, whatever the engine's was", () => {
    const leaves = cpuidPolicy([leaf(0x40000000)]);
    expect(text(find(leaves, 0x40000000) as CpuidLeaf)).toBe("OpenBSDVMM58");
    expect(leaves.filter((entry) => entry.leaf === 0x40000000).length).toBe(1);
  });

  test("KVM's, with its clock only, behind it on KVM", () => {
    const leaves = cpuidPolicy([leaf(0x40000000), leaf(0x40000001)]);
    expect(text(find(leaves, 0x40000100) as CpuidLeaf)).toBe("KVMKVMKVM\0\0\0");
    expect(find(leaves, 0x40000101)).toMatchObject({ eax: 0x0100000a, ebx: 0, ecx: 0, edx: 0 });
    expect(find(cpuidPolicy([leaf(1)]), 0x40000100)).toBeUndefined();
  });
});

test("the policy leaves its input as it is", () => {
  const input = [leaf(0), leaf(1), leaf(7), leaf(0xd), leaf(0x80000001)];
  const before = structuredClone(input);
  cpuidPolicy(input);
  expect(input).toEqual(before);
});

test("no bit is set that the engine hasn't, but for the hypervisor's", () => {
  const word = fc.integer({ min: 0, max: ONES });
  const entry = fc.record({
    leaf: fc.constantFrom(0, 1, 2, 4, 7, 0xd, 0x15, 0x16, 0x80000000, 0x80000001, 0x80000006),
    subleaf: fc.constant(0),
    flags: fc.constant(0),
    eax: word,
    ebx: word,
    ecx: word,
    edx: word,
  });
  fc.assert(
    fc.property(entry, (given) => {
      const got = cpuidPolicy([given]).find((other) => other.leaf === given.leaf);
      if (got === undefined) return;
      const hypervisor = given.leaf === 1 ? 0x80000000 : 0;
      expect(got.ecx & ~given.ecx & ~hypervisor).toBe(0);
      expect(got.edx & ~given.edx).toBe(0);
      // 0xd: EBX and ECX are sizes. Highest leaves are numbers, too.
      if (![0, 0xd, 0x80000000].includes(given.leaf)) {
        expect([got.eax & ~given.eax, got.ebx & ~given.ebx]).toEqual([0, 0]);
      }
    }),
    { seed: 1, numRuns: 500 },
  );
});

test("entries survive their binary form", () => {
  const leaves = [leaf(1), leaf(0xd, 2, 0x12345678), { ...leaf(7), flags: 0 }];
  expect(decodeCpuid(encodeCpuid(leaves), 3)).toEqual(leaves);
  expect(encodeCpuid(leaves).byteLength).toBe(120);
});
