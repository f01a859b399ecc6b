import { describe, expect, test } from "bun:test";
import { probe } from "../../src/vmm/engine.ts";
import { whyNotKvm } from "../../src/vmm/select.ts";
import { Campaign } from "./campaign.ts";
import { ALL_CAUSES } from "./causes.ts";
import { decode } from "./decode.ts";
import { masked } from "./explain.ts";
import { Generator, LONGEST_SEQUENCE } from "./generate.ts";
import { main } from "./index.ts";
import { inLab } from "./lab.ts";
import { bitness, MODES, physical } from "./layout.ts";
import { modesOf, runs } from "./modes.ts";
import { report } from "./report.ts";
import { Ending } from "./target.ts";

function whyNot(): string | undefined {
  for (const name of ["kvm", "unicorn"] as const) {
    const { available, why } = probe(name);
    if (!available) return `no engine ${name}: ${why}`;
  }
  if (inLab) return "the lab's processor is slow: docs/differential.md says how to run it there";
  if (whyNotKvm() === undefined) return "this host's processor runs guests, and isn't in the table";
  return undefined;
}

const reason = whyNot();
if (reason !== undefined) console.log(`differential: not run, since ${reason}`);
const noUnicorn = !probe("unicorn").available;

describe("cases", () => {
  const shown = (generator: Generator, index: number) => {
    const { code, state, fpu, at, mode, cpl, deep, patches } = generator.make(index);
    const bytes = [code, state, deep ? fpu : new Uint8Array(), ...patches.map((one) => one.bytes)];
    return [mode, cpl, deep, at, ...bytes.map((one) => one.toHex())].join(" ");
  };

  test("case N of seed S is always the same", () => {
    const generator = new Generator(5);
    const all = Array.from({ length: 600 }, (_, i) => shown(generator, i));
    for (const index of [599, 0, 448, 449, 17]) {
      expect(shown(new Generator(5), index)).toBe(all[index]);
      expect(shown(new Generator(6), index)).not.toBe(all[index]);
    }
    expect(new Set(all).size).toBe(600);
  });

  test("have one to eight instructions, of all modes and many opcodes", () => {
    const generator = new Generator(7);
    const mnemonics = new Set<string>();
    const modes = new Set<string>();
    let longer = 0;
    for (let i = 0; i < 20_000; i++) {
      const it = generator.make(i);
      const decoded = decode(it.code, bitness(it.mode), it.at);
      expect(decoded.length).toBeGreaterThan(0);
      // Random bytes may be more.
      if (!it.deep && decoded.length > LONGEST_SEQUENCE) longer++;
      for (const { mnemonic } of decoded) mnemonics.add(mnemonic);
      modes.add(`${it.mode}${it.cpl}`);
    }
    // An operand's size that the generator takes for another: an immediate's end is the next opcode.
    expect(longer).toBeLessThan(100);
    expect(mnemonics.size).toBeGreaterThan(400);
    expect(modes.size).toBe(MODES.length * 2 - 1);
  }, 30_000);
});

describe("undefined flags", () => {
  // Intel SDM vol. 1, appendix A: ZF, SF, AF and PF of MUL; AF of AND; none of ADD.
  test.each([
    ["f7e1", 0xd4],
    ["21c8", 0x10],
    ["01c8", 0],
  ])("of %s", (hex, flags) => {
    expect(decode(Uint8Array.fromHex(hex), 32, 0x8000)[0].undefinedFlags).toBe(flags);
  });

  test("are left out where they are, and where an exception pushed them", () => {
    const found = ["rflags.AF", "frame.rflags.AF", "rflags.CF", "rax"].map((what) => ({
      what,
      a: "0x0",
      b: "0x1",
    }));
    expect(masked(found, 0x10).map((one) => one.what)).toEqual(["rflags.CF", "rax"]);
  });
});

// A fault's frame is compared by what it says, wherever the stack is mapped and where SP wraps.
test("addresses of other pages lie in memory where they are mapped", () => {
  expect([0xe123, 0x12345, 0x14fff, 0x20000].map((at) => physical("long", at))).toEqual([
    0xe123, 0xa345, 0xbfff, 0x20000,
  ]);
  expect(physical("prot32", 0x12345)).toBe(0x12345);
});

// The first entry of a slow host takes too long, and says nothing of the mode.
test.each([
  [1, true],
  [4, true],
  [Infinity, false],
])("a mode that is too slow %d times runs: %p", (slow, expected) => {
  const target = {
    ending: Ending.HALT as Ending,
    vector: -1,
    tries: 0,
    run() {
      this.ending = this.tries++ < slow ? Ending.BUDGET : Ending.HALT;
    },
  };
  expect(runs(target, "real")).toBe(expected);
});

