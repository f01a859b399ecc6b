/**
 * The snapshot format: a machine image as a stream of records.
 *
 * ```
 * record:  0  type      u32      8  length  u64  bytes of payload, without padding
 *          4  version   u16     16  pages   u32  pages of data behind the payload (PAGES only)
 *          6  flags     u16     20  stored  u32  bytes that they take, before padding
 *                               24  data    u64  checksum of what they take
 *                               32  serial  u32  records before this one
 *                               36  zero    u32
 *                               40  total   u64  checksum of the record before, 0 in the first
 *                               48  payload u64  checksum of the payload
 *                               56  head    u64  checksum of bytes 0 to 55
 * payload: at 64, padded with zeros to whole pages of 4096 bytes
 * data:    the record's pages, one after the other, padded likewise
 * ```
 *
 * All numbers are little-endian. A record begins at a multiple of 4096 bytes, so that a file's pages
 * can be mapped; a pipe carries the same bytes. Checksums are 64-bit XXH3 with seed 0. Each record
 * names the one before by its checksum: none can be left out, moved or repeated.
 *
 * CONFIG comes first, END last, and nothing behind it but a recording's EVENTS. Between them come PAGES and ZERO in any
 * number, later ones replacing what earlier ones said, and then STATE, CPU and HOST, once each, and
 * perhaps HOT among them.
 */
import { hash } from "bun";

export const PAGE = 4096;
export const HEAD = 64;
/** A reader takes records of at most this version. */
export const VERSION = 2;

export const RecordType = {
  /** JSON: what the machine is. */
  CONFIG: 0x464e4356, // "VCNF"
  /** Runs of pages, and what they hold. */
  PAGES: 0x45474156, // "VAGE"
  /** Runs of pages that hold zeros. */
  ZERO: 0x4f52455a, // "ZERO"
  /** Register blocks: blocks.ts. */
  STATE: 0x54545356, // "VSTT"
  /** struct vmm_cpu. */
  CPU: 0x55504356, // "VCPU"
  /** JSON: what the host kept for the guest. */
  HOST: 0x54534f48, // "HOST"
  END: 0x444e4556, // "VEND"
  /** Of a recording, behind END: what came from outside. src/vmd/recording/events.ts */
  EVENTS: 0x54564556, // "VEVT"
  /** Runs of pages that the guest touched lately: hot-pages.ts. Since version 2. */
  HOT: 0x544f4856, // "VHOT"
} as const;
export type RecordType = (typeof RecordType)[keyof typeof RecordType];

/** A record's version: that of the first program which wrote its type. */
function versionOf(type: number): number {
  return type === RecordType.HOT ? 2 : 1;
}

/** The pages are one zstd frame. */
export const COMPRESSED = 1;

/** Pages of one record at most: 4 MiB. */
export const RECORD_PAGES = 1024;
/** Runs of one record: its payload is then one page with its head. */
export const RECORD_RUNS = (PAGE - HEAD) / 16;
/** Runs of hot pages at most. */
export const HOT_RUNS = 65_536;
/** Bytes of a payload at most. */
export const PAYLOAD_MAX = 8 * 2 ** 20;

/** A snapshot that can't be used, in one sentence. */
export class SnapshotError extends Error {
  override name = "SnapshotError";
}

/** There is less of it than there should be. */
export class TruncatedError extends SnapshotError {
  constructor() {
    super("it ends too early");
  }
}

/** Guest pages that follow each other. */
export interface Run {
  /** Guest-physical page number. */
  readonly page: number;
  /** Pages. */
  readonly count: number;
}

export interface RecordHead {
  readonly type: RecordType;
  readonly flags: number;
  /** Bytes of payload. */
  readonly length: number;
  readonly pages: number;
  readonly stored: number;
  readonly data: bigint;
}

const TYPES = new Set<number>(Object.values(RecordType));

export function checksum(bytes: Uint8Array): bigint {
  return hash.xxHash3(bytes);
}

/** Bytes with the padding that follows them. */
export function padded(bytes: number): number {
  return Math.ceil(bytes / PAGE) * PAGE;
}

