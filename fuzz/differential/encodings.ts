/**
 * The instructions that sequences are made of, by opcode: Intel SDM vol. 2, appendix A. Absent are
 * those that only measure the host (RDTSC, RDRAND), that ask a hypervisor (VMCALL), and what no engine's
 * CPUID offers.
 */

/** An immediate: bytes; "z" 2 or 4 by operand size; "v" 8 with REX.W too; "o" by address size. */
type Immediate = 0 | 1 | 2 | 3 | "z" | "v" | "o" | "far";

export interface Encoding {
  readonly opcode: readonly number[];
  /** The prefix that is part of it. */
  readonly mandatory: number;
  /** Has a ModRM byte; `digit` is its reg field, -1 for any. */
  readonly modrm: boolean;
  readonly digit: number;
  /** Which forms of ModRM: both, "m" memory, "r" register. */
  readonly form: "" | "m" | "r";
  readonly immediate: Immediate;
  /** A branch: its immediate leads a few bytes ahead. */
  readonly branch: boolean;
  /** Not in 64-bit mode. */
  readonly legacy: boolean;
  readonly lockable: boolean;
  readonly string: boolean;
  /** How often, relative to the others. */
  readonly weight: number;
}

/**
 * Rows of text: opcode bytes (a range `40-47` stands for each; `+r` isn't needed), then what follows:
 * `/r` any ModRM, `/0` to `/7` a digit, `m` or `r` its form, `ib iw iz iv io ifar iwib` immediates,
 * `rel8 relz` branches, `no64`, `lock`, `rep`, `*N` weight.
 */
function parse(rows: string): Encoding[] {
  const encodings: Encoding[] = [];
  for (const row of rows.split("\n")) {
    const words = row.replace(/;.*/, "").trim().split(/\s+/);
    if (words[0] === "") continue;
    const bytes = words.filter((word) => /^[0-9a-f]{2}(-[0-9a-f]{2})?$/.test(word));
    const rest = words.filter((word) => !bytes.includes(word));
    const mandatory = rest.find((word) => /^(np|66|f2|f3):$/.test(word));
    const [from, to] = (bytes.at(-1) ?? "").split("-").map((byte) => parseInt(byte, 16));
    const lead = bytes.slice(0, -1).map((byte) => parseInt(byte, 16));
    const digits = rest.filter((word) => /^\/[0-7r]$/.test(word));
    for (let last = from; last <= (to ?? from); last++) {
      for (const digit of digits.length > 0 ? digits : [""]) {
        encodings.push(encoding([...lead, last], mandatory, digit, rest));
      }
    }
  }
  return encodings;
}

const IMMEDIATES: Record<string, Immediate> = {
  ib: 1,
  iw: 2,
  iwib: 3,
  iz: "z",
  iv: "v",
  io: "o",
  ifar: "far",
  rel8: 1,
  relz: "z",
};

function encoding(
  opcode: number[],
  mandatory: string | undefined,
  digit: string,
  rest: readonly string[],
): Encoding {
  const immediate = rest.find((word) => word in IMMEDIATES);
  const weight = rest.find((word) => word.startsWith("*"));
  return {
    opcode,
    mandatory: mandatory === undefined || mandatory === "np:" ? 0 : parseInt(mandatory, 16),
    modrm: digit !== "",
    digit: digit === "" || digit === "/r" ? -1 : Number(digit[1]),
    form: rest.includes("m") ? "m" : rest.includes("r") ? "r" : "",
    immediate: immediate === undefined ? 0 : IMMEDIATES[immediate],
    branch: immediate?.startsWith("rel") ?? false,
    legacy: rest.includes("no64"),
    lockable: rest.includes("lock"),
    string: rest.includes("rep"),
    weight: weight === undefined ? 1 : Number(weight.slice(1)),
  };
}

const ALU = Array.from({ length: 8 }, (_, operation) => {
  const hex = (low: number) => (operation * 8 + low).toString(16).padStart(2, "0");
  return `${hex(0)}-${hex(1)} /r lock *3
    ${hex(2)}-${hex(3)} /r *3
    ${hex(4)} ib
    ${hex(5)} iz`;
}).join("\n");

const DIGITS = "/0 /1 /2 /3 /4 /5 /6 /7";

