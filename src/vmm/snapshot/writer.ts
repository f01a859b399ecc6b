/** Writes a snapshot's records, one after the other. */
import type { GuestMemory } from "../memory.ts";
import {
  checksum,
  COMPRESSED,
  encodeHead,
  encodeRuns,
  HEAD,
  PAGE,
  padded,
  PAYLOAD_MAX,
  RECORD_PAGES,
  RECORD_RUNS,
  RecordType,
  type Run,
} from "./format.ts";

/** Where the bytes go, in their order; throws what ends the snapshot. */
export type Sink = (bytes: Uint8Array) => void;

export interface WriterOptions {
  /** Pages are compressed, which a lazy restore then can't map. Default false. */
  readonly compress?: boolean;
  /** Pages of a record at most; default: as many as there may be. */
  readonly recordPages?: number;
}

/** zstd's fastest level: what follows it is often a network. */
const LEVEL = 1;

/** A buffer for the next one: what was touched once needn't come into being again. */
let spare: Uint8Array | undefined;

export class SnapshotWriter {
  readonly #sink: Sink;
  readonly #compress: boolean;
  readonly #recordPages: number;
  /** One record of pages: head and runs, then what they hold. */
  #buffer: Uint8Array | undefined;
  #serial = 0;
  #before = 0n;
  /** Bytes given to the sink. */
  written = 0;
  /** Pages written. */
  pages = 0;

  constructor(sink: Sink, options: WriterOptions = {}) {
    const { compress = false, recordPages = RECORD_PAGES } = options;
    this.#sink = sink;
    this.#recordPages = recordPages;
    this.#compress = compress;
  }

  json(type: RecordType, value: unknown): void {
    this.bytes(type, new TextEncoder().encode(JSON.stringify(value)));
  }

  /** A record without pages. */
  bytes(type: RecordType, payload: Uint8Array): void {
    if (payload.length > PAYLOAD_MAX) throw new RangeError(`a record of ${payload.length} bytes`);
    const block = new Uint8Array(padded(HEAD + payload.length));
    block.set(payload, HEAD);
    this.#head(block, { type, length: payload.length });
    this.#give(block);
  }

  /** Pages with what they hold now. */
  memory(memory: GuestMemory, runs: Iterable<Run>): void {
    this.data(runs, ({ page, count }) => memory.bytes(page * PAGE, count * PAGE));
  }

  /** Pages with what is given: for runs, or parts of them. */
  data(runs: Iterable<Run>, data: (run: Run) => Iterable<Uint8Array>): void {
    this.#collect(runs, this.#recordPages, (part, pages) => this.#pages(data, part, pages));
  }

  /** Pages that hold zeros. */
  zeros(runs: Iterable<Run>): void {
    this.#collect(runs, Infinity, (part) => {
      const payload = new Uint8Array(16 * part.length);
      encodeRuns(payload, part);
      this.bytes(RecordType.ZERO, payload);
    });
  }

  end(): void {
    this.bytes(RecordType.END, new Uint8Array(0));
    spare = this.#buffer ?? spare;
    this.#buffer = undefined;
  }

  /** Cuts runs into parts that fit into a record. */
  #collect(runs: Iterable<Run>, most: number, write: (part: Run[], pages: number) => void): void {
    let part: Run[] = [];
    let pages = 0;
    const done = () => {
      if (part.length > 0) write(part, pages);
      part = [];
      pages = 0;
    };
    for (const { page, count } of runs) {
      for (let at = 0; at < count;) {
        const length = Math.min(count - at, most - pages);
        part.push({ page: page + at, count: length });
        pages += length;
        at += length;
        if (pages === most || part.length === RECORD_RUNS) done();
      }
    }
    done();
  }

  #pages(content: (run: Run) => Iterable<Uint8Array>, runs: readonly Run[], pages: number): void {
    const size = PAGE * (1 + this.#recordPages);
    if (this.#buffer === undefined && spare?.length === size) this.#buffer = spare;
    const buffer = (this.#buffer ??= new Uint8Array(size));
    spare = undefined;
    let at = PAGE;
    for (const run of runs) {
      for (const bytes of content(run)) {
        buffer.set(bytes, at);
        at += bytes.length;
      }
    }
    // A copy: what is told by the checksum is what is written, though a device may write meanwhile.
    let data = buffer.subarray(PAGE, at);
    let flags = 0;
    if (this.#compress) {
      const small = Bun.zstdCompressSync(data, { level: LEVEL });
      if (small.length < data.length) {
        data = small;
        flags = COMPRESSED;
      }
    }
    const length = 16 * runs.length;
    buffer.fill(0, 0, PAGE);
    encodeRuns(buffer.subarray(HEAD, HEAD + length), runs);
    const head = { type: RecordType.PAGES, flags, length, pages, stored: data.length };
    this.#head(buffer.subarray(0, PAGE), { ...head, data: checksum(data) });
    this.pages += pages;
    if (flags === 0) {
      this.#give(buffer.subarray(0, at));
      return;
    }
    this.#give(buffer.subarray(0, PAGE));
    this.#give(data);
    const rest = padded(data.length) - data.length;
    if (rest > 0) this.#give(new Uint8Array(rest));
  }

  #head(
    block: Uint8Array,
    head: {
      type: RecordType;
      length: number;
      flags?: number;
      pages?: number;
      stored?: number;
      data?: bigint;
    },
  ): void {
    const whole = { flags: 0, pages: 0, stored: 0, data: 0n, ...head };
    this.#before = encodeHead(block, whole, this.#serial++, this.#before);
  }

  #give(bytes: Uint8Array): void {
    this.#sink(bytes);
    this.written += bytes.length;
  }
}
