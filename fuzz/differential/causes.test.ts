import { describe, expect, test } from "bun:test";
import { causeOf, stateCauseOf } from "./causes.ts";
import type { Difference } from "./compare.ts";
import { decode, textOf } from "./decode.ts";
import type { Finding } from "./finding.ts";
import { bitness, type Mode } from "./layout.ts";
import { merge, type Report, type ReportGroup } from "./report.ts";

const AT = 0x8000;

/** "rip 0x8000 0x8002; vector #6 #13" as differences of KVM and Unicorn. */
function differencesOf(text: string): Difference[] {
  return text.split("; ").map((one) => {
    const [what, a = "0x0", b = "0x1"] = one.split(" ");
    return { what, a, b };
  });
}

function finding(
  mode: Mode,
  cpl: number,
  hex: string,
  endings: readonly [string, string],
  differences: string,
  more: Partial<Finding> = {},
): Finding {
  const bytes = Uint8Array.fromHex(hex);
  const [{ mnemonic, form }] = decode(bytes, bitness(mode), AT);
  return {
    mnemonic,
    form,
    text: textOf(bytes, bitness(mode), AT),
    bytes,
    at: AT,
    engines: ["kvm", "unicorn"],
    mode,
    cpl,
    differences: differencesOf(differences),
    endings,
    carried: false,
    strayed: false,
    displaced: false,
    alone: true,
    earlier: [],
    bases: [0, 0, 0, 0],
    changedItself: false,
    ...more,
  };
}

const state = { mnemonic: "STATE", form: "", text: "", bytes: new Uint8Array() };
const elsewhere = "frame.rip 0x8003 0x8000";

