/** Writes a recording: for each machine, a snapshot and the events that follow it. */
import { closeSync, writeSync } from "node:fs";
import { RecordType } from "../../vmm/snapshot/format.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import { sentence } from "../../vmm/trace.ts";
import type { BootFile } from "../boot-files.ts";
import { DATA_MAX, encodeEvent, EVENT_HEAD, type RecordedEvent } from "./events.ts";
import { RecordingWriteError } from "./write-error.ts";

/** Bytes of events that are kept before they are written. */
const BUFFER = 2 ** 16;

export class RecordingWriter {
  /** Why nothing is written any more, in one sentence. */
  failure: string | undefined;
  readonly #path: string;
  readonly #descriptor: number;
  #writer!: SnapshotWriter;
  #buffer = new Uint8Array(BUFFER);
  #length = 0;

  /** @param file empty, open for writing. It is closed here. */
  constructor({ path, descriptor }: BootFile) {
    this.#path = path;
    this.#descriptor = descriptor;
  }

  /** A machine begins. @param write writes all of its snapshot. @throws RecordingWriteError */
  snapshot(write: (writer: SnapshotWriter) => void): void {
    this.flush();
    if (this.failure !== undefined) throw new RecordingWriteError(this.failure);
    this.#writer = new SnapshotWriter((bytes) => this.#write(bytes));
    write(this.#writer);
  }

  /** Keeps an event; a failure is kept too. */
  put(event: RecordedEvent): void {
    if (this.failure !== undefined) return;
    const size = EVENT_HEAD + event.data.length;
    if (event.data.length > DATA_MAX) throw new RangeError(`an event of ${size} bytes`);
    if (this.#length + size > BUFFER) this.flush();
    if (size > this.#buffer.length) this.#buffer = new Uint8Array(size);
    this.#length = encodeEvent(this.#buffer, this.#length, event);
  }

  /** Everything so far goes into the file. */
  flush(): void {
    if (this.#length === 0 || this.failure !== undefined) return;
    try {
      this.#writer.bytes(RecordType.EVENTS, this.#buffer.subarray(0, this.#length));
    } catch (error) {
      if (!(error instanceof RecordingWriteError)) throw error;
      this.failure = error.message;
    }
    this.#length = 0;
    if (this.#buffer.length > BUFFER) this.#buffer = new Uint8Array(BUFFER);
  }

  close(): void {
    this.flush();
    closeSync(this.#descriptor);
  }

  #write(bytes: Uint8Array): void {
    try {
      for (let at = 0; at < bytes.length;) {
        at += writeSync(this.#descriptor, bytes, at, bytes.length - at);
      }
    } catch (error) {
      throw new RecordingWriteError(sentence(this.#path, error));
    }
  }
}
