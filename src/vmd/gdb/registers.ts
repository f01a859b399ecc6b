/**
 * The registers that GDB sees, and their description for it (GDB manual, appendix G, "Target
 * Descriptions"). Always those of amd64, whatever mode the processor is in: GDB does not follow a
 * change while it is connected. QEMU does the same.
 */
import { CPU_LAYOUT, SEGMENTS } from "../../vmm/cpu-codec.ts";

/** Where a register is in struct vmm_cpu. */
interface Field {
  readonly name: string;
  /** As GDB has it, bits. */
  readonly bits: number;
  readonly type: string;
  readonly group?: string;
  readonly get: (cpu: DataView) => bigint;
  readonly set: (cpu: DataView, value: bigint) => void;
}

const SREGS = CPU_LAYOUT.sregs;
const FPU = CPU_LAYOUT.fpu;
const SEGMENT_SIZE = 24;
const CS_LONG = SREGS + 14 + 5;
const KERNEL_GS_BASE = 0xc0000102;
const LOW_32 = 0xffff_ffffn;

function read(cpu: DataView, offset: number, bytes: number): bigint {
  let value = 0n;
  for (let i = bytes - 1; i >= 0; i--) value = (value << 8n) | BigInt(cpu.getUint8(offset + i));
  return value;
}

function write(cpu: DataView, offset: number, bytes: number, value: bigint): void {
  let rest = value;
  for (let i = 0; i < bytes; i++, rest >>= 8n) cpu.setUint8(offset + i, Number(rest & 255n));
}

/** @param stored bytes in struct vmm_cpu. */
function at(name: string, bits: number, type: string, offset: number, stored = bits / 8): Field {
  return {
    name,
    bits,
    type,
    get: (cpu) => read(cpu, offset, stored),
    set: (cpu, value) => write(cpu, offset, stored, value),
  };
}

const GENERAL = [
  ...["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"],
  ...["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"],
];
/** struct kvm_regs */
const STORED = [
  ...["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"],
  ...["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"],
];

// Outside of 64-bit code there are 8 of 32 bits, as QEMU shows them.
const general = GENERAL.map((name, index): Field => {
  const field = at(
    name,
    64,
    name === "rbp" || name === "rsp" ? "data_ptr" : "int64",
    STORED.indexOf(name) * 8,
  );
  return {
    ...field,
    get: (cpu) => {
      if (cpu.getUint8(CS_LONG) !== 0) return field.get(cpu);
      return index < 8 ? field.get(cpu) & LOW_32 : 0n;
    },
  };
});

const segment = (name: (typeof SEGMENTS)[number]) => SREGS + SEGMENTS.indexOf(name) * SEGMENT_SIZE;

/** A selector that is written in real mode moves the base, as QEMU does it; else only it changes. */
function selector(name: (typeof SEGMENTS)[number]): Field {
  const offset = segment(name) + 12;
  return {
    ...at(name, 32, "int32", offset, 2),
    set: (cpu, value) => {
      write(cpu, offset, 2, value);
      const real = (cpu.getUint8(SREGS + 224) & 1) === 0;
      if (real) write(cpu, segment(name), 8, (value & 0xffffn) << 4n);
    },
  };
}

const st = Array.from({ length: 8 }, (_, i) => at(`st${i}`, 80, "i387_ext", FPU + i * 16));
const xmm = Array.from({ length: 16 }, (_, i) => at(`xmm${i}`, 128, "vec128", FPU + 152 + i * 16));

/** The tag word has two bits a register; what is stored says which are in use. */
const ftag: Field = {
  name: "ftag",
  bits: 32,
  type: "int",
  get: (cpu) => {
    const used = cpu.getUint8(FPU + 132);
    let tags = 0n;
    for (let i = 0; i < 8; i++) if ((used & (1 << i)) === 0) tags |= 3n << BigInt(2 * i);
    return tags;
  },
  set: (cpu, value) => {
    let used = 0;
    for (let i = 0; i < 8; i++) if (((value >> BigInt(2 * i)) & 3n) !== 3n) used |= 1 << i;
    cpu.setUint8(FPU + 132, used);
  },
};

const float = [
  at("fctrl", 32, "int", FPU + 128, 2),
  at("fstat", 32, "int", FPU + 130, 2),
  ftag,
  at("fiseg", 32, "int", FPU + 140, 2),
  at("fioff", 32, "int", FPU + 136, 4),
  at("foseg", 32, "int", FPU + 148, 2),
  at("fooff", 32, "int", FPU + 144, 4),
  at("fop", 32, "int", FPU + 134, 2),
].map((field) => ({ ...field, group: "float" }));

function msr(cpu: DataView, index: number): number | undefined {
  const count = cpu.getUint32(CPU_LAYOUT.msrCount, true);
  for (let i = 0; i < count; i++) {
    const offset = CPU_LAYOUT.msrs + i * 16;
    if (cpu.getUint32(offset, true) === index) return offset + 8;
  }
  return undefined;
}

const kernelGsBase: Field = {
  name: "k_gs_base",
  bits: 64,
  type: "int64",
  get: (cpu) => {
    const offset = msr(cpu, KERNEL_GS_BASE);
    return offset === undefined ? 0n : read(cpu, offset, 8);
  },
  set: (cpu, value) => {
    const offset = msr(cpu, KERNEL_GS_BASE);
    if (offset !== undefined) write(cpu, offset, 8, value);
  },
};

