/**
 * A boot that was recorded on one engine as cases: each of its accesses to a port or to MMIO, once, as
 * the instruction that makes it. Both engines must exit as the record says.
 */
import { ExitReason } from "../../src/vmm/exit.ts";
import type { ExitRecord, Trace } from "../../src/vmm/trace.ts";
import { type Case, FPU_SIZE, STATE, STATE_SIZE } from "./case.ts";
import { CODE, MEMORY_SIZE } from "./layout.ts";
import { Random } from "./random.ts";
import { randomState, set64 } from "./states.ts";

export interface Seed {
  readonly it: Case;
  /** What the exit must be, as Target.what shows it. */
  readonly expected: string;
}

const RAX = 0;
const RBX = 8;
const RDX = 24;
/** MOV of AL, AX and EAX from [EBX] and to it; IN and OUT by DX. */
const LOAD: Record<number, number[]> = { 1: [0x8a, 0x03], 2: [0x66, 0x8b, 0x03], 4: [0x8b, 0x03] };
const STORE: Record<number, number[]> = { 1: [0x88, 0x03], 2: [0x66, 0x89, 0x03], 4: [0x89, 0x03] };
const IN: Record<number, number[]> = { 1: [0xec], 2: [0x66, 0xed], 4: [0xed] };
const OUT: Record<number, number[]> = { 1: [0xee], 2: [0x66, 0xef], 4: [0xef] };

/** One for each different access of the trace, in its order. @throws TraceError */
export function* seedsOf(trace: Trace): Generator<Seed> {
  const seen = new Set<string>();
  for (const record of trace.records()) {
    if (record.kind !== "exit") continue;
    const seed = seedOf(record);
    if (seed === undefined || seen.has(seed.expected)) continue;
    seen.add(seed.expected);
    yield seed;
  }
}

/** @returns undefined for an exit that no access of 1, 2 or 4 bytes below 4 GiB makes. */
export function seedOf({ reason, direction, size, address, data }: ExitRecord): Seed | undefined {
  const isPort = reason === ExitReason.IO;
  if (!isPort && reason !== ExitReason.MMIO) return undefined;
  if (!isPort && (address < MEMORY_SIZE || address % size !== 0)) return undefined;
  const written = direction === 1;
  const table = isPort ? (written ? OUT : IN) : written ? STORE : LOAD;
  const code = table[size];
  if (code === undefined || address > 0xffffffff) return undefined;
  const item = data.subarray(0, size);
  const it = flatCase(Uint8Array.from(code));
  const view = new DataView(it.state.buffer);
  set64(view, isPort ? RDX : RBX, address);
  it.state.fill(0, RAX, RAX + 8);
  if (written) it.state.set(item, RAX);
  const verb = isPort ? (written ? "out" : "in") : written ? "write" : "read";
  const shown = written ? ` ${item.toHex()}` : "";
  return { it, expected: `${verb} 0x${address.toString(16)}/${size}${shown}` };
}

/** Ring 0 of 32-bit protected mode. */
function flatCase(code: Uint8Array): Case {
  const random = new Random();
  const it: Case = {
    mode: "prot32",
    cpl: 0,
    deep: false,
    at: CODE,
    code,
    state: new Uint8Array(STATE_SIZE),
    fpu: new Uint8Array(FPU_SIZE),
    patches: [],
  };
  // The first whose DS is flat.
  for (let index = 0; index === 0 || it.state[DS_SELECTOR] !== FLAT; index++) {
    random.seed(0, index);
    randomState(random, it);
  }
  it.at = CODE;
  const view = new DataView(it.state.buffer);
  set64(view, STATE.rip, CODE);
  set64(view, STATE.rflags, 2);
  return it;
}

const DS_SELECTOR = STATE.segments + STATE.segmentSize + 12;
const FLAT = 0x3b;
