/** Whatever way an instruction has to write memory or a register: a point undoes it. */
import { expect, test } from "bun:test";
import { CPU_LAYOUT } from "../cpu-codec.ts";
import { CR4 } from "../cpu.ts";
import { Capability, Engine, type EngineName } from "../engine.ts";
import { MachineImage } from "../image.ts";
import { type Point, RunEnd } from "../point.ts";
import { code, engines, flatState, GDT, gate, machine, next, RAM } from "./machine.ts";

const PORT = 0x500;
/** An IRET and a far return, for what calls. */
const IRET = 0x1800;
const RETF = 0x1810;
const VECTOR = 0x40;
// mov dx, 0x500; out dx, eax
const END = "66 ba 00 05 ef f4";
/** More than it takes to learn which pages are written often. */
const ROUNDS = 20;

const virtual = (name: EngineName) => {
  using image = new MachineImage(RAM);
  using engine = Engine.open(name, image);
  return engine.can(Capability.VIRTUAL_TIME);
};
const fast = engines.find(virtual) as EngineName;

/** Memory is 0 there, but for the code; lines of 64 bytes end at 0x9040, pages at 0xa000. */
const STORES: Record<string, string> = {
  "a byte at a line's end": "c6 05 3f900000 05",
  "a word across lines": "66 c7 05 3f900000 0505",
  "a double word across lines": "c7 05 3e900000 44332211",
  "a double word across pages": "c7 05 fe9f0000 44332211",
  "an increment": "ff 05 3e900000",
  "a locked increment": "f0 ff 05 3e900000",
  "a locked XADD": "b8 07000000 f0 0fc1 05 3e900000",
  "an XCHG": "b8 07000000 87 05 3e900000",
  "a CMPXCHG": "31c0 b9 07000000 0fb1 0d 3e900000",
  "a locked CMPXCHG": "31c0 b9 07000000 f0 0fb1 0d 3e900000",
  "a CMPXCHG8B": "31c0 31d2 bb 07000000 0fc7 0d 3c900000",
  "a locked CMPXCHG8B": "31c0 31d2 bb 07000000 f0 0fc7 0d 3c900000",
  "a BTS": "b8 1f000000 0fab 05 3e900000",
  "a SETE": "31c0 0f94 05 3f900000",
  "a SHLD": "83c8 ff b1 1f c7 05 3e900000 01000000 0fa5 05 3e900000",
  "a REP STOSB": "bf 30900000 b9 20000000 b0 07 f3aa",
  "a REP MOVSD": "be 00100000 bf ee9f0000 b9 20000000 f3a5",
  "a PUSHA": "bc 08a00000 60",
  "a CALL": "bc 02a00000 e8 00000000",
  "an ENTER": "bc 1ea00000 bd 00b00000 c84000 02",
  "an interrupt's frame": "bc 06a00000 cd 40",
  "a far CALL": "bc 06a00000 9a 10180000 0800",
  "a descriptor's accessed bit": "b8 10000000 8ee0",
  "an SGDT": "0f01 05 3c900000",
  "an FSTP of 64 bits": "d9e8 dd1d 3c900000",
  "an FSTP of 80 bits": "d9e8 db3d 38900000",
  "an FBSTP": "d9e8 df35 38900000",
  "an FISTP": "d9e8 df3d 3c900000",
  "an FNSTENV": "d935 30900000",
  "an FNSAVE": "dd35 c09f0000",
  "an FXSAVE": "0fae 05 c09f0000",
  "an STMXCSR": "0fae 1d 3e900000",
  "a MOVNTI": "b8 07000000 0fc3 05 3e900000",
  "a MOVQ from MMX": "0f76c0 0f7f 05 3c900000",
  "a MOVUPS": "660f76c0 0f11 05 38900000",
  "a MOVNTPS": "660f76c0 0f2b 05 f09f0000",
  "a MASKMOVDQU": "660f76c0 bf f89f0000 660ff7c0",
};