/** By feature, in the order of their numbers. */
const FEATURES: readonly { readonly name: string; readonly registers: readonly Field[] }[] = [
  {
    name: "org.gnu.gdb.i386.core",
    registers: [
      ...general,
      at("rip", 64, "code_ptr", 128),
      at("eflags", 32, "i386_eflags", 136, 4),
      ...(["cs", "ss", "ds", "es", "fs", "gs"] as const).map(selector),
      ...st,
      ...float,
    ],
  },
  {
    name: "org.gnu.gdb.i386.sse",
    registers: [...xmm, { ...at("mxcsr", 32, "i386_mxcsr", FPU + 408), group: "vector" }],
  },
  {
    name: "org.gnu.gdb.i386.segments",
    registers: [at("fs_base", 64, "int", segment("fs")), at("gs_base", 64, "int", segment("gs"))],
  },
  {
    name: "vmd.i386.system",
    registers: [
      kernelGsBase,
      ...["cr0", "cr2", "cr3", "cr4"].map((name, i) => at(name, 64, "int64", SREGS + 224 + i * 8)),
      at("cr8", 64, "int64", SREGS + 256),
      at("efer", 64, "int64", SREGS + 264),
    ],
  },
];

const ALL = FEATURES.flatMap(({ registers }) => registers);

export const REGISTER_COUNT = ALL.length;

function toHex(value: bigint, bits: number): string {
  let hex = "";
  let rest = value;
  for (let i = 0; i < bits; i += 8, rest >>= 8n) {
    hex += Number(rest & 255n)
      .toString(16)
      .padStart(2, "0");
  }
  return hex;
}

function fromHex(hex: string): bigint {
  return BigInt(`0x${Buffer.from(hex, "hex").reverse().toString("hex")}`);
}

/** A register's bytes in hexadecimal, in the target's order; undefined when there is none. */
export function registerHex(cpu: DataView, index: number): string | undefined {
  const field = ALL[index] as Field | undefined;
  return field && toHex(field.get(cpu), field.bits);
}

/** @returns whether there is such a register, and `hex` has its length. */
export function setRegisterHex(cpu: DataView, index: number, hex: string): boolean {
  const field = ALL[index] as Field | undefined;
  if (field === undefined || hex.length !== field.bits / 4 || !/^[0-9a-f]+$/i.test(hex)) {
    return false;
  }
  field.set(cpu, fromHex(hex));
  // The area of XSAVE would take precedence.
  if (field.type === "i387_ext" || field.group !== undefined || field.type === "vec128") {
    cpu.setUint32(CPU_LAYOUT.xsaveSize, 0, true);
  }
  return true;
}

/** All registers, as the packet `g` has them. */
export function allRegistersHex(cpu: DataView): string {
  return ALL.map((field) => toHex(field.get(cpu), field.bits)).join("");
}

/** What the packet `G` has. @returns whether it was all of them. */
export function setAllRegistersHex(cpu: DataView, hex: string): boolean {
  if (hex.length !== ALL.reduce((sum, { bits }) => sum + bits / 4, 0)) return false;
  if (!/^[0-9a-f]*$/i.test(hex)) return false;
  let from = 0;
  // Those that are as they were stay so: outside of 64-bit code not all is shown.
  ALL.forEach((field, index) => {
    const part = hex.slice(from, (from += field.bits / 4));
    if (part.toLowerCase() !== registerHex(cpu, index)) setRegisterHex(cpu, index, part);
  });
  return true;
}

const FLAGS = [
  ...["CF:0", ":1", "PF:2", "AF:4", "ZF:6", "SF:7", "TF:8", "IF:9", "DF:10", "OF:11"],
  ...["NT:14", "RF:16", "VM:17", "AC:18", "VIF:19", "VIP:20", "ID:21"],
];
const MXCSR = [
  ...["IE:0", "DE:1", "ZE:2", "OE:3", "UE:4", "PE:5", "DAZ:6"],
  ...["IM:7", "DM:8", "ZM:9", "OM:10", "UM:11", "PM:12", "FZ:15"],
];

function flags(id: string, fields: readonly string[]): string {
  const list = fields.map((field) => {
    const [name, bit] = field.split(":");
    return `<field name="${name}" start="${bit}" end="${bit}"/>`;
  });
  return `<flags id="${id}" size="4">${list.join("")}</flags>`;
}

const VECTORS = [
  ["v4f", "ieee_single", 4],
  ["v2d", "ieee_double", 2],
  ["v16i8", "int8", 16],
  ["v8i16", "int16", 8],
  ["v4i32", "int32", 4],
  ["v2i64", "int64", 2],
] as const;

function vectors(): string {
  const each = VECTORS.map(
    ([id, type, count]) => `<vector id="${id}" type="${type}" count="${count}"/>`,
  );
  const names = ["v4_float", "v2_double", "v16_int8", "v8_int16", "v4_int32", "v2_int64"];
  const fields = names.map((name, i) => `<field name="${name}" type="${VECTORS[i][0]}"/>`);
  return (
    `${each.join("")}<union id="vec128">${fields.join("")}` +
    '<field name="uint128" type="uint128"/></union>'
  );
}

const TYPES: Record<string, string> = {
  "org.gnu.gdb.i386.core": flags("i386_eflags", FLAGS),
  "org.gnu.gdb.i386.sse": vectors() + flags("i386_mxcsr", MXCSR),
};

/** target.xml */
export function targetDescription(): string {
  const features = FEATURES.map(({ name, registers }) => {
    const list = registers.map((field) => {
      const group = field.group === undefined ? "" : ` group="${field.group}"`;
      return `<reg name="${field.name}" bitsize="${field.bits}" type="${field.type}"${group}/>`;
    });
    return `<feature name="${name}">\n${TYPES[name] ?? ""}\n${list.join("\n")}\n</feature>`;
  });
  return (
    '<?xml version="1.0"?>\n<!DOCTYPE target SYSTEM "gdb-target.dtd">\n<target>\n' +
    `<architecture>i386:x86-64</architecture>\n${features.join("\n")}\n</target>\n`
  );
}
