import { expect, test } from "bun:test";
import { causeOf } from "./causes.ts";
import type { Difference } from "./compare.ts";
import { decode, textOf } from "./decode.ts";
import type { Finding } from "./finding.ts";
import { bitness, type Mode } from "./layout.ts";

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
])("%s", (name, found, other) => {
  expect(causeOf(found)?.name).toBe(name);
  expect(causeOf(other)?.name).not.toBe(name);
});