/** Instructions on general registers, memory, flags, segments and control registers. */
export const SYSTEM: readonly Encoding[] = parse(`
  ${ALU}
  40-4f no64
  50-5f
  60-61 no64 *2
  62 /r m no64 *2
  63 /r *2
  68 iz
  69 /r iz *3
  6a ib
  6b /r ib *3
  6c-6f rep
  70-7f rel8
  80 ${DIGITS} ib lock
  81 ${DIGITS} iz lock
  82 ${DIGITS} ib no64
  83 ${DIGITS} ib lock
  84-85 /r *2
  86-87 /r lock *2
  88-8b /r *2
  8c /r *3
  8d /r m *2
  8e /r *6
  8f /0 *3
  90-99
  9a ifar no64 *2
  9c-9d *4
  9e-9f *2
  a0-a3 io *2
  a4-a7 rep *4
  a8 ib
  a9 iz
  aa-af rep *4
  b0-b7 ib
  b8-bf iv
  c0-c1 ${DIGITS} ib *2
  c2 iw *2
  c3 *2
  c4-c5 /r m no64 *2
  c6 /0 ib
  c7 /0 iz
  c8 iwib *3
  c9 *3
  ca iw *2
  cb *3
  cd ib *3
  ce no64 *2
  cf *6
  d0-d3 ${DIGITS} *2
  d4-d5 ib no64 *2
  d6 no64
  d7 *2
  27 no64 *2
  2f no64 *2
  37 no64 *2
  3f no64 *2
  e0-e3 rel8
  e4-e7 ib
  e8-e9 relz *2
  ea ifar no64 *2
  eb rel8
  ec-ef
  f1
  f4
  f5
  f6 /0 /1 ib *2
  f6 /2 /3 lock *2
  f6 /4 /5 /6 /7 *4
  f7 /0 /1 iz *2
  f7 /2 /3 lock *2
  f7 /4 /5 /6 /7 *4
  f8-fd
  fe /0 /1 lock
  ff /0 /1 lock
  ff /2 /3 /4 /5 /6 *2
  0f 00 /0 /1 /2 /3 /4 /5 *3
  0f 01 /0 /1 /2 /3 /7 m *3
  0f 01 /4 /6 *3
  0f 01 f8 *2
  0f 02-03 /r *3
  0f 05-09 *2
  0f 0b
  0f 0d /1
  0f 18 /0 /1 /2 /3 m
  0f 19-1f /r
  0f 20 /r *3
  0f 22 /r *4
  0f 34-35 *2
  0f 40-4f /r
  0f 80-8f relz
  0f 90-9f /r
  0f a0-a2
  0f a3 /r *3
  0f a4 /r ib *3
  0f a5 /r *3
  0f a8-a9
  0f ab /r lock *3
  0f ac /r ib *3
  0f ad /r *3
  0f af /r *4
  0f b0-b1 /r lock *3
  0f b2 /r m
  0f b3 /r lock *3
  0f b4-b5 /r m
  0f b6-b7 /r
  0f ba /4 ib *2
  0f ba /5 /6 /7 ib lock *2
  0f bb /r lock *3
  0f bc-bd /r *3
  0f be-bf /r
  0f c0-c1 /r lock *2
  0f c3 /r m
  0f c7 /1 m lock *4
  0f c8-cf
  f3: 0f b8 /r *2
  0f 38 f0-f1 /r m *2
  f2: 0f 38 f0-f1 /r *2
`);

const SSE_BOTH = "np 66".split(" ");

function each(prefixes: readonly string[], row: string): string {
  return prefixes.map((prefix) => `${prefix}: ${row}`).join("\n");
}

/** x87, MMX, SSE to SSE4.2, MSRs and debug registers: what only deep cases look at. */
export const DEEP: readonly Encoding[] = parse(`
  d8-df ${DIGITS} *3
  9b *2
  0f 77 *2
  0f 21 /r r *4
  0f 23 /r r *6
  0f 30 *8
  0f 32 *8
  0f 33 *2
  0f ae /0 /1 /2 /3 /7 m *4
  0f ae /5 /6 /7 r *2
  ${each(["np", "66", "f3", "f2"], "0f 10-17 /r")}
  ${each(SSE_BOTH, "0f 28-2f /r")}
  ${each(["f3", "f2"], "0f 2a /r *2")}
  ${each(["f3", "f2"], "0f 2c-2d /r *2")}
  ${each(SSE_BOTH, "0f 50 /r r")}
  ${each(["np", "66", "f3", "f2"], "0f 51-5f /r")}
  ${each(SSE_BOTH, "0f 60-6f /r")}
  f3: 0f 6f /r
  ${each(["np", "66", "f3", "f2"], "0f 70 /r ib")}
  ${each(SSE_BOTH, "0f 71-73 /2 /4 /6 ib r")}
  66: 0f 73 /3 /7 ib r *2
  ${each(SSE_BOTH, "0f 74-76 /r")}
  ${each(["66", "f2"], "0f 7c-7d /r")}
  ${each(SSE_BOTH, "0f 7e-7f /r")}
  f3: 0f 7e-7f /r
  ${each(["np", "66", "f3", "f2"], "0f c2 /r ib *2")}
  ${each(SSE_BOTH, "0f c4 /r ib")}
  ${each(SSE_BOTH, "0f c5 /r ib r")}
  ${each(SSE_BOTH, "0f c6 /r ib")}
  ${each(SSE_BOTH, "0f d1-ff /r")}
  ${each(["66", "f2"], "0f d0 /r")}
  ${each(["f3", "f2"], "0f d6 /r r")}
  ${each(["66", "f2", "f3"], "0f e6 /r")}
  f2: 0f f0 /r m
  ${each(SSE_BOTH, "0f 38 00-0b /r")}
  66: 0f 38 10 /r
  66: 0f 38 14-15 /r
  66: 0f 38 17 /r
  ${each(SSE_BOTH, "0f 38 1c-1e /r")}
  66: 0f 38 20-25 /r
  66: 0f 38 28-2b /r
  66: 0f 38 30-41 /r
  66: 0f 3a 08-0e /r ib
  ${each(SSE_BOTH, "0f 3a 0f /r ib")}
  66: 0f 3a 14-17 /r ib
  66: 0f 3a 20-22 /r ib
  66: 0f 3a 40-42 /r ib
  66: 0f 3a 60-63 /r ib *2
`);