// What each is like, and what is nearly like it and has no cause or another.
test.each([
  [
    "far pointers of 64 bits",
    finding("long", 0, "4d0fb412", ["halt", "halt"], "r10; fs.selector"),
    finding("long", 0, "450fb412", ["halt", "halt"], "r10; fs.selector"),
  ],
  [
    "features that aren't offered",
    finding("prot16", 3, "0f01f9", ["#13", "#6"], "vector #13 #6"),
    finding("prot16", 3, "0f01f9", ["#13", "#14"], "vector #13 #14"),
  ],
  [
    "stores of no byte",
    finding("long", 3, "0ff7e2", ["#14", "#13"], "vector #14 #13"),
    finding("long", 3, "0ff7e2", ["halt", "#14"], "vector halt #14"),
  ],
  [
    "the end of FXSAVE's area",
    finding("long", 0, "0fae06", ["#14", "halt"], "vector #14 halt"),
    finding("long", 0, "0fae06", ["halt", "#14"], "vector halt #14"),
  ],
  [
    "INT 1Ah and 1Bh",
    finding("prot16", 0, "cd1a", ["halt", "SHUTDOWN"], "ending"),
    finding("prot16", 0, "cd1c", ["halt", "SHUTDOWN"], "ending"),
  ],
  [
    "selectors of ring 3",
    finding("long", 3, "8ee6", ["#13", "#13"], `fs.base; frame.code; ${elsewhere}`),
    finding("long", 0, "8ee6", ["#13", "#13"], `fs.base; frame.code; ${elsewhere}`),
  ],
  [
    "what the case before has left",
    finding("long", 0, "90", ["halt", "halt"], "vector #1 halt", { ...state, alone: false }),
    finding("long", 0, "90", ["halt", "halt"], "vector #1 halt", state),
  ],
  [
    "what the case before has left",
    finding("long", 3, "90", ["#13", "#13"], "memory.data", {
      ...state,
      alone: false,
      earlier: ["66dd71f0"],
    }),
    finding("long", 3, "90", ["#13", "#13"], "memory.data", { ...state, alone: false }),
  ],
  [
    "upper half of ESP",
    finding("prot16", 0, "f7f4", ["#0", "#0"], "rsp 0xfff4 0x1fff4"),
    finding("prot16", 0, "f7f4", ["#0", "#0"], "rsp 0xfff4 0x1fff2"),
  ],
  [
    "undefined flags carried on",
    finding("real", 0, "f7f9", ["halt", "halt"], "memory.stack", { carried: true }),
    finding("real", 0, "f7f9", ["halt", "halt"], "memory.stack"),
  ],
  [
    "loads in parts",
    finding("long", 3, "f20ff00c25f3cf0000", ["#14", "#14"], "xmm1"),
    finding("long", 3, "f20ff00c25f3cf0000", ["halt", "halt"], "xmm1"),
  ],
  [
    "FXSAVE leaves the opcode",
    finding("real", 0, "0fae07", ["halt", "halt"], "memory.vectors 0x7:00 0x7:03"),
    finding("real", 0, "0fae07", ["halt", "halt"], "memory.vectors 0x8:00 0x8:03"),
  ],
  [
    "66, F2 and F3 together",
    finding("long", 0, "f2f3a6", ["halt", "halt"], "rcx; rsi; rdi; rflags.CF"),
    finding("long", 0, "f3a6", ["halt", "halt"], "rcx; rsi; rdi; rflags.CF"),
  ],
  [
    "INS writes before it reads",
    finding("compat", 3, "90", ["in 0x40/1", "in 0x40/1"], "memory.data", {
      strayed: true,
      differences: [{ what: "memory.data", a: "0xad0f: e710", b: "0xad0f: 0010" }],
    }),
    finding("compat", 3, "90", ["in 0x40/1", "in 0x40/1"], "memory.data", {
      differences: [{ what: "memory.data", a: "0xad0f: e710", b: "0xad0f: 0010" }],
    }),
  ],
  [
    "LOCK over its own block",
    finding("long", 0, "f031b931000000", ["halt", "halt"], "rflags.PF; memory.code"),
    finding("long", 0, "31b931000000", ["halt", "halt"], "rflags.PF; memory.code"),
  ],
  [
    "MOVBE in 16-bit code",
    finding("prot16", 3, "660f38f05efe", ["read 0x10000/2", "#13"], "ending"),
    finding("prot32", 3, "660f38f05efe", ["read 0x10000/2", "#13"], "ending"),
  ],
  [
    "behind a load of CR0",
    finding("prot16", 0, "a3bb4e", ["halt", "halt"], "rsp; rip", { earlier: ["66360f2206"] }),
    finding("prot16", 0, "a3bb4e", ["halt", "halt"], "rsp; rip", { earlier: ["66360f221e"] }),
  ],
  [
    "branches into instructions",
    finding("prot32", 0, "c0c706", ["halt", "halt"], "memory.stack", { strayed: true }),
    finding("prot32", 0, "c0c706", ["halt", "halt"], "memory.stack"),
  ],
  [
    "tables and stacks that changed",
    finding("prot16", 0, "660fc316", ["halt", "SHUTDOWN"], "ending", { displaced: true }),
    finding("prot16", 0, "01c8", ["halt", "halt"], "rax", { displaced: true }),
  ],
  [
    "POPCNT in 16-bit code",
    finding("prot16", 0, "f30fb8fd", ["halt", "halt"], "rdi"),
    finding("prot16", 0, "66f30fb8fd", ["halt", "halt"], "rdi"),
  ],
  [
    "shifts by more than the operand",
    finding("prot16", 0, "0fa4d811", ["halt", "halt"], "rax"),
    finding("prot32", 0, "0fa4d811", ["halt", "halt"], "rax"),
  ],
])("%s", (name, found, other) => {
  expect(causeOf(found)?.name).toBe(name);
  expect(causeOf(other)?.name).not.toBe(name);
});

const pushed = "rflags.ZF 0x0 0x40; frame.rflags.ZF 0x0 0x40";