/** Writes a record's head before its payload, which lies in `block` at HEAD. */
export function encodeHead(
  block: Uint8Array,
  { type, flags, length, pages, stored, data }: RecordHead,
  serial: number,
  before: bigint,
): bigint {
  const view = new DataView(block.buffer, block.byteOffset, HEAD);
  view.setUint32(0, type, true);
  view.setUint16(4, versionOf(type), true);
  view.setUint16(6, flags, true);
  view.setBigUint64(8, BigInt(length), true);
  view.setUint32(16, pages, true);
  view.setUint32(20, stored, true);
  view.setBigUint64(24, data, true);
  view.setUint32(32, serial, true);
  view.setUint32(36, 0, true);
  view.setBigUint64(40, before, true);
  view.setBigUint64(48, checksum(block.subarray(HEAD, HEAD + length)), true);
  const head = checksum(block.subarray(0, 56));
  view.setBigUint64(56, head, true);
  return head;
}

/**
 * Reads a record's head.
 * @returns it, and its checksum
 * @throws SnapshotError
 */
export function decodeHead(
  block: Uint8Array,
  serial: number,
  before: bigint,
): { head: RecordHead; payload: bigint; sum: bigint } {
  const view = new DataView(block.buffer, block.byteOffset, HEAD);
  const type = view.getUint32(0, true);
  const which = serial === 0 ? "its beginning" : `record ${serial}`;
  if (serial === 0 && type !== RecordType.CONFIG) throw new SnapshotError("it is no snapshot");
  const sum = view.getBigUint64(56, true);
  if (sum !== checksum(block.subarray(0, 56))) throw new SnapshotError(`${which} is damaged`);
  const version = view.getUint16(4, true);
  if (version > VERSION) {
    throw new SnapshotError(`it is of version ${version}; this program reads up to ${VERSION}`);
  }
  if (
    !TYPES.has(type) ||
    version !== versionOf(type) ||
    view.getUint32(32, true) !== serial ||
    view.getBigUint64(40, true) !== before
  ) {
    throw new SnapshotError(`${which} is not what belongs there`);
  }
  const head = {
    type: type as RecordType,
    flags: view.getUint16(6, true),
    length: Number(view.getBigUint64(8, true)),
    pages: view.getUint32(16, true),
    stored: view.getUint32(20, true),
    data: view.getBigUint64(24, true),
  };
  if (!possible(head)) throw new SnapshotError(`${which} has an impossible size`);
  return { head, payload: view.getBigUint64(48, true), sum };
}

function possible({ type, flags, length, pages, stored }: RecordHead): boolean {
  if (length > PAYLOAD_MAX) return false;
  if (type === RecordType.PAGES) {
    if (length === 0 || length % 16 !== 0 || length > RECORD_RUNS * 16) return false;
    if (pages === 0 || pages > RECORD_PAGES || (flags & ~COMPRESSED) !== 0) return false;
    return (flags & COMPRESSED) !== 0
      ? stored > 0 && stored < pages * PAGE
      : stored === pages * PAGE;
  }
  if (type === RecordType.ZERO && length % 16 !== 0) return false;
  if (type === RecordType.HOT && (length % 16 !== 0 || length > HOT_RUNS * 16)) return false;
  return flags === 0 && pages === 0 && stored === 0;
}

/** Writes runs into a payload: page and count, 64 bits each. */
export function encodeRuns(payload: Uint8Array, runs: readonly Run[]): void {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  runs.forEach(({ page, count }, index) => {
    view.setBigUint64(16 * index, BigInt(page), true);
    view.setBigUint64(16 * index + 8, BigInt(count), true);
  });
}

/** Reads them. Whoever uses them checks where they lie. @throws SnapshotError */
export function decodeRuns(payload: Uint8Array): Run[] {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const runs: Run[] = [];
  for (let at = 0; at < payload.length; at += 16) {
    const page = view.getBigUint64(at, true);
    const count = view.getBigUint64(at + 8, true);
    if (page >= 2n ** 40n || count === 0n || count >= 2n ** 32n) {
      throw new SnapshotError("pages that no machine has");
    }
    runs.push({ page: Number(page), count: Number(count) });
  }
  return runs;
}
