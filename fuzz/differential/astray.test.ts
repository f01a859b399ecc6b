import { describe, expect, test } from "bun:test";
import { probe } from "../../src/vmm/engine.ts";
import { beginsDisplaced, hasStrayed, isDisplaced, leadsInside } from "./astray.ts";
import { type Case, STATE } from "./case.ts";
import { decode } from "./decode.ts";
import { Generator } from "./generate.ts";
import { bitness, type Mode, SELECTOR } from "./layout.ts";
import { Target } from "./target.ts";

/** A case of ring 0 with a stack in memory, and other code in it. */
function caseOf(mode: Mode, hex: string): Case {
  const generator = new Generator(5, [mode]);
  for (let i = 0; ; i++) {
    const it = generator.make(i);
    const stepped = (it.state[STATE.rflags + 1] & 1) !== 0;
    if (it.cpl !== 0 || stepped || beginsDisplaced(it)) continue;
    return { ...it, code: Uint8Array.fromHex(hex.replaceAll(" ", "")) };
  }
}

describe.skipIf(!probe("unicorn").available)("what runs", () => {
  const ran = (it: Case, length: number): Target => {
    const target = new Target("unicorn");
    target.run(it, it.code.subarray(0, length));
    return target;
  };

  test.each([
    ["to the next instruction", "eb 00 90 90", 2, false],
    ["over an instruction", "eb 01 90 90", 2, false],
    ["to the end", "eb 02 90 90", 2, false],
    ["into an instruction", "eb 01 b8 90 90 90 90", 2, true],
    ["out of the sequence", "eb 40 90", 2, true],
    ["behind a reserved encoding, whose length nobody knows", "eb 03 f0 e0 07 90", 2, true],
    ["nowhere: an exception", "0f 0b 90", 2, false],
    ["to another code segment", "ea 07 00 00 00 20 00 90", 7, true],
    ["round and round", "eb fe 90", 2, true],
  ])("has strayed by a branch %s", (_, hex, length, strayed) => {
    const it = caseOf("prot32", hex);
    // The far jump's offset.
    if (hex.startsWith("ea")) new DataView(it.code.buffer).setUint32(1, it.at + 7, true);
    using target = ran(it, length);
    expect(hasStrayed(target, it, decode(it.code, bitness(it.mode), it.at))).toBe(strayed);
  });

  // EB FF leads to its own second byte: what runs there depends on what follows.
  test.each([
    ["itself", "eb ff d7", true],
    ["the next one", "eb 00 d7", false],
    ["another one", "eb 01 b8 90 90 90 90", true],
    ["elsewhere", "eb 40 d7", false],
  ])("leads inside of an instruction by a branch to %s", (_, hex, inside) => {
    const it = caseOf("prot32", hex);
    const decoded = decode(it.code, bitness(it.mode), it.at);
    expect(leadsInside(decoded[0], it, decoded)).toBe(inside);
  });

  const descriptor = (0x1000 + SELECTOR.USER_DATA).toString(16).slice(2);

  test.each([
    ["nothing", "prot32", "90", false],
    ["a segment that is loaded, which sets its accessed bit", "prot32", "66 b8 38 00 8e d8", false],
    ["a gate", "prot32", "c6 05 68 20 00 00 00", true],
    ["a descriptor", "prot32", `c6 05 ${descriptor} 10 00 00 00`, true],
    ["a handler", "prot32", "c6 05 06 30 00 00 90", true],
    ["data", "prot32", "c6 05 00 a0 00 00 77", false],
    ["the IDT's address", "prot32", "0f 01 1d 00 a0 00 00", true],
    ["the GDT's address", "prot32", "0f 01 15 00 a0 00 00", true],
    ["the stack pointer", "prot32", "bc 00 00 02 00", true],
    ["the stack pointer, a little", "prot32", "bc 00 ee 00 00", false],
    ["a vector", "real", "2e c6 06 18 00 77", true],
    ["the mode", "real", "0f 20 c0 0c 01 0f 22 c0", true],
    ["a page-table entry", "long", "c6 04 25 50 70 00 00 00", true],
    ["a page's accessed bit", "long", "8a 04 25 00 b0 00 00", false],
  ] as const)("is displaced by a change of %s", (_, mode, hex, displaced) => {
    const it = caseOf(mode, hex);
    using target = ran(it, it.code.length);
    expect(isDisplaced(target, it)).toBe(displaced);
  });
});
