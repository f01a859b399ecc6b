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
 * All little-endian. Data of an IN or an MMIO read is the answer: `count` items of `size` bytes.
 * RIP is 0 where the engine did not bring registers. Guest time never decreases.
 */
import { closeSync, constants, fstatSync, openSync, readSync, writeSync } from "node:fs";
import { ExitReason, RunPage } from "./exit.ts";

const MAGIC = "VMDTRACE";
const VERSION = 1;
const HEAD = 16;
const EXIT_HEAD = 24;
const BUFFER = 1 << 18;
const LARGEST = HEAD + EXIT_HEAD + 0xffff;
/** Kernel command line, file names: a header is never longer, bytes. */
const LONGEST_HEADER = 1 << 20;
/** A trace is read in pieces of this size. */
const PIECE = 1 << 22;
/** No machine has a later guest time, ns, or a higher address. */
const LATEST = Number.MAX_SAFE_INTEGER;
/** RIP in the run page, in words: kvm_sync_regs at byte 304, RIP 128 bytes in. */
const RIP_WORD = (304 + 128) / 4;

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

const REASONS: Record<string, string> = {
  ENOENT: "no such file or directory",
  EISDIR: "is a directory",
  ENOTDIR: "not a directory",
  EACCES: "permission denied",
  EROFS: "read-only file system",
  ENOSPC: "no space left on device",
  EFBIG: "file too large",
  EIO: "input/output error",
};

function sentence(path: string, error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code ?? String(error);
  return `${path}: ${REASONS[code] ?? code}`;
}

/**
 * Writes a trace. Nothing is allocated per exit; the file is written in large pieces. Once it is
 * open nothing throws: a failure is kept, and ends the writing.
 */
export class TraceWriter implements Disposable {
  /** Why nothing is written any more, in one sentence. */
  failure: string | undefined;
  readonly #path: string;
  readonly #file: number;
  readonly #buffer = new ArrayBuffer(BUFFER);
  readonly #u8 = new Uint8Array(this.#buffer);
  readonly #view = new DataView(this.#buffer);
  #length = 0;

