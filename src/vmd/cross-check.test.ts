/** One guest on two engines: KVM and Unicorn where KVM is, else Unicorn twice. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { assemble, SMALL_GUESTS } from "../../golden/small/harness.ts";
import { CR0, type CpuState, flat, resetState } from "../vmm/cpu.ts";
import { type EngineName, probe } from "../vmm/engine.ts";
import { crossCheck } from "./cross-check.ts";
import { compareRegisters } from "./side.ts";

setDefaultTimeout(120_000);

const MEMORY = 16 * 2 ** 20;
const ENTRY = 0x100000;
const kvm = probe("kvm");
if (!kvm.available) console.log(`KVM's cross-checks skipped: ${kvm.why}`);
const engines: readonly (readonly [EngineName, EngineName])[] = kvm.available
  ? [
      ["kvm", "unicorn"],
      ["unicorn", "kvm"],
      ["unicorn", "unicorn"],
    ]
  : [["unicorn", "unicorn"]];

function flatState(): CpuState {
  const data = flat(0x10, "data");
  return {
    ...resetState(),
    cs: flat(0x8, "code32"),
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    rip: ENTRY,
    rsp: 0x90000,
    cr0: CR0.PE | CR0.ET,
  };
}

function check(bytes: Uint8Array, pair: readonly [EngineName, EngineName], limit?: number) {
  const output: Uint8Array[] = [];
  const result = crossCheck({
    engines: pair,
    memory: MEMORY,
    epoch: 0,
    debugExit: true,
    output: (chunk) => output.push(chunk),
    debug: () => {},
    rom: undefined,
    load: (machine) => {
      machine.memory.write(ENTRY, bytes);
      return { cpu: flatState(), format: "multiboot", entry: ENTRY, description: "a small guest" };
    },
    limit,
  });
  return { ...result, output: Buffer.concat(output).toString("latin1") };
}

const code = (text: string) => Uint8Array.fromHex(text.replaceAll(" ", ""));
const small = (name: string) => {
  const guest = SMALL_GUESTS.find((candidate) => candidate.name === name);
  if (guest === undefined) throw new Error(`no small guest ${name}`);
  return assemble(guest);
};

describe.each(engines)("%s and %s", (...pair) => {
  // Other guests read CPUID, or exit in the midst of instructions that change registers.
  test.each(["self-modifying", "string-io"])("guest %s is the same", (name) => {
    const result = check(small(name), pair);
    expect(result).toMatchObject({ difference: undefined, failed: false });
    expect(result.ending).toStartWith("the guest ended with code");
    expect(result.equal).toBeGreaterThan(20);
    expect(result.output).toContain("\n");
  });

  test("a triple fault ends both", () => {
    const result = check(small("triple-fault"), pair);
    expect(result).toMatchObject({
      difference: undefined,
      failed: false,
      ending: "the guest ended by a triple fault",
    });
  });

  test("the first difference ends it, with both sides", () => {
    // out 0x80, al; rdtsc; out 0x80, al; out 0x80, al; cli; hlt
    const result = check(code("e6 80 0f 31 e6 80 e6 80 fa f4"), pair);
    expect(result).toMatchObject({ equal: 1, ending: "a difference", failed: false });
    const [head, ...sides] = result.difference?.split(/^(?=kvm: |unicorn: )/m) ?? [];
    expect(head).toMatch(/^exit 1: (the exits differ|registers differ: .*rax.*)\n$/);
    expect(sides.length).toBe(2);
    for (const [i, side] of sides.entries()) {
      expect(side).toMatch(new RegExp(`^${pair[i]}: out 0x80/1 [0-9a-f]{2}\nrax +[0-9a-f]{16} `));
    }
  });

  test("a guest that makes no exit fails the check", () => {
    const result = check(code("eb fe"), pair);
    expect(result).toMatchObject({ equal: 0, difference: undefined, failed: true });
    expect(result.ending).toMatch(/^the guest ran 2 s on engine \w+ without an exit$/);
  });

  test("a limit ends it", () => {
    const result = check(code("e6 80 eb fc"), pair, 50);
    expect(result).toMatchObject({ equal: 50, failed: false, ending: "50 exits were compared" });
  });
});

test("registers are compared under masks", () => {
  const state = resetState();
  const differ = (change: Partial<CpuState>, late = false) =>
    compareRegisters(state, { ...state, ...change }, late);
  expect(differ({})).toEqual([]);
  expect(differ({ rax: state.rax + 1 })).toEqual(["rax"]);
  expect(differ({ rflags: state.rflags ^ 1 })).toEqual([]);
  expect(differ({ rflags: state.rflags ^ 0x200 })).toEqual(["rflags"]);
  expect(differ({ rip: state.rip + 2 })).toEqual(["rip"]);
  expect(differ({ rip: state.rip + 2 }, true)).toEqual([]);
  expect(differ({ rip: state.rip + 16 }, true)).toEqual(["rip"]);
  // A string instruction at an exit that is not done yet.
  expect(differ({ rcx: state.rcx + 1, rsi: state.rsi + 4 })).toEqual(["rcx", "rsi"]);
  expect(differ({ rcx: state.rcx + 1, rsi: state.rsi + 4 }, true)).toEqual([]);
  expect(differ({ rcx: state.rcx + 2, rdi: state.rdi + 9 }, true)).toEqual(["rcx", "rdi"]);
  expect(differ({ cr3: 0x1000 })).toEqual(["cr3"]);
  expect(differ({ ds: { ...state.ds, selector: 8 } })).toEqual(["ds"]);
  // Of a null segment nothing else counts.
  expect(differ({ ds: { ...state.ds, base: 16 } })).toEqual([]);
  expect(differ({ cs: { ...state.cs, base: 16 } })).toEqual(["cs"]);
});
