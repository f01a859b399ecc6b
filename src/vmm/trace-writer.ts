/** Writes exit traces; trace.ts has their format and reads them. */
import { closeSync, writeSync } from "node:fs";
import { ExitReason, RunPage } from "./exit.ts";
import {
  EXIT_HEAD,
  HEAD,
  LONGEST_HEADER,
  MAGIC,
  RecordKind,
  sentence,
  TraceError,
  type TraceHeader,
  VERSION,
} from "./trace.ts";

const BUFFER = 1 << 18;
const LARGEST = HEAD + EXIT_HEAD + 0xffff;
/** RIP in the run page, in words: kvm_sync_regs at byte 304, RIP 128 bytes in. */
const RIP_WORD = (304 + 128) / 4;

/**
 * Writes a trace. Nothing is allocated per exit; the file is written in large pieces. Once it has
 * its header nothing throws: a failure is kept, and ends the writing.
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
  #last = 0;

  /**
   * @param file empty, open for writing, under the name that the user knows. The writer closes it.
   * @throws TraceError when it can't be written.
   */
  constructor({ path, descriptor }: { path: string; descriptor: number }, header: TraceHeader) {
    this.#path = path;
    this.#file = descriptor;
    const json = new TextEncoder().encode(JSON.stringify(header));
    const head = new Uint8Array(16 + json.length);
    head.set(new TextEncoder().encode(MAGIC));
    new DataView(head.buffer).setUint32(8, VERSION, true);
    new DataView(head.buffer).setUint32(12, json.length, true);
    head.set(json, 16);
    if (json.length > LONGEST_HEADER) this.failure = `${path}: the header is too long`;
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

  request(command: number, now: number): void {
    const at = this.#record(RecordKind.REQUEST, now, 8, 0);
    this.#view.setUint32(at, command, true);
    this.#view.setUint32(at + 4, 0, true);
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

  /** The machine starts again, at UTC `epoch`, ms since 1970; its guest time at 0. */
  reset(epoch: number): void {
    this.#view.setFloat64(this.#record(RecordKind.RESET, this.#last, 8, 0), epoch, true);
    this.#last = 0;
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
    this.#last = now;
    return at + HEAD;
  }
}