// In the lab, likewise.
test.each([
  [
    "LOCK isn't checked",
    finding("long", 0, "f001d8", ["halt", "#6"], "vector halt #6"),
    finding("long", 0, "c616", ["halt", "#6"], "vector halt #6"),
  ],
  [
    "fetches over the end of a page",
    finding("long", 3, "c3", ["#14", "#14"], "cr2 0xc508500 0xd000; frame.code 0x4 0x14"),
    finding("long", 3, "c3", ["#14", "#14"], "cr2 0xd000 0xc508500; frame.code 0x14 0x4"),
  ],
  [
    "reserved encodings aren't checked",
    finding("pae", 3, "c616", ["#14", "#6"], "vector #14 #6"),
    finding("pae", 3, "c606", ["#14", "#6"], "vector #14 #6"),
  ],
  [
    "reserved bits without P",
    finding("pae", 0, "836a498c", ["#14", "#14"], "frame.code 0x8 0xb"),
    finding("pae", 0, "8b4a49", ["#14", "#14"], "frame.code 0x8 0xb"),
  ],
  [
    "read-modify-writes fault as reads",
    finding("pae", 0, "014a49", ["#14", "#14"], "frame.code 0x4 0x6"),
    finding("pae", 0, "8b4a49", ["#14", "#14"], "frame.code 0x4 0x6"),
  ],
  // A part has a cause of its own: what is left needs another.
  [
    "flags of faults",
    finding("pae", 3, "d35239", ["#14", "#14"], `frame.code 0x4 0x6; ${pushed}`),
    finding("pae", 3, "d35239", ["#14", "#14"], `frame.code 0x4 0x6; rax; ${pushed}`),
  ],
  [
    "RF of faults in other frames",
    finding("prot16", 0, "cf", ["#13", "#13"], "memory", {
      differences: [
        { what: "memory.data", a: "0x8b4: 0000000000000000", b: "0x8b4: 0100000000000000" },
      ],
    }),
    finding("prot16", 0, "cf", ["#13", "#13"], "memory", {
      differences: [
        { what: "memory.data", a: "0x8b4: 0000000000000000", b: "0x8b4: 0100010000000000" },
      ],
    }),
  ],
  [
    "flags of CMPXCHG8B",
    finding("real", 0, "0fc70a", ["halt", "halt"], "rflags.TF; rflags.CF"),
    finding("real", 0, "0fc70a", ["halt", "halt"], "rflags.TF; rax"),
  ],
  [
    "flags of CMPXCHG8B",
    finding("real", 0, "90", ["halt", "halt"], "rflags.PF", {
      ...state,
      earlier: ["0f9773dd", "660fc70e73a0"],
    }),
    finding("real", 0, "90", ["halt", "halt"], "rflags.PF", { ...state, earlier: ["0f9773dd"] }),
  ],
  [
    "flags of faults",
    finding("paged32", 3, "90", ["#14", "#14"], "rflags.PF", {
      ...state,
      earlier: ["350246034a", "0f9ea833000000", "66670f019093e9"],
    }),
    finding("paged32", 3, "90", ["#14", "#14"], "rflags.PF", { ...state, earlier: ["350246034a"] }),
  ],
  [
    "flags of SYSCALL",
    finding("long", 0, "0f05", ["#14", "#14"], "rflags.DF 0x0 0x400"),
    finding("long", 0, "0f05", ["#14", "#14"], "rflags.DF 0x400 0x0"),
  ],
  [
    "wide control registers",
    finding("compat", 0, "0f2215", ["halt", "halt"], "cr2 0xd4a6bc720000003f 0x3f"),
    finding("compat", 0, "0f2215", ["halt", "halt"], "cr2 0xd4a6bc720000003f 0x3e"),
  ],
  [
    "INT1",
    finding("prot32", 3, "f1", ["#6", "#1"], "vector #6 #1"),
    finding("prot32", 3, "f1", ["#1", "#6"], "vector #1 #6"),
  ],
  [
    "I/O map of a busy TSS",
    finding("compat", 3, "ee", ["#13", "out 0xf6/1 7e"], "ending"),
    finding("prot32", 3, "ee", ["#13", "out 0xf6/1 7e"], "ending"),
  ],
  [
    "MMIO that isn't emulated",
    finding("prot32", 3, "da8bbe15b544", ["#6", "read 0x44b5c334/4"], "ending"),
    finding("prot32", 0, "da8bbe15b544", ["#6", "read 0x44b5c334/4"], "ending"),
  ],
  [
    "segments are checked in emulation",
    finding("prot32", 0, "110a", ["#13", "read 0xffffffc4/4"], "ending"),
    finding("prot32", 0, "110a", ["#13", "halt"], "vector"),
  ],
  [
    "destinations that are read",
    finding("prot32", 0, "0f0000", ["read 0x10014/4", "write 0x10014/2 8000"], "ending"),
    finding("prot32", 0, "0f0000", ["write 0x10014/2 8000", "read 0x10014/4"], "ending"),
  ],
  [
    "steps over HLT",
    finding("prot32", 0, "9d", ["halt", "halt"], "dr6 0xffff4ff0 0xffff0ff0"),
    finding("prot32", 0, "9d", ["halt", "halt"], "dr6 0xffff0ff0 0xffff4ff0"),
  ],
  [
    "SYSENTER and SYSEXIT in long mode",
    finding("long", 3, "0f34", ["#6", "#13"], "vector #6 #13"),
    finding("prot32", 3, "0f34", ["#6", "#13"], "vector #6 #13"),
  ],
  [
    "SHLD and SHRD relative to RIP",
    finding("long", 0, "450fa4253ebe00004a", ["halt", "halt"], "memory.data"),
    finding("long", 0, "450fa424253ebe00004a", ["halt", "halt"], "memory.data"),
  ],
  [
    "PEXTRW and PINSRW of MMX registers by more than 3",
    finding("long", 0, "4d0fc5e304", ["halt", "halt"], "r12 0x400d 0x1a03"),
    finding("long", 0, "4d0fc5e303", ["halt", "halt"], "r12 0x400d 0x1a03"),
  ],
  [
    "MOV to CR3 takes reserved bits",
    finding("long", 0, "260f22dd", ["FAIL_ENTRY", "#13"], "ending"),
    finding("long", 0, "260f22dd", ["halt", "#13"], "vector"),
  ],
  [
    "PAE's pointers with an accessed bit",
    finding("pae", 0, "0f22c1", ["#13", "halt"], "vector"),
    finding("paged32", 0, "0f22c1", ["#13", "halt"], "vector"),
  ],
  [
    "SGDT and SIDT to MMIO",
    finding("real", 0, "0f0106ff18", ["#1", "write 0x118ef/1 ff"], "ending"),
    finding("real", 0, "0f0106ff18", ["write 0x118ef/4 ff", "write 0x118ef/1 ff"], "ending"),
  ],
  [
    "what branches lead to",
    finding("prot16", 0, "e94565", ["#13", "#13"], "fsw 0100 0000"),
    finding("prot16", 0, "e94565", ["#13", "#13"], "rax"),
  ],
  [
    "SSE's instructions with MMX registers",
    finding("real", 0, "660f2dec", ["halt", "#6"], "vector halt #6"),
    finding("real", 0, "660f2dec", ["#7", "#6"], "vector #7 #6"),
  ],
])("in the lab: %s", (name, found, other) => {
  expect(causeOf(found, true)?.name).toBe(name);
  expect(causeOf(other, true)?.name).not.toBe(name);
});

