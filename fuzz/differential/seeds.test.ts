import { describe, expect, test } from "bun:test";
import { ENGINES, probe } from "../../src/vmm/engine.ts";
import { ExitReason } from "../../src/vmm/exit.ts";
import type { ExitRecord } from "../../src/vmm/trace.ts";
import { seedOf } from "./seeds.ts";
import { Target } from "./target.ts";

const exit = (record: Partial<ExitRecord>): ExitRecord => ({
  kind: "exit",
  now: 0,
  handled: 0,
  reason: ExitReason.IO,
  direction: 0,
  size: 1,
  count: 1,
  address: 0x3f8,
  rip: 0n,
  data: new Uint8Array(4),
  ...record,
});

const ACCESSES: [Partial<ExitRecord>, string][] = [
  [{ direction: 1, data: Uint8Array.of(0x41) }, "out 0x3f8/1 41"],
  [{ direction: 1, size: 2, address: 0xcf8, data: Uint8Array.of(1, 2) }, "out 0xcf8/2 0102"],
  [{ size: 4, address: 0xffff }, "in 0xffff/4"],
  [{ reason: ExitReason.MMIO, size: 2, address: 0xb8000 }, "read 0xb8000/2"],
  [
    {
      reason: ExitReason.MMIO,
      direction: 1,
      size: 4,
      address: 0xfee00000,
      data: Uint8Array.of(9, 8, 7, 6),
    },
    "write 0xfee00000/4 09080706",
  ],
];

for (const name of ENGINES) {
  describe.skipIf(!probe(name).available)(name, () => {
    test.each(ACCESSES)("%p exits as it was recorded", (record, expected) => {
      const seed = seedOf(exit(record))!;
      expect(seed.expected).toBe(expected);
      using target = new Target(name);
      target.run(seed.it);
      expect(target.what).toBe(expected);
    });
  });
}

test("what no access makes is no case", () => {
  expect(seedOf(exit({ reason: ExitReason.HLT }))).toBeUndefined();
  expect(seedOf(exit({ reason: ExitReason.MMIO, size: 8, address: 2 ** 31 }))).toBeUndefined();
  expect(seedOf(exit({ reason: ExitReason.MMIO, size: 4, address: 2 ** 32 }))).toBeUndefined();
  expect(seedOf(exit({ reason: ExitReason.MMIO, size: 1, address: 0x1000 }))).toBeUndefined();
});
