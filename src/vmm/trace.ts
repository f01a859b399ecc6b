/**
 * Exits as data: a trace is a file of records, one per exit, with what was answered, and of
 * everything else that reached the guest or its devices: interrupts, timers, input, and the guest
 * memory that devices read. So the device models run again from it with no engine.
 *
 * ```
 * "VMDTRACE" u32 version, u32 length, JSON of that length: the machine and what it booted
 * records: u8 kind, u8 flags, u16 length of data, u32 handled (ns), f64 guest time (ns), then
 *   EXIT       u8 reason, u8 direction, u8 size, u8 0, u32 count, f64 port or address, u64 RIP, data
 *   INTERRUPT  u32 vector, u32 0
 *   TICK       (timers that were due ran)
 *   INPUT      data: bytes for the guest's console
 *   MEMORY     f64 address, data: what a device read there before the next exit's answer
 * ```
 * All little-endian. Data of an IN or an MMIO read is the answer. RIP is 0 where the engine did
 * not bring registers.
 */
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { ExitReason, RunPage } from "./exit.ts";

const MAGIC = "VMDTRACE";
const VERSION = 1;
const HEAD = 16;
const EXIT_HEAD = 24;
const BUFFER = 1 << 18;
const LARGEST = HEAD + EXIT_HEAD + 0xffff;

export const RecordKind = { EXIT: 1, INTERRUPT: 2, TICK: 3, INPUT: 4, MEMORY: 5 } as const;

/** An exit and its answer. */
export interface ExitRecord {
  kind: "exit";
  /** Guest time, ns. */
  now: number;
  /** Host time that the answer took, ns. */
  handled: number;
  reason: number;
  /** IO: 1 for OUT; MMIO: 1 for a write. */
  direction: number;
  /** Bytes of one item. */
  size: number;
  /** Items. */
  count: number;
  /** I/O port, guest-physical address, or MSR index. */
  address: number;
  rip: bigint;
  data: Uint8Array;
}

export type TraceRecord =
  | ExitRecord
  | { kind: "interrupt"; now: number; vector: number }
  | { kind: "tick"; now: number }
  | { kind: "input"; now: number; data: Uint8Array }
  | { kind: "memory"; now: number; address: number; data: Uint8Array };

/** What the trace says of the machine it is of. */
export interface TraceHeader {
  engine: string;
  /** Options from which the same machine can be made. */
  machine: Record<string, unknown>;
}

/** A file that is no trace, or a damaged one; names the file and the offset. */
export class TraceError extends Error {
  override name = "TraceError";
}

/** Writes a trace. Nothing is allocated per exit; the file is written in large pieces. */
export class TraceWriter implements Disposable {
  readonly #file: number;
  readonly #buffer = new ArrayBuffer(BUFFER);
  readonly #u8 = new Uint8Array(this.#buffer);
  readonly #view = new DataView(this.#buffer);
  #length = 0;

