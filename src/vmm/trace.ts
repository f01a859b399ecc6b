/**
 * Exits as data: a trace is a file of records, one per exit, with what was answered, and of
 * everything else that reached the guest or its devices: interrupts, timers, input, the host's
 * requests, and the guest memory that devices read. So the device models run again from it with no engine.
 *
 * ```
 * "VMDTRACE" u32 version, u32 length, JSON of that length: the machine and what it booted
 * records: u8 kind, u8 flags, u16 length of data, u32 handled (ns), f64 guest time (ns), then
 *   EXIT       u8 reason, u8 direction, u8 size, u8 0, u32 count, f64 port or address, u64 RIP, data
 *   INTERRUPT  u32 vector, u32 0
 *   TICK       (timers that were due ran)
 *   INPUT      data: bytes for the guest's console
 *   MEMORY     f64 address, data: what a device read there before the next exit's answer
 *   RESET      f64 epoch, UTC in ms since 1970: the machine starts again, with its time at 0
 *   REQUEST    u32 what the host asked the guest for, u32 0
 * ```
 * All little-endian. Data of an IN or an MMIO read is the answer: `count` items of `size` bytes.
 * RIP is 0 where the engine did not bring registers. Guest time never decreases but after a RESET,
 * which itself has the time of the record before it. Version 1 had no RESET, version 2 no
 * REQUEST.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { ExitReason } from "./exit.ts";

export const MAGIC = "VMDTRACE";
export const VERSION = 3;
/** What every record starts with, bytes. */
export const HEAD = 16;
export const EXIT_HEAD = 24;
/** Kernel command line, file names: a header is never longer, bytes. */
export const LONGEST_HEADER = 1 << 20;
/** A trace is read in pieces of this size. */
const PIECE = 1 << 22;
/** No machine has a later guest time, ns, or a higher address. */
const LATEST = Number.MAX_SAFE_INTEGER;
/** No Date is further from 1970, ms. */
const FARTHEST_EPOCH = 8.64e15;

export const RecordKind = {
  EXIT: 1,
  INTERRUPT: 2,
  TICK: 3,
  INPUT: 4,
  MEMORY: 5,
  RESET: 6,
  REQUEST: 7,
} as const;

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
  | { kind: "memory"; now: number; address: number; data: Uint8Array }
  /** The host asked the guest for something, by a command of the machine's own. */
  | { kind: "request"; now: number; command: number }
  /** What follows is of the machine's next run, which starts at guest time 0 and UTC `epoch`, ms. */
  | { kind: "reset"; now: number; epoch: number };

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

/** What went wrong with a file, in one sentence. */
export function sentence(path: string, error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code ?? String(error);
  return `${path}: ${REASONS[code] ?? code}`;
}

/** A trace that is read: its header, and its records one by one. */
export class Trace {
  readonly path: string;
  readonly header: TraceHeader;
  readonly #content: Uint8Array | number | undefined;
  readonly #start: number;

  /**
   * Reads the header.
   * @param content the file's content, or its descriptor, which stays the caller's; without it, the
   * file is opened. It is read piece by piece.
   * @throws TraceError
   */
  constructor(path: string, content?: Uint8Array | number) {
    this.path = path;
    this.#content = content;
    using pieces = new Pieces(path, content);
    if (!pieces.have(0, 16) || new TextDecoder().decode(pieces.take(0, 8)) !== MAGIC) {
      throw new TraceError(`${path}: not an exit trace`);
    }
    const version = pieces.view.getUint32(8, true);
    if (version < 1 || version > VERSION) {
      throw new TraceError(`${path}: trace version ${version}; this vmd reads 1 to ${VERSION}`);
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
    using pieces = new Pieces(this.path, this.#content);
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
      if (record.kind === "reset") last = 0;
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
    case RecordKind.RESET:
      return { kind: "reset", now, epoch: view.getFloat64(at, true) };
    case RecordKind.REQUEST:
      return { kind: "request", now, command: view.getUint32(at, true) };
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
    case "reset":
      return Math.abs(record.epoch) <= FARTHEST_EPOCH;
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
  readonly #opened: boolean;
  #bytes: Uint8Array;

  constructor(path: string, content: Uint8Array | number | undefined) {
    this.#path = path;
    this.#bytes = typeof content === "object" ? content : new Uint8Array();
    this.view = viewOf(this.#bytes);
    this.#opened = content === undefined;
    if (typeof content === "number") this.#file = content;
    else if (content === undefined) this.#file = openTrace(path);
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
    if (this.#opened && this.#file !== undefined) closeSync(this.#file);
  }
}

/** Opens one to be read. @throws TraceError */
export function openTrace(path: string): number {
  let file: number | undefined;
  try {
    // Not to wait for the other end of a pipe.
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const status = fstatSync(file);
    if (status.isDirectory()) throw new TraceError(`${path}: is a directory`);
    if (!status.isFile()) throw new TraceError(`${path}: not a regular file`);
    return file;
  } catch (error) {
    if (file !== undefined) closeSync(file);
    if (error instanceof TraceError) throw error;
    throw new TraceError(sentence(path, error));
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
  [RecordKind.RESET]: 8,
  [RecordKind.REQUEST]: 8,
};