test("causes have names of their own and say something", () => {
  expect(new Set(ALL_CAUSES.map((cause) => cause.name)).size).toBe(ALL_CAUSES.length);
  for (const { explanation, by } of ALL_CAUSES) {
    expect(explanation).toMatch(/^\S.+\.$/);
    expect(by.length).toBeGreaterThan(4);
  }
});

describe.skipIf(noUnicorn)("one engine with itself", () => {
  test("does the same", () => {
    using campaign = new Campaign(["unicorn", "unicorn"], 3);
    for (let i = 0; i < 3000; i++) campaign.one(i);
    expect([...campaign.groups.keys()]).toEqual([]);
    expect(campaign.totals.same).toBeGreaterThan(2500);
  }, 60_000);

  // CBW, CWDE and CDQE would be wrong on one of them.
  test("shows which instruction is wrong on one side", () => {
    using campaign = new Campaign(["unicorn", "unicorn"], 4);
    const { b } = campaign;
    const right = b.run.bind(b);
    b.run = (it, code = it.code) => {
      right(it, code);
      const wrong = decode(code, bitness(it.mode), it.at).some(
        ({ bytes }) => bytes.at(-1) === 0x98,
      );
      if (wrong && code.length > 0) b.words[0] ^= 4;
    };
    for (let i = 0; i < 3000; i++) campaign.one(i);
    const groups = [...campaign.groups.values()].filter((group) => group.cause === undefined);
    expect(groups.length).toBeGreaterThan(0);
    expect(campaign.totals.unexplained).toBeGreaterThan(10);
    const blamed = new Set(groups.map((group) => group.example!.bytes.at(-1)));
    expect([...blamed]).toEqual([0x98]);
  }, 60_000);
});

describe.skipIf(reason !== undefined)("KVM and Unicorn", () => {
  test("differ in nothing that the table doesn't explain", () => {
    const engines = ["kvm", "unicorn"] as const;
    const modes = modesOf(engines);
    using campaign = new Campaign(engines, 2, modes);
    for (let i = 0; i < 3000; i++) campaign.one(i);
    const found = report(campaign, { engines, seed: 2, from: 0, modes, seconds: 1 });
    const left = found.groups.filter((group) => group.cause === undefined);
    expect(left.map(({ key, first, example }) => `case ${first}: ${key}: ${example}`)).toEqual([]);
    expect(campaign.totals.same).toBeGreaterThan(1000);
  }, 60_000);

  // Of seed 300; undefined: what differed there has been mended.
  test.each([
    [1056008, "writes over two pages"], // RCL's flags
    [9676030, undefined], // LOOPNE's flags
    [915951, undefined], // PCMPESTRM
    [4502982, undefined], // XABORT
    [1115641, undefined], // CRC32 under CR0.TS
    [6654071, "far pointers of 64 bits"],
    [2524214, "features that aren't offered"],
    [2636594, "selectors of ring 3"],
    [1406062, "INT 1Ah and 1Bh"],
    [2109424, "loads in parts"],
    [2030562, "FXSAVE leaves the opcode"],
    [4530248, "66, F2 and F3 together"],
    [5841662, "behind a load of CR0"],
    [1985262, "branches into instructions"],
    [272978, "code that changed itself"],
    [788058, "tables and stacks that changed"],
    [7659896, "upper half of ESP"],
  ])("case %d comes from: %s", (index, cause) => {
    const engines = ["kvm", "unicorn"] as const;
    using campaign = new Campaign(engines, 300, modesOf(engines));
    campaign.one(index);
    expect([...campaign.groups.keys()]).toEqual(cause === undefined ? [] : [cause]);
  });

  // A shutdown under TF leaves kvm_pvm a debug exception for the case behind it.
  test("what a case has left is not the next one's", () => {
    const engines = ["kvm", "unicorn"] as const;
    using campaign = new Campaign(engines, 300, modesOf(engines));
    campaign.one(9603863);
    campaign.one(9603864);
    expect(campaign.groups.get("what the case before has left")?.first).toBe(9603864);
    expect(campaign.totals.unexplained).toBe(0);
  });
});

test.each([
  [["--cases", "many"], /--cases many: a whole number/],
  [["--engines", "kvm,bochs"], /no engine bochs/],
  [["--modes", "vm86"], /no mode vm86/],
  [["--merge", "/dev/null"], /not a report/],
  [["--wrong"], /usage/],
])("%j is refused in a sentence", async (words, sentence) => {
  const said: string[] = [];
  const { error } = console;
  console.error = (text: string) => said.push(text);
  try {
    expect(await main(words)).toBe(2);
  } finally {
    console.error = error;
  }
  expect(said.join("\n")).toMatch(sentence);
});