test("causes of kvm_pvm and of KVM's emulator are none in the lab", () => {
  const found = finding("prot32", 0, "9c", ["#6", "halt"], "vector #6 halt");
  const called = finding("prot32", 0, "c8000000", ["#6", "halt"], "vector #6 halt");
  expect(causeOf(called)?.name).toBe("not emulated");
  for (const one of [found, called]) expect(causeOf(one, true)).toBeUndefined();
});

test("a report is looked through again by the table of where it was made", () => {
  const found = finding("prot32", 0, "c8000000", ["#6", "halt"], "vector #6 halt");
  const group: ReportGroup = {
    ...{ key: "ENTER", count: 2, seed: 1, first: 7, example: "" },
    finding: { ...found, bytes: found.bytes.toHex() },
  };
  const totals = { cases: 9, same: 7, undefinedOnly: 0, notRun: 0, endless: 0, differ: 2 };
  const made = (lab: boolean): Report => ({
    ...{ engines: ["kvm", "unicorn"], modes: ["prot32"], lab, seconds: 1, groups: [group] },
    totals: { ...totals, unexplained: 2 },
  });
  expect(merge([made(false)]).groups[0].cause).toBe("not emulated");
  expect(merge([made(true)]).totals.unexplained).toBe(2);
});

describe("what has nothing to do with the instruction", () => {
  const engines = ["kvm", "unicorn"] as const;
  const nameOf = (text: string, vector: number, lab: boolean) =>
    stateCauseOf(differencesOf(text)[0], { engines, vector }, lab)?.name;

  test("RF of faults: of faults, where the lab's processor lacks it", () => {
    const rf = "frame.rflags.RF 0x0 0x10000";
    expect(nameOf(rf, 13, true)).toBe("RF of faults");
    expect(nameOf(rf, 3, true)).toBeUndefined();
    expect(nameOf("frame.rflags.RF 0x10000 0x0", 13, true)).toBeUndefined();
    expect(nameOf(rf, 13, false)).toBeUndefined();
  });

  test("flags of rings are kvm_pvm's", () => {
    expect(nameOf("rflags.NT 0x0 0x4000", -1, false)).toBe("flags of rings");
    expect(nameOf("rflags.NT 0x0 0x4000", -1, true)).toBeUndefined();
  });
});
