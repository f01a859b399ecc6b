/** What registers can hold, as arbitraries. */
import fc from "fast-check";
import { CR0, CR4, EFER, GENERAL_REGISTERS, resetState, type CpuState } from "../cpu.ts";
import { SEGMENTS } from "../cpu-codec.ts";

export const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

export function canonical(value: bigint): bigint {
  return BigInt.asUintN(64, BigInt.asIntN(48, value));
}

/** What an MSR may hold, of a random value. The TSC, and what hosts have their own mind of, not. */
export const VALID_MSR: Record<number, (value: bigint) => bigint> = {
  0x174: (value) => value & 0xffffn,
  // AMD keeps 32 bits of these two.
  0x175: (value) => value & 0x7fffffffn,
  0x176: (value) => value & 0x7fffffffn,
  0x277: (value) => (value & 0x0101010101010101n) * 6n,
  0xc0000081: (value) => value,
  0xc0000082: canonical,
  0xc0000083: canonical,
  0xc0000084: (value) => value & 0xffffffffn,
  0xc0000102: canonical,
};

/** States that a processor can be in, of real, protected and long mode. */
export const cpuStates: fc.Arbitrary<CpuState> = fc
  .record({
    mode: fc.constantFrom("real", "16", "32", "64"),
    general: fc.array(fc.maxSafeNat(), { minLength: 18, maxLength: 18 }),
    cpl: fc.constantFrom(0, 3),
    bases: fc.array(fc.integer({ min: 0, max: 0xffffffff }), { minLength: 8, maxLength: 8 }),
    limits: fc.array(fc.integer({ min: 0x100, max: 0xfffff }), { minLength: 8, maxLength: 8 }),
    large: fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
    selectors: fc.array(fc.integer({ min: 0, max: 0xffff }), { minLength: 8, maxLength: 8 }),
    tables: fc.array(fc.integer({ min: 0, max: 0xffff }), { minLength: 4, maxLength: 4 }),
    cr2: fc.integer({ min: 0, max: 0xffffffff }),
    cr3: fc.integer({ min: 0, max: 0xfffff }),
    cr4: fc.integer({ min: 0, max: 0xffff }),
    flags: fc.integer({ min: 0, max: 0xffffffff }),
  })
  .map((r) => {
    const state = resetState();
    const long = r.mode === "64";
    const real = r.mode === "real";
    GENERAL_REGISTERS.forEach((register, i) => {
      state[register] = long ? r.general[i] % 2 ** 47 : r.general[i] % 2 ** 32;
    });
    // CF PF AF ZF SF IF DF OF, IOPL, NT, AC, ID
    const flags = 0x200ed5 | (real ? 0 : 0x7000) | 0x40000;
    state.rflags = ((r.flags & flags) | 2) >>> 0;
    state.cr0 = CR0.ET | CR0.NE | (real ? 0 : CR0.PE) | (long ? CR0.PG | CR0.WP : 0);
    state.cr0 >>>= 0;
    state.cr2 = r.cr2;
    state.cr3 = r.cr3 * 4096;
    // TSD DE PSE PGE OSFXSR OSXMMEXCPT
    state.cr4 = (r.cr4 & 0x69c) | (long ? CR4.PAE : 0);
    state.efer = long ? EFER.SCE | EFER.LME | EFER.LMA | EFER.NX : 0;
    state.gdt = { base: r.bases[0], limit: r.tables[0] };
    state.idt = { base: r.bases[1], limit: r.tables[1] };
    SEGMENTS.forEach((name, i) => {
      const segment = { ...state[name] };
      segment.selector = r.selectors[i];
      segment.base = real && i < 6 ? segment.selector * 16 : r.bases[i];
      if (!real) {
        const large = r.large[i] && i < 6;
        segment.g = large ? 1 : 0;
        segment.limit = large ? r.limits[i] * 4096 + 4095 : r.limits[i];
        if (large && segment.limit <= 0xfffff) segment.limit = 0xffffffff;
        if (i < 6) {
          segment.dpl = name === "cs" || name === "ss" ? r.cpl : 3;
          segment.selector = (segment.selector & ~3) | segment.dpl;
          segment.db = r.mode === "32" || (long && name !== "cs") ? 1 : 0;
          if (name === "cs") segment.l = long ? 1 : 0;
        }
      }
      state[name] = segment;
    });
    return state;
  });