  /** @throws TraceError when the file can't be written. */
  constructor(path: string, header: TraceHeader) {
    this.#path = path;
    const json = new TextEncoder().encode(JSON.stringify(header));
    const head = new Uint8Array(16 + json.length);
    head.set(new TextEncoder().encode(MAGIC));
    new DataView(head.buffer).setUint32(8, VERSION, true);
    new DataView(head.buffer).setUint32(12, json.length, true);
    head.set(json, 16);
    if (json.length > LONGEST_HEADER) throw new TraceError(`${path}: the header is too long`);
    try {
      this.#file = openSync(path, "w");
    } catch (error) {
      throw new TraceError(sentence(path, error));
    }
    this.#write(head, head.length);
    if (this.failure !== undefined) {
      closeSync(this.#file);
      throw new TraceError(this.failure);
    }
  }

  /**
   * The exit in the run page, answered.
   * @param registers whether it brought registers.
   */
  exit(run: RunPage, now: number, handled: number, registers: boolean): void {
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
    view.setUint32(at + 16, registers ? run.u32[RIP_WORD] : 0, true);
    view.setUint32(at + 20, registers ? run.u32[RIP_WORD + 1] : 0, true);
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
    this.#write(this.#u8, this.#length);
    this.#length = 0;
  }

  [Symbol.dispose](): void {
    this.flush();
    closeSync(this.#file);
  }

  #write(bytes: Uint8Array, length: number): void {
    if (this.failure !== undefined) return;
    try {
      for (let at = 0; at < length;) at += writeSync(this.#file, bytes, at, length - at);
    } catch (error) {
      this.failure = sentence(this.#path, error);
    }
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
  readonly path: string;
  readonly header: TraceHeader;
  readonly #bytes: Uint8Array | undefined;
  readonly #start: number;

  /**
   * Reads the header.
   * @param bytes the file's content; without it, the file is read, piece by piece.
   * @throws TraceError
   */
  constructor(path: string, bytes?: Uint8Array) {
    this.path = path;
    this.#bytes = bytes;
    using pieces = new Pieces(path, bytes);
    if (!pieces.have(0, 16) || new TextDecoder().decode(pieces.take(0, 8)) !== MAGIC) {
      throw new TraceError(`${path}: not an exit trace`);
    }
    const version = pieces.view.getUint32(8, true);
    if (version !== VERSION) {
      throw new TraceError(`${path}: trace version ${version}; this vmd reads ${VERSION}`);
    }
    const length = pieces.view.getUint32(12, true);
    if (length > LONGEST_HEADER || !pieces.have(0, 16 + length)) throw this.#damaged(12);
    this.#start = 16 + length;
    const header = parse(pieces.take(16, length));
    if (!isHeader(header)) throw this.#damaged(16);
    this.header = header;
  }

  /** @throws TraceError */
  static open(path: string): Trace {
    return new Trace(path);
  }

  /** What it yields is whole and within the bounds that a machine has. @throws TraceError */
  *records(): Generator<TraceRecord> {
    using pieces = new Pieces(this.path, this.#bytes);
    let last = 0;
    for (let offset = this.#start; pieces.have(offset, 1);) {
      if (!pieces.have(offset, HEAD)) throw this.#damaged(offset);
      let at = offset - pieces.start;
      const kind = pieces.view.getUint8(at);
      const flags = pieces.view.getUint8(at + 1);
      const length = pieces.view.getUint16(at + 2, true);
      const handled = pieces.view.getUint32(at + 4, true);
      const now = pieces.view.getFloat64(at + 8, true);
      const head = RECORD_HEAD[kind];
      if (head === undefined || flags !== 0 || !(now >= last && now <= LATEST)) {
        throw this.#damaged(offset);
      }
      last = now;
      const whole = HEAD + head + length;
      if (!pieces.have(offset, whole)) throw this.#damaged(offset);
      at = offset - pieces.start + HEAD;
      const record = decode(
        kind,
        now,
        handled,
        pieces.view,
        at,
        pieces.take(offset + HEAD + head, length),
      );
      if (!isPossible(record)) throw this.#damaged(offset);
      yield record;
      offset += whole;
    }
  }

  #damaged(offset: number): TraceError {
    return new TraceError(`${this.path}: damaged at offset ${offset}`);
  }
}

function decode(
  kind: number,
  now: number,
  handled: number,
  view: DataView,
  at: number,
  data: Uint8Array,
): TraceRecord {
  switch (kind) {
    case RecordKind.EXIT:
      return {
        kind: "exit",
        now,
        handled,
        reason: view.getUint8(at),
        direction: view.getUint8(at + 1),
        size: view.getUint8(at + 2),
        count: view.getUint32(at + 4, true),
        address: view.getFloat64(at + 8, true),
        rip: view.getBigUint64(at + 16, true),
        data,
      };
    case RecordKind.INTERRUPT:
      return { kind: "interrupt", now, vector: view.getUint32(at, true) };
    case RecordKind.TICK:
      return { kind: "tick", now };
    case RecordKind.INPUT:
      return { kind: "input", now, data };
    default:
      return { kind: "memory", now, address: view.getFloat64(at, true), data };
  }
}

// Could a machine have made it? What replays a record relies on this.
function isPossible(record: TraceRecord): boolean {
  switch (record.kind) {
    case "exit":
      return isPossibleExit(record);
    case "interrupt":
      return record.vector <= 0xff;
    case "memory":
      return isWhole(record.address, LATEST);
    default:
      return true;
  }
}

function isPossibleExit({ reason, direction, size, count, address, data }: ExitRecord): boolean {
  if (direction > 1 || data.length !== size * count) return false;
  switch (reason) {
    case ExitReason.IO:
      return (size === 1 || size === 2 || size === 4) && count > 0 && isWhole(address, 0xffff);
    case ExitReason.MMIO:
      return size >= 1 && size <= 8 && count === 1 && isWhole(address, LATEST);
    case ExitReason.RDMSR:
    case ExitReason.WRMSR: {
      const written = reason === ExitReason.WRMSR ? 1 : 0;
      return size === 8 && count === 1 && direction === written && isWhole(address, 0xffffffff);
    }
    default:
      return size === 0 && count === 0 && direction === 0 && address === 0;
  }
}

function isWhole(value: number, largest: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= largest;
}

/** A file, or bytes, of which one piece is at hand. What was taken from a piece stays as it is. */
class Pieces implements Disposable {
  /** Where in the file the piece at hand starts. */
  start = 0;
  view: DataView;
  readonly #path: string;
  readonly #file: number | undefined;
  #bytes: Uint8Array;

  constructor(path: string, bytes: Uint8Array | undefined) {
    this.#path = path;
    this.#bytes = bytes ?? new Uint8Array();
    this.view = viewOf(this.#bytes);
    if (bytes !== undefined) return;
    let file: number | undefined;
    try {
      // Not to wait for the other end of a pipe.
      file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const status = fstatSync(file);
      if (status.isDirectory()) throw new TraceError(`${path}: is a directory`);
      if (!status.isFile()) throw new TraceError(`${path}: not a regular file`);
      this.#file = file;
    } catch (error) {
      if (file !== undefined) closeSync(file);
      if (error instanceof TraceError) throw error;
      throw new TraceError(sentence(path, error));
    }
  }

  /** Are there `length` bytes at `offset`? They are at hand then. Offsets never go back. */
  have(offset: number, length: number): boolean {
    const at = offset - this.start;
    if (at + length <= this.#bytes.length) return true;
    if (this.#file === undefined) return false;
    const kept = this.#bytes.subarray(at);
    const piece = new Uint8Array(Math.max(PIECE, length));
    piece.set(kept);
    let end = kept.length;
    try {
      for (let count = -1; count !== 0 && end < piece.length; end += count) {
        count = readSync(this.#file, piece, end, piece.length - end, offset + end);
      }
    } catch (error) {
      throw new TraceError(sentence(this.#path, error));
    }
    this.start = offset;
    this.#bytes = piece.subarray(0, end);
    this.view = viewOf(this.#bytes);
    return length <= end;
  }

  take(offset: number, length: number): Uint8Array {
    return this.#bytes.subarray(offset - this.start, offset - this.start + length);
  }

  [Symbol.dispose](): void {
    if (this.#file !== undefined) closeSync(this.#file);
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
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
