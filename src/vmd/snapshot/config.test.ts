/** What a snapshot says about its machine: anything may stand there. */
import { expect, test } from "bun:test";
import { SnapshotError } from "../../vmm/snapshot/format.ts";
import { parseConfig } from "./config.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const RIGHT = {
  ...{ format: 1, id: "0".repeat(32), created: 0, engine: "unicorn", ahead: 0, interfaces: [] },
  ...{ cpuid: [], boot: "firmware", options: { name: "one", memory: MIB } },
};

/** @returns undefined: it is taken */
function refusal(config: object): string | undefined {
  try {
    parseConfig(new TextEncoder().encode(JSON.stringify(config)));
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(SnapshotError);
    return (error as Error).message;
  }
}

test("its memory is what a machine may have", () => {
  const of = (memory: unknown) => refusal({ ...RIGHT, options: { name: "one", memory } });
  for (const memory of [MIB, MIB + 4096, 128 * GIB]) expect(of(memory)).toBeUndefined();
  for (const memory of [0, 4096, MIB + 1, 128 * GIB + 4096, 1e12, -MIB, 2 ** 60, "1M", null]) {
    expect(of(memory)).toBe("what it says about its machine can't be: options.memory");
  }
});

test("its firmware ends at 4 GiB, and has 4 MiB at most", () => {
  const of = (base: number, size: number) => refusal({ ...RIGHT, rom: { base, size } });
  for (const size of [4096, 0x20000, 4 * MIB]) expect(of(4 * GIB - size, size)).toBeUndefined();
  for (const [base, size] of [
    [4 * GIB, 0],
    [4 * GIB - 100, 100],
    [4 * GIB - 8 * MIB, 8 * MIB],
    [4 * GIB - 8192, 4096],
    [0, 4096],
    [0, 2 ** 47],
  ]) {
    expect(of(base, size)).toBe("what it says about its machine can't be: rom");
  }
});