const REGISTERS: Record<string, string> = {
  XMM0: "660f76c0",
  "XMM7, behind a jump": "eb00 660f76ff",
  "XMM1 by MOVD": "b8 07000000 660f6ec8",
  "XMM2 by CVTSI2SD": "b8 07000000 f20f2ad0",
  "all of FXRSTOR's": "0fae 0d 00100100",
  MXCSR: "c7 05 00900000 801f0000 810d 00900000 00200000 0fae 15 00900000",
  MM0: "0f76c0",
  ST0: "d9e8",
  "the x87's control word": "66c7 05 00900000 7f0c d92d 00900000",
  "a debug register": "b8 07000000 0f23c0",
  CR2: "b8 07000000 0f22d0",
  "a segment's base": "b8 10000000 8ee8",
};

function prepared(program: string) {
  const m = machine(fast, program, { time: { virtual: true } });
  const { image, engine } = m;
  image.memory.write(IRET, code("cf"));
  image.memory.write(RETF, code("cb"));
  gate(image, VECTOR, IRET);
  // Its accessed bit is off.
  image.memory.write8(GDT + 0x15, 0x92);
  // What FXRSTOR finds: MXCSR 0x1f80, XMM0 to XMM7.
  image.memory.write(0x11018, code("801f0000"));
  image.memory.fill(0x110a0, 128, 0x11);
  engine.setCpu(flatState({ cr4: CR4.OSFXSR }));
  return m;
}

/** Runs that are equal, each of which leaves all as it was. */
function expectUndone(point: Point): void {
  point.port = PORT;
  point.place = { segments: [] };
  let spent: number | undefined;
  for (let round = 0; round < ROUNDS; round++) {
    expect(point.run(0, true)).toBe(RunEnd.PORT);
    expect(point.differs).toBe(false);
    spent ??= point.spent;
    expect(point.spent).toBe(spent);
  }
  expect(point.reset()).toBeGreaterThanOrEqual(0);
  expect(point.difference()).toBeUndefined();
}

for (const [what, text] of [...Object.entries(STORES), ...Object.entries(REGISTERS)]) {
  test.skipIf(fast === undefined)(`a point undoes ${what}`, () => {
    using m = prepared(`${text} ${END}`);
    using point = m.engine.takePoint();
    expectUndone(point);
  });
}

test.skipIf(fast === undefined)(
  "stores by code that ran before there was a point are undone",
  () => {
    // add dword [0x903e], 1; cmp dword [0x903e], 1; jne +3; hlt; jmp back; end
    using m = prepared(`83 05 3e900000 01  83 3d 3e900000 01  75 03  f4  eb ed  ${END}`);
    expect(next(m.engine)).toBe("HLT");
    using point = m.engine.takePoint();
    expectUndone(point);
    expect(m.image.memory.read32(0x903e)).toBe(1);
  },
);

test.skipIf(fast === undefined)("a register that the host has set goes back, too", () => {
  using m = prepared(END);
  using point = m.engine.takePoint();
  expectUndone(point);
  m.engine.cpuBytes();
  const { cpu } = m.image;
  // struct kvm_fpu: XMM3
  new Uint8Array(cpu.buffer, cpu.byteOffset + CPU_LAYOUT.fpu + 160 + 3 * 16, 16).fill(7);
  m.engine.loadCpu();
  expect(point.difference()).toBeString();
  expectUndone(point);
});

test.skipIf(fast === undefined)(
  "what a device writes into lines that no run has written is undone",
  () => {
    using m = prepared(`c6 05 00900000 05 ${END}`);
    using point = m.engine.takePoint();
    expectUndone(point);
    // The page is one that stays writable by now.
    m.image.memory.write(0x9ffe, code("01020304"));
    expect(point.difference()).toBeString();
    expectUndone(point);
    expect(m.image.memory.read32(0x9ffe)).toBe(0);
  },
);