  constructor(path: string, header: TraceHeader) {
    this.#file = openSync(path, "w");
    const json = new TextEncoder().encode(JSON.stringify(header));
    const head = new Uint8Array(16 + json.length);
    head.set(new TextEncoder().encode(MAGIC));
    new DataView(head.buffer).setUint32(8, VERSION, true);
    new DataView(head.buffer).setUint32(12, json.length, true);
    head.set(json, 16);
    writeSync(this.#file, head);
  }

  /** The exit in the run page, answered. */
  exit(run: RunPage, now: number, handled: number, rip: bigint): void {
    const view = this.#view;
    const reason = run.reason;
    let direction = 0;
    let size = 0;
    let count = 0;
    let address = 0;
    let from = 0;
    if (reason === ExitReason.IO) {
      direction = run.ioDirection;
      size = run.ioSize;
      count = run.ioCount;
      address = run.ioPort;
      from = run.ioData;
    } else if (reason === ExitReason.MMIO) {
      direction = run.mmioIsWrite ? 1 : 0;
      size = run.mmioLength;
      count = 1;
      address = run.mmioAddress;
      from = RunPage.MMIO_DATA;
    } else if (reason === ExitReason.RDMSR || reason === ExitReason.WRMSR) {
      direction = reason === ExitReason.WRMSR ? 1 : 0;
      size = 8;
      count = 1;
      address = run.msrIndex;
      from = 48;
    }
    const length = Math.min(size * count, 0xffff);
    const at = this.#record(RecordKind.EXIT, now, EXIT_HEAD, length, handled);
    view.setUint8(at, reason);
    view.setUint8(at + 1, direction);
    view.setUint8(at + 2, size);
    view.setUint8(at + 3, 0);
    view.setUint32(at + 4, count, true);
    view.setFloat64(at + 8, address, true);
    view.setBigUint64(at + 16, rip, true);
    for (let i = 0; i < length; i++) this.#u8[at + EXIT_HEAD + i] = run.u8[from + i];
  }

  interrupt(vector: number, now: number): void {
    const at = this.#record(RecordKind.INTERRUPT, now, 8, 0);
    this.#view.setUint32(at, vector, true);
    this.#view.setUint32(at + 4, 0, true);
  }

  tick(now: number): void {
    this.#record(RecordKind.TICK, now, 0, 0);
  }

  input(data: Uint8Array, now: number): void {
    for (let from = 0; from < data.length; from += 0xffff) {
      const piece = data.subarray(from, from + 0xffff);
      this.#u8.set(piece, this.#record(RecordKind.INPUT, now, 0, piece.length));
    }
  }

  memory(address: number, data: Uint8Array, now: number): void {
    for (let from = 0; from < data.length; from += 0xffff) {
      const piece = data.subarray(from, from + 0xffff);
      const at = this.#record(RecordKind.MEMORY, now, 8, piece.length);
      this.#view.setFloat64(at, address + from, true);
      this.#u8.set(piece, at + 8);
    }
  }

  flush(): void {
    let written = 0;
    while (written < this.#length) {
      written += writeSync(this.#file, this.#u8, written, this.#length - written);
    }
    this.#length = 0;
  }

  [Symbol.dispose](): void {
    this.flush();
    closeSync(this.#file);
  }

  #record(kind: number, now: number, head: number, length: number, handled = 0): number {
    if (this.#length + LARGEST > BUFFER) this.flush();
    const at = this.#length;
    const view = this.#view;
    view.setUint8(at, kind);
    view.setUint8(at + 1, 0);
    view.setUint16(at + 2, length, true);
    view.setUint32(at + 4, Math.min(handled, 0xffffffff), true);
    view.setFloat64(at + 8, now, true);
    this.#length = at + HEAD + head + length;
    return at + HEAD;
  }
}

/** A trace that was read: its header, and its records one by one. */
export class Trace {
  readonly header: TraceHeader;
  readonly #path: string;
  readonly #bytes: Uint8Array;
  readonly #start: number;

  constructor(path: string, bytes: Uint8Array) {
    this.#path = path;
    this.#bytes = bytes;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length < 16 || new TextDecoder().decode(bytes.subarray(0, 8)) !== MAGIC) {
      throw new TraceError(`${path}: not an exit trace`);
    }
    const version = view.getUint32(8, true);
    if (version !== VERSION) {
      throw new TraceError(`${path}: trace version ${version}; this vmd reads ${VERSION}`);
    }
    const length = view.getUint32(12, true);
    if (16 + length > bytes.length) throw this.#damaged(12);
    this.#start = 16 + length;
    const header = parse(bytes.subarray(16, this.#start));
    if (!isHeader(header)) throw this.#damaged(16);
    this.header = header;
  }

  static open(path: string): Trace {
    try {
      return new Trace(path, readFileSync(path));
    } catch (error) {
      if (error instanceof TraceError) throw error;
      throw new TraceError(`${path}: ${(error as NodeJS.ErrnoException).code ?? error}`);
    }
  }

  *records(): Generator<TraceRecord> {
    const bytes = this.#bytes;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = this.#start; at < bytes.length;) {
      if (at + HEAD > bytes.length) throw this.#damaged(at);
      const kind = view.getUint8(at);
      const head = RECORD_HEAD[kind];
      const length = view.getUint16(at + 2, true);
      const body = at + HEAD;
      if (head === undefined || body + head + length > bytes.length) throw this.#damaged(at);
      const now = view.getFloat64(at + 8, true);
      const data = bytes.subarray(body + head, body + head + length);
      at = body + head + length;
      switch (kind) {
        case RecordKind.EXIT:
          yield {
            kind: "exit",
            now,
            handled: view.getUint32(body - HEAD + 4, true),
            reason: view.getUint8(body),
            direction: view.getUint8(body + 1),
            size: view.getUint8(body + 2),
            count: view.getUint32(body + 4, true),
            address: view.getFloat64(body + 8, true),
            rip: view.getBigUint64(body + 16, true),
            data,
          };
          break;
        case RecordKind.INTERRUPT:
          yield { kind: "interrupt", now, vector: view.getUint32(body, true) };
          break;
        case RecordKind.TICK:
          yield { kind: "tick", now };
          break;
        case RecordKind.INPUT:
          yield { kind: "input", now, data };
          break;
        default:
          yield { kind: "memory", now, address: view.getFloat64(body, true), data };
      }
    }
  }

  #damaged(offset: number): TraceError {
    return new TraceError(`${this.#path}: damaged at offset ${offset}`);
  }
}

function parse(json: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(json));
  } catch {
    return undefined;
  }
}

function isHeader(value: unknown): value is TraceHeader {
  const header = value as Partial<TraceHeader> | null | undefined;
  return (
    typeof header?.engine === "string" &&
    typeof header.machine === "object" &&
    header.machine !== null
  );
}

const RECORD_HEAD: Record<number, number> = {
  [RecordKind.EXIT]: EXIT_HEAD,
  [RecordKind.INTERRUPT]: 8,
  [RecordKind.TICK]: 0,
  [RecordKind.INPUT]: 0,
  [RecordKind.MEMORY]: 8,
};
