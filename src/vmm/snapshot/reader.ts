/** Reads a snapshot's records, and believes none of what they say before it is checked. */
import {
  checksum,
  COMPRESSED,
  decodeHead,
  decodeRuns,
  HEAD,
  PAGE,
  padded,
  RecordType,
  type RecordHead,
  type Run,
  SnapshotError,
} from "./format.ts";
import { isFrameOf } from "./zstd-frame.ts";

/** Where a snapshot comes from. */
export interface Source {
  /** Bytes read or skipped so far. */
  readonly position: number;
  /** Fills an array with the next bytes. @throws SnapshotError when it ends before that */
  read(into: Uint8Array): void;
  /** Goes on behind the next bytes. @throws SnapshotError */
  skip(bytes: number): void;
  /** Whether nothing follows; true where that can't be known. @throws SnapshotError */
  readonly ended: boolean;
}

export interface SnapshotRecord {
  readonly head: RecordHead;
  readonly payload: Uint8Array;
  /** Of PAGES and ZERO. */
  readonly runs: readonly Run[];
  /** Of PAGES: where the data lie in the source. */
  readonly offset: number;
}

/** These come once, behind all pages. */
const ONCE = [RecordType.STATE, RecordType.CPU, RecordType.HOST];
const BEHIND = [...ONCE, RecordType.HOT];

/** Where a reader is in its chain of records. */
export interface ReaderPlace {
  readonly serial: number;
  readonly before: bigint;
}

export interface ReaderOptions {
  /** EVENTS follow the end: `following` reads them. */
  readonly followed?: boolean;
}

export class SnapshotReader {
  readonly #source: Source;
  readonly #followed: boolean;
  readonly #block = new Uint8Array(PAGE);
  readonly #seen = new Set<RecordType>();
  #serial = 0;
  #before = 0n;
  /** Bytes of data of the last record that were not read yet. */
  #left = 0;
  #ended = false;

  constructor(source: Source, { followed = false }: ReaderOptions = {}) {
    this.#source = source;
    this.#followed = followed;
  }

  /**
   * The next record; undefined behind the last. Data that were not read are skipped.
   * @throws SnapshotError
   */
  next(): SnapshotRecord | undefined {
    if (this.#ended) return undefined;
    const { head, payload } = this.#record();
    this.#order(head.type);
    const hasRuns = head.type === RecordType.PAGES || head.type === RecordType.ZERO;
    const runs = hasRuns ? decodeRuns(payload) : [];
    if (head.type === RecordType.PAGES) {
      const pages = runs.reduce((sum, { count }) => sum + count, 0);
      if (pages !== head.pages) throw new SnapshotError("a record of pages that it hasn't got");
    }
    this.#left = padded(head.stored);
    return { head, payload, runs, offset: this.#source.position };
  }

  /** The payload of the next record behind the end, which must be there. @throws SnapshotError */
  following(): Uint8Array {
    const { head, payload } = this.#record();
    if (!this.#ended || head.type !== RecordType.EVENTS) throw this.#misplaced();
    return payload;
  }

  /** Behind the end: which record `following` reads next; its source is the caller's to move. */
  get place(): ReaderPlace {
    return { serial: this.#serial, before: this.#before };
  }

  set place({ serial, before }: ReaderPlace) {
    this.#serial = serial;
    this.#before = before;
  }

  #record(): { head: RecordHead; payload: Uint8Array } {
    const source = this.#source;
    if (this.#left > 0) source.skip(this.#left);
    this.#left = 0;
    const block = this.#block;
    source.read(block);
    const { head, payload: sum, sum: before } = decodeHead(block, this.#serial, this.#before);
    const payload = this.#payload(head, block);
    if (checksum(payload) !== sum) throw new SnapshotError(`record ${this.#serial} is damaged`);
    this.#before = before;
    this.#serial++;
    return { head, payload };
  }

  #misplaced(): SnapshotError {
    return new SnapshotError(`record ${this.#serial - 1} is not what belongs there`);
  }

  /**
   * Reads the data of a PAGES record that `next` has just given.
   * @returns the pages, one after the other
   * @throws SnapshotError
   */
  data({ head }: SnapshotRecord): Uint8Array {
    const bytes = new Uint8Array(padded(head.stored));
    this.#source.read(bytes);
    this.#left = 0;
    const stored = bytes.subarray(0, head.stored);
    const rest = bytes.subarray(head.stored);
    if (checksum(stored) !== head.data || rest.some((byte) => byte !== 0)) {
      throw new SnapshotError(`the pages of record ${this.#serial - 1} are damaged`);
    }
    if ((head.flags & COMPRESSED) === 0) return stored;
    const size = head.pages * PAGE;
    if (!isFrameOf(stored, size)) throw new SnapshotError("compressed pages of another size");
    try {
      const pages = Bun.zstdDecompressSync(stored);
      if (pages.length === size) return pages;
    } catch {
      // Said below.
    }
    throw new SnapshotError(`the pages of record ${this.#serial - 1} can't be decompressed`);
  }

  #payload({ length }: RecordHead, block: Uint8Array): Uint8Array {
    const whole = new Uint8Array(padded(HEAD + length));
    whole.set(block);
    if (whole.length > PAGE) this.#source.read(whole.subarray(PAGE));
    for (let at = HEAD + length; at < whole.length; at++) {
      if (whole[at] !== 0) throw new SnapshotError(`record ${this.#serial} is damaged`);
    }
    return whole.subarray(HEAD, HEAD + length);
  }

  #order(type: RecordType): void {
    const first = this.#serial === 1;
    if ((type === RecordType.CONFIG) !== first) throw this.#misplaced();
    const pages = type === RecordType.PAGES || type === RecordType.ZERO;
    if (pages && BEHIND.some((one) => this.#seen.has(one))) throw this.#misplaced();
    const once = BEHIND.includes(type as (typeof BEHIND)[number]);
    if (type === RecordType.EVENTS || (once && this.#seen.has(type))) throw this.#misplaced();
    this.#seen.add(type);
    if (type !== RecordType.END) return;
    if (ONCE.some((one) => !this.#seen.has(one))) {
      throw new SnapshotError("it has no state of its machine");
    }
    this.#ended = true;
    if (!this.#followed && !this.#source.ended) {
      throw new SnapshotError("something follows its end");
    }
  }
}
