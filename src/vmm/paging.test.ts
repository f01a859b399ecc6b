import { expect, test } from "bun:test";
import { CR0, CR4, EFER } from "./cpu.ts";
import { translate } from "./paging.ts";

/** Tables by physical address, entry by entry. */
function tables(entries: Record<number, bigint>) {
  return (address: number) => entries[address];
}

const legacy = { cr0: CR0.PG | CR0.PE, cr3: 0x1000n, cr4: 0, efer: 0 };
const pae = { ...legacy, cr3: 0x1020n, cr4: CR4.PAE };
const long = { ...legacy, cr3: 0x1000n, cr4: CR4.PAE, efer: EFER.LMA | EFER.LME };

test("without paging, 32 bits of the address", () => {
  expect(translate({ ...legacy, cr0: CR0.PE }, 0x1_2345_6789n, tables({}))).toBe(0x2345_6789);
});

test("32-bit paging: 4 KiB and 4 MiB, above 4 GiB too", () => {
  const read = tables({
    [0x1000 + 0x300 * 4]: 0x2007n,
    [0x2000 + 0x12 * 4]: 0x45_6063n,
    [0x1004]: 0x0040_2087n | 0x80n,
  });
  expect(translate(legacy, 0xc001_2abcn, read)).toBe(0x45_6abc);
  expect(translate({ ...legacy, cr4: CR4.PSE }, 0x0041_2345n, read)).toBe(0x1_0041_2345);
  expect(translate(legacy, 0x0080_0000n, read)).toBeUndefined();
});

test("PAE: a pointer table of four, 4 KiB and 2 MiB", () => {
  const read = tables({
    [0x1020 + 3 * 8]: 0x3001n,
    [0x3000]: 0x4003n,
    [0x4000 + 5 * 8]: 0x8000_0001_2345_6003n,
    [0x3008]: 0x12_0000_0083n | 0x60_0000n,
  });
  expect(translate(pae, 0xc000_5123n, read)).toBe(0x1_2345_6123);
  expect(translate(pae, 0xc020_0123n, read)).toBe(0x12_0060_0123);
  expect(translate(pae, 0x1000n, read)).toBeUndefined();
});

test("four levels: 4 KiB, 2 MiB, 1 GiB", () => {
  const read = tables({
    [0x1000 + 511 * 8]: 0x2003n,
    [0x2000 + 510 * 8]: 0x3003n,
    [0x2000 + 511 * 8]: 0x4000_0083n,
    [0x3000 + 8 * 8]: 0x0120_00e3n,
    [0x3000 + 9 * 8]: 0x4003n,
    [0x4000 + 8]: 0x777_7003n,
  });
  expect(translate(long, 0xffff_ffff_8100_1234n, read)).toBe(0x0120_1234);
  expect(translate(long, 0xffff_ffff_8120_1008n, read)).toBe(0x777_7008);
  expect(translate(long, 0xffff_ffff_c123_4567n, read)).toBe(0x4123_4567);
  expect(translate(long, 0xffff_ffff_8120_0000n, read)).toBeUndefined();
});

test("an address that isn't canonical is mapped nowhere", () => {
  expect(translate(long, 0x8000_0000_0000n, () => 0x1003n)).toBeUndefined();
});

test("tables where no memory is", () => {
  expect(translate(long, 0n, tables({}))).toBeUndefined();
});
