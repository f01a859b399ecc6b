import { expect, test } from "bun:test";
import { BootError } from "./bytes.ts";
import { classicMemoryMap, classicRam, packE820 } from "./e820.ts";

const KIB = 2 ** 10;
const MIB = 2 ** 20;
const GIB = 2 ** 30;
const firmware = { base: 0xffc00000, size: 4 * MIB, type: 2 };

test("512 MiB: low RAM, the reserved range, the rest", () => {
  expect(classicMemoryMap(512 * MIB)).toEqual([
    { base: 0, size: 636 * KIB, type: 1 },
    { base: 636 * KIB, size: 388 * KIB, type: 2 },
    { base: MIB, size: 511 * MIB, type: 1 },
    firmware,
  ]);
  expect(classicRam(512 * MIB)).toEqual([
    { base: 0, size: 640 * KIB },
    { base: 768 * KIB, size: 512 * MIB - 768 * KIB },
  ]);
});

test("RAM that doesn't fit below the hole continues at 4 GiB", () => {
  expect(classicMemoryMap(8 * GIB).slice(2)).toEqual([
    { base: MIB, size: 0xf0000000 - MIB, type: 1 },
    firmware,
    { base: 4 * GIB, size: 8 * GIB - 0xf0000000, type: 1 },
  ]);
  expect(classicRam(8 * GIB)).toEqual([
    { base: 0, size: 640 * KIB },
    { base: 768 * KIB, size: 0xf0000000 - 768 * KIB },
    { base: 4 * GIB, size: 8 * GIB - 0xf0000000 },
  ]);
  expect(classicRam(0xf0000000)).toHaveLength(2);
  expect(classicMemoryMap(0xf0000000)).toHaveLength(4);
});

test("the limits of a machine's memory", () => {
  expect(classicMemoryMap(MIB)).toHaveLength(3);
  expect(classicMemoryMap(128 * GIB)).toHaveLength(5);
  for (const memory of [0, MIB - 4096, 128 * GIB + 4096, MIB + 1, Number.NaN]) {
    expect(() => classicMemoryMap(memory)).toThrow(BootError);
  }
});

test("packed entries are 20 bytes, little-endian", () => {
  const bytes = packE820([{ base: 2 ** 32 + 1, size: 2, type: 3 }]);
  expect([...bytes]).toEqual([1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
});
