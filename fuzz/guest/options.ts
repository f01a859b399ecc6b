/** What a guest is fuzzed with, from words to values: places, ends, crashes. */
import { FuzzError } from "./machine.ts";
import type { Symbols } from "./symbols.ts";

/** What `openGuest` is told: JSON, so that workers and crash bundles can have it. */
export interface GuestOptions {
  /** A snapshot or a kernel: an absolute path. */
  readonly file: string;
  readonly engine?: "kvm" | "unicorn";
  /** Of a kernel's machine: as `vctl start -m`, and its arguments. */
  readonly memory?: number;
  readonly cmdline?: string;
  readonly initrd?: string;
  readonly disks?: readonly string[];
  /** Files with names of addresses. */
  readonly symbols?: readonly string[];
  /** Typed at COM1 before anything else. */
  readonly type?: string;
  /**
   * Where runs begin: an address, "print:TEXT" that the guest prints, "now", or "ready": the guest
   * says READY. Absent: with an input's place now, else "ready".
   */
  readonly start?: string;
  /** parseInput. */
  readonly input?: string;
  /** Where the input's length goes: "ADDRESS,4", "ADDRESS,8" or a register. */
  readonly length?: string;
  /** Addresses at which a run is done. */
  readonly end?: readonly string[];
  /** parseCrash. */
  readonly crash?: readonly string[];
  /** parseRange: only blocks there count. */
  readonly coverage?: readonly string[];
  /** A module that says what inputs look like (structure.ts). */
  readonly structure?: string;
  /** A file of where blocks begin (blocks.ts), which engine kvm needs to tell coverage. */
  readonly blocks?: string;
  /** Blocks of a run; on engine kvm ns. */
  readonly budget?: number;
  /** Every so many runs the reset is compared with the point; 0: never. */
  readonly verify?: number;
  /** Blocks, or bytes, that may pass until the start; guest seconds. */
  readonly patience?: number;
}

/** Registers, by their number in instructions. */
export const REGISTERS = [
  ...["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"],
  ...["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"],
] as const;
export type RegisterName = (typeof REGISTERS)[number];

/** A linear address: digits, a symbol, or a register's value at the point, and what is added. */
export type Place =
  | { readonly kind: "address"; readonly address: bigint }
  | { readonly kind: "register"; readonly register: RegisterName; readonly offset: bigint };

/** @throws FuzzError */
export function parsePlace(text: string, symbols: Symbols): Place {
  const [, name, sign, offset] = /^([^+-]+)(?:([+-])((?:0x)?[0-9a-fA-F]+))?$/.exec(text) ?? [];
  if (name === undefined) throw new FuzzError(`${text}: not an address`);
  const added = offset === undefined ? 0n : number(offset) * (sign === "-" ? -1n : 1n);
  const register = name.toLowerCase() as RegisterName;
  if (REGISTERS.includes(register)) return { kind: "register", register, offset: added };
  if (/^(0x[0-9a-fA-F]+|[0-9]+)$/.test(name))
    return { kind: "address", address: number(name) + added };
  const address = symbols.address(name);
  if (address === undefined) throw new FuzzError(`${name}: no such symbol`);
  return { kind: "address", address: address + added };
}

/** @throws FuzzError */
export function parseAddress(text: string, symbols: Symbols): bigint {
  const place = parsePlace(text, symbols);
  if (place.kind === "register")
    throw new FuzzError(`${text}: an address is wanted, not a register`);
  return BigInt.asUintN(64, place.address);
}

const number = (text: string) =>
  BigInt(/^0x/i.test(text) || /^[0-9]+$/.test(text) ? text : `0x${text}`);

/** How an input reaches the guest. */
export type InputChannel =
  | { readonly kind: "memory"; readonly place: Place; readonly size: number }
  /** The first bytes of a disk. */
  | { readonly kind: "disk"; readonly index: number; readonly size: number }
  /** A frame for an interface. */
  | { readonly kind: "net"; readonly index: number; readonly size: number }
  /** What IN finds at a port, byte after byte; then the run is done. */
  | { readonly kind: "port"; readonly port: number; readonly size: number }
  /** Typed at COM1. */
  | { readonly kind: "console"; readonly size: number };

