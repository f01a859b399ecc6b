import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ExitReason } from "../../src/vmm/exit.ts";
import {
  EXIT_HEAD,
  HEAD,
  MAGIC,
  RecordKind,
  Trace,
  TraceError,
  type TraceRecord,
  VERSION,
} from "../../src/vmm/trace.ts";
import { exitStatistics } from "../../src/vctl/exit-statistics.ts";
import { replay } from "../../src/vmd/replay.ts";
import { seedsOf } from "../differential/seeds.ts";
import { Choices, ChoicesWriter } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";

const folder = mkdtempSync(join(tmpdir(), "fuzz-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const file = join(folder, "trace");
const encoder = new TextEncoder();

const HEADERS: readonly unknown[] = [
  { engine: "unicorn", machine: { name: "t", kernel: "-", memory: 2 ** 20, epoch: 0 } },
  { engine: "kvm", machine: { kernel: "-", memory: 2 ** 20, epoch: 1e12, debugExit: true } },
  { engine: "unicorn", machine: { kernel: "-", memory: 2 ** 20, epoch: 0, backed: true } },
  { engine: "unicorn", machine: { kernel: "-", memory: 1e300, epoch: 8.64e15 } },
  { engine: "unicorn", machine: { kernel: "-", memory: 2 ** 30 + 1, epoch: -1 } },
];
const KINDS = Object.values(RecordKind);
const { IO, MMIO, RDMSR, WRMSR, HLT } = ExitReason;
const REASONS = [IO, MMIO, RDMSR, WRMSR, HLT] as const;
const PORTS = [
  ...[0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x43, 0x61, 0x70, 0x71, 0x3f8, 0x3f9, 0x3fb, 0x3fd],
  ...[0xcf8, 0xcfc, 0xcfe, 0x510, 0x511, 0x514, 0x518, 0xf4, 0x64, 0x92, 0xcf9, 0xffff],
] as const;
/** Times, addresses: what is whole and small, what is barely taken, what no machine has. */
const NUMBERS = [0, 1, 0xffff, 0x10000, 2 ** 32, 2 ** 53 - 1, 2 ** 53, -1, 0.5, NaN, Infinity];
const KEEP = NUMBERS.length;

function number(choices: Choices, usual: number): number {
  const which = choices.u8();
  if (which < KEEP) return NUMBERS[which];
  return which === 255 ? choices.u32() : usual;
}

function exit(view: DataView, choices: Choices): Uint8Array {
  const reason = choices.of(REASONS);
  const how = choices.u8();
  const port = reason === IO;
  const msr = reason === RDMSR || reason === WRMSR;
  const fits = port || reason === MMIO;
  const size = fits ? 1 << (how & 3) : msr ? 8 : 0;
  const count = port ? 1 + (how >> 6) : fits || msr ? 1 : 0;
  const write = reason === WRMSR || (fits && (how & 4) !== 0);
  // Now and then what can't be.
  const odd = (how & 0x38) === 0x38;
  view.setUint8(0, odd ? choices.u8() : reason);
  view.setUint8(1, odd ? choices.u8() : Number(write));
  view.setUint8(2, odd ? choices.u8() : size);
  view.setUint32(4, odd ? choices.u32() : count, true);
  const place = port ? choices.of(PORTS) : fits ? 0xd0000000 + choices.u16() : choices.u32();
  view.setFloat64(8, number(choices, fits || msr ? place : 0), true);
  return choices.take(size * count);
}

function record(choices: Choices, before: number): { bytes: Uint8Array; now: number } {
  const kind = KINDS[choices.u8() % (KINDS.length + 1)] ?? choices.u8();
  const now = number(choices, before + choices.u16());
  const space = new Uint8Array(EXIT_HEAD);
  const view = new DataView(space.buffer);
  let head = 8;
  let data = new Uint8Array(0);
  switch (kind) {
    case RecordKind.EXIT:
      head = EXIT_HEAD;
      data = exit(view, choices).slice();
      break;
    case RecordKind.INTERRUPT:
    case RecordKind.REQUEST:
      view.setUint32(0, choices.u8() % 5 === 4 ? choices.u32() : choices.u8(), true);
      break;
    case RecordKind.MEMORY:
      view.setFloat64(0, number(choices, choices.u32()), true);
      data = choices.take(choices.u8()).slice();
      break;
    case RecordKind.RESET:
      view.setFloat64(0, number(choices, 1e12), true);
      break;
    default:
      head = 0;
      data = choices.take(choices.u8()).slice();
  }
  const bytes = new Uint8Array(HEAD + head + data.length);
  const whole = new DataView(bytes.buffer);
  whole.setUint8(0, kind);
  whole.setUint16(2, data.length, true);
  whole.setFloat64(8, kind === RecordKind.RESET ? before : now, true);
  bytes.set(space.subarray(0, head), HEAD);
  bytes.set(data, HEAD + head);
  return { bytes, now: kind === RecordKind.RESET ? 0 : Number.isFinite(now) ? now : before };
}

const How = { RAW: 1, FILE: 2, CUT: 4 } as const;

/** A trace, and where its records begin and the last one ends. */
function encode(choices: Choices): { bytes: Uint8Array; places: Set<number> } {
  const which = choices.u8();
  const header =
    which < HEADERS.length
      ? encoder.encode(JSON.stringify(HEADERS[which]))
      : new Uint8Array(choices.take(choices.u8()));
  const start = new Uint8Array(16);
  start.set(encoder.encode(MAGIC));
  new DataView(start.buffer).setUint32(8, VERSION, true);
  new DataView(start.buffer).setUint32(12, header.length, true);
  const parts: Uint8Array[] = [start, header];
  let end = start.length + header.length;
  const places = new Set([end]);
  for (let now = 0; !choices.ended;) {
    const next = record(choices, now);
    parts.push(next.bytes);
    now = next.now;
    places.add((end += next.bytes.length));
  }
  return { bytes: new Uint8Array(Buffer.concat(parts)), places };
}

/** What everybody who is given records relies on. */
function check(one: TraceRecord, before: number): void {
  must(one.now >= before && one.now <= Number.MAX_SAFE_INTEGER, `time goes to ${one.now}`);
  if (one.kind === "interrupt") must(one.vector <= 255, `the vector ${one.vector}`);
  if (one.kind === "reset") must(!Number.isNaN(new Date(one.epoch).getTime()), "no date");
  if (one.kind === "memory") must(Number.isSafeInteger(one.address), "no address");
  if (one.kind !== "exit") return;
  must(one.data.length === one.size * one.count, `${one.data.length} bytes of an exit's data`);
  must(Number.isSafeInteger(one.address) && one.address >= 0, "no address");
  if (one.reason === IO) must([1, 2, 4].includes(one.size) && one.address <= 0xffff, "no port");
}

/** How many records there are, and what is said of the first that is none. */
function readAll(trace: Trace): { count: number; said: string } {
  let count = 0;
  let last = 0;
  try {
    for (const one of trace.records()) {
      check(one, last);
      last = one.kind === "reset" ? 0 : one.now;
      count++;
    }
  } catch (error) {
    return { count, said: sentence(error, trace.path) };
  }
  return { count, said: "" };
}

/** @throws what is no TraceError, or whose message is no sentence about the file */
function sentence(error: unknown, path: string): string {
  if (!(error instanceof TraceError)) throw error;
  const { message } = error;
  must(message.startsWith(`${path}: `) && message.length < 400, `it says: ${message}`);
  // oxlint-disable-next-line no-control-regex
  must(!/[\x00-\x1f\x7f]/.test(message), "a message with a control character");
  return message;
}

/** @returns undefined where it is refused by a sentence */
function asked<T>(path: string, what: () => T): T | undefined {
  try {
    return what();
  } catch (error) {
    sentence(error, path);
    return undefined;
  }
}

const at = (kind: number) => new ChoicesWriter().u8(kind, 200).u16(1000);

export const target: Target = {
  name: "trace",
  about: "exit traces: counted and run again, or refused by a sentence that says where",
  maxInput: 4096,
  steps: 4_000_000,
  // Each reset makes a machine anew: there may be a thousand.
  memory: 2 ** 30,
  dictionary: [MAGIC, '{"engine":"","machine":{}}', "null", "1e999"].map((word) =>
    encoder.encode(word),
  ),
  *seeds() {
    // An OUT to COM1, an IN of its status, a timer, a key, MMIO, an MSR, a reset, and again.
    const out = [...at(0).u8(0, 4, 10, 200, 65).done()];
    const status = [...at(0).u8(0, 0, 13, 200, 0x60).done()];
    const wide = [...at(0).u8(0, 2, 15, 200, 0xff, 0xff, 0xff, 0xff).done()];
    const mmio = [...at(0).u8(1, 6).u16(0).u8(200, 1, 2, 3, 4).done()];
    const msr = [...at(0).u8(2, 0).u32(0x10).u8(200, 1, 2, 3, 4, 5, 6, 7, 8).done()];
    const tick = [...at(2).u8(0).done()];
    const key = [...at(3).u8(1, 120).done()];
    const memory = [...at(4).u32(0x1000).u8(200, 4, 1, 2, 3, 4).done()];
    const reset = [...at(5).u8(200).done()];
    const request = [...at(6).u8(0, 1).done()];
    const interrupt = [...at(1).u8(0, 32).done()];
    yield Uint8Array.from([0, 0, ...out, ...status, ...wide, ...tick, ...key, ...mmio, ...msr]);
    yield Uint8Array.from([0, 1, ...out, ...reset, ...out, ...memory, ...request, ...out]);
    yield Uint8Array.from([0, 2, ...out]);
    yield Uint8Array.from([0, 3, ...out]);
    yield Uint8Array.from([How.FILE, 0, ...key, ...interrupt, ...tick, ...status]);
    const some = [0, ...out, ...reset, ...tick, ...msr];
    const plain = encode(new Choices(Uint8Array.from(some))).bytes;
    yield Uint8Array.from([How.RAW, ...plain]);
    for (const cut of [1, 9, 30, 60, 100]) yield Uint8Array.from([How.CUT, cut, 0, ...some]);
  },
  run(input) {
    const choices = new Choices(input);
    const how = choices.u8();
    const cut = (how & How.CUT) !== 0 ? choices.u16() : 0;
    const whole = (how & How.RAW) !== 0 ? undefined : encode(choices);
    const all = whole?.bytes ?? choices.rest();
    const bytes = all.subarray(0, all.length - (cut % (all.length + 1)));
    const trace = asked("trace", () => new Trace("trace", bytes));
    if ((how & How.FILE) !== 0) {
      writeFileSync(file, bytes);
      const again = asked(file, () => Trace.open(file));
      must((again === undefined) === (trace === undefined), "as a file it is another");
      if (again !== undefined && trace !== undefined) {
        must(readAll(again).count === readAll(trace).count, "as a file it has other records");
      }
    }
    if (trace === undefined) return;
    const { count, said } = readAll(trace);
    const atPlace = whole === undefined || whole.places.has(bytes.length);
    must(said !== "" || atPlace, "half a record is taken for a whole one");
    const statistics = asked("trace", () => exitStatistics(trace));
    const seeds = asked("trace", () => [...seedsOf(trace)].length);
    must((statistics === undefined) === (said !== ""), "damage that not everybody finds");
    must(seeds === undefined || seeds <= count, `${seeds} seeds of ${count} records`);
    const offset = Number(/at offset (\d+)$/.exec(said)?.[1] ?? 0);
    must(offset <= bytes.length, `damaged at offset ${offset} of ${bytes.length}`);
    const result = asked("trace", () => replay(trace));
    if (result?.difference === undefined) return;
    // oxlint-disable-next-line no-control-regex
    must(!/[\x00-\x1f\x7f]/.test(result.difference), "a difference with a control character");
    must(/^exit \d+, guest time [\d.e+]+ ns/.test(result.difference), result.difference);
  },
};