/** Bytes of an input, where nothing else is said. */
const SIZE = 4096;
const SIZE_MAX = 2 ** 20;

/**
 * "ADDRESS,SIZE", "disk:N[,SIZE]", "net:N[,SIZE]", "port:NUMBER[,SIZE]", "console[,SIZE]".
 * @throws FuzzError
 */
export function parseInput(text: string, symbols: Symbols): InputChannel {
  const comma = text.lastIndexOf(",");
  const what = comma < 0 ? text : text.slice(0, comma);
  const size = comma < 0 ? SIZE : Number(text.slice(comma + 1));
  if (!Number.isInteger(size) || size < 1 || size > SIZE_MAX) {
    throw new FuzzError(`${text}: an input has 1 to ${SIZE_MAX} bytes`);
  }
  if (what === "console") return { kind: "console", size };
  const [, kind, at] = /^(disk|net|port):(.+)$/.exec(what) ?? [];
  if (kind === undefined) {
    if (comma < 0) throw new FuzzError(`${text}: ADDRESS,SIZE is wanted`);
    return { kind: "memory", place: parsePlace(what, symbols), size };
  }
  const index = Number(at);
  const most = kind === "port" ? 0xffff : 15;
  if (!Number.isInteger(index) || index < 0 || index > most) {
    throw new FuzzError(`${text}: ${at} is no ${kind === "port" ? "port" : "device's number"}`);
  }
  return kind === "port"
    ? { kind, port: index, size }
    : { kind: kind as "disk" | "net", index, size };
}

/** What is a crash, besides a triple fault and what the guest says itself. */
export type CrashSource =
  | { readonly kind: "address"; readonly address: bigint; readonly name: string }
  /** The guest's handler of an exception is entered. */
  | { readonly kind: "exception"; readonly vector: number }
  /** The guest prints this. */
  | { readonly kind: "printed"; readonly text: string }
  /** The guest sleeps, and nothing can wake it. */
  | { readonly kind: "halt" };

/** "ADDRESS", "exception:VECTOR", "print:TEXT", "halt". @throws FuzzError */
export function parseCrash(text: string, symbols: Symbols): CrashSource {
  if (text === "halt") return { kind: "halt" };
  if (text.startsWith("print:") && text.length > 6) return { kind: "printed", text: text.slice(6) };
  if (text.startsWith("exception:")) {
    const vector = Number(text.slice(10));
    if (!Number.isInteger(vector) || vector < 0 || vector > 31) {
      throw new FuzzError(`${text}: exceptions have the vectors 0 to 31`);
    }
    return { kind: "exception", vector };
  }
  return { kind: "address", address: parseAddress(text, symbols), name: text };
}

/** "ADDRESS,4", "ADDRESS,8", or a register. @throws FuzzError */
export function parseLength(
  text: string,
  symbols: Symbols,
): { readonly register: RegisterName } | { readonly place: Place; readonly size: 4 | 8 } {
  const register = text.toLowerCase() as RegisterName;
  if (REGISTERS.includes(register)) return { register };
  const [, at, size] = /^(.+),([48])$/.exec(text) ?? [];
  if (at === undefined)
    throw new FuzzError(`${text}: a register, ADDRESS,4 or ADDRESS,8 is wanted`);
  return { place: parsePlace(at, symbols), size: Number(size) as 4 | 8 };
}

/** "FROM-TO", or "module:NAME" of Linux. @throws FuzzError */
export function parseRange(text: string, symbols: Symbols): { from: bigint; to: bigint } {
  if (text.startsWith("module:")) {
    const range = symbols.module(text.slice(7));
    if (range === undefined) throw new FuzzError(`${text}: no symbols of such a module`);
    return range;
  }
  const dash = text.lastIndexOf("-");
  if (dash < 1) throw new FuzzError(`${text}: FROM-TO is wanted`);
  const from = parseAddress(text.slice(0, dash), symbols);
  const to = parseAddress(text.slice(dash + 1), symbols);
  if (to <= from) throw new FuzzError(`${text}: it ends before it begins`);
  return { from, to };
}
