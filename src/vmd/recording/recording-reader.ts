/** Reads a recording, and believes none of what it says before it is checked. */
import { closeSync } from "node:fs";
import * as v from "valibot";
import { EngineError } from "../../vmm/engine.ts";
import { RecordType, SnapshotError } from "../../vmm/snapshot/format.ts";
import { type ReaderPlace, type Source, SnapshotReader } from "../../vmm/snapshot/reader.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import { openBootFile, openPlainly } from "../boot-files.ts";
import { parseConfig, type SnapshotConfig } from "../snapshot/config.ts";
import { decodeEvents, type EndRecord, EventKind, type RecordedEvent } from "./events.ts";

const size = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const interval = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1e12));

const schema = v.object({
  recording: v.object({
    version: v.literal(1),
    /** Guest ns from a poll to the next. */
    poll: interval,
    /** Guest ns from a checkpoint to the next. */
    check: interval,
    /** The CD-ROM's is the last. */
    disks: v.pipe(v.array(v.object({ size, readOnly: v.boolean() })), v.maxLength(17)),
    interfaces: v.pipe(v.array(v.object({ offloads: v.boolean() })), v.maxLength(8)),
  }),
});

export type RecordingConfig = v.InferOutput<typeof schema>["recording"];

const endSchema = v.object({
  image: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  // It is printed on a terminal.
  // oxlint-disable-next-line no-control-regex
  message: v.pipe(v.string(), v.maxLength(10_000), v.regex(/^[^\x00-\x1f\x7f-\x9f]*$/)),
});

/** A recording that can't be used: one sentence that names the file. */
export class RecordingError extends Error {
  override name = "RecordingError";
}

/** Where the next event is. */
export interface EventPlace {
  readonly events: readonly RecordedEvent[];
  readonly at: number;
  readonly ended: boolean;
  readonly reader: ReaderPlace;
  /** In the file, bytes. */
  readonly position: number;
}

/** A recording that is read from its beginning; disposed of, its file is closed. */
export class RecordingReader implements Disposable {
  readonly path: string;
  /** What the machine is. */
  readonly machine: SnapshotConfig;
  readonly config: RecordingConfig;
  readonly #descriptor: number;
  readonly #source: FileSource;
  readonly #reader: SnapshotReader;
  #events: readonly RecordedEvent[] = [];
  #at = 0;
  #ended = false;

  /** @throws RecordingError, FileError */
  constructor(path: string) {
    this.path = path;
    this.#descriptor = openBootFile(path, openPlainly).descriptor;
    try {
      const source = new FileSource(this.#descriptor);
      if (source.size >= 4 && type(source) !== RecordType.CONFIG) {
        throw new RecordingError(`${path}: not a recording`);
      }
      // Twice: whoever loads the snapshot reads its CONFIG again.
      const { machine, config } = this.read(() => readBeginning(new FileSource(this.#descriptor)));
      this.machine = machine;
      this.config = config;
      this.#source = new FileSource(this.#descriptor);
      this.#reader = new SnapshotReader(this.#source, { followed: true });
    } catch (error) {
      closeSync(this.#descriptor);
      throw error;
    }
  }

  /** For loadSnapshots: the machine as it began. */
  get snapshot(): { source: Source; verify: boolean; reader: SnapshotReader } {
    return { source: this.#source, verify: true, reader: this.#reader };
  }

  /** Does what throws SnapshotErrors and EngineErrors. @throws RecordingError in their place */
  read<T>(what: () => T): T {
    try {
      return what();
    } catch (error) {
      if (!(error instanceof SnapshotError || error instanceof EngineError)) throw error;
      throw new RecordingError(`${this.path}: ${error.message}`);
    }
  }

  get place(): EventPlace {
    return {
      events: this.#events,
      at: this.#at,
      ended: this.#ended,
      reader: this.#reader.place,
      position: this.#source.position,
    };
  }

  set place({ events, at, ended, reader, position }: EventPlace) {
    this.#events = events;
    this.#at = at;
    this.#ended = ended;
    this.#reader.place = reader;
    this.#source.position = position;
  }

  /** The next event, which `take` takes. There is one until END is taken. @throws RecordingError */
  get next(): RecordedEvent {
    while (this.#at === this.#events.length) this.read(() => this.#more());
    return this.#events[this.#at];
  }

  take(): RecordedEvent {
    const event = this.next;
    this.#at++;
    return event;
  }

  #more(): void {
    if (this.#ended) throw new SnapshotError("it goes on behind its end");
    const events = decodeEvents(this.#reader.following());
    if (events === undefined) throw new SnapshotError("its events are damaged");
    const end = events.findIndex(({ kind }) => kind === EventKind.END);
    this.#ended = end >= 0;
    if (this.#ended && (end !== events.length - 1 || !this.#source.ended)) {
      throw new SnapshotError("something follows its end");
    }
    this.#events = events;
    this.#at = 0;
  }

  /** What an END event says. @throws RecordingError */
  end({ data }: RecordedEvent): EndRecord {
    return this.read(() => {
      const result = v.safeParse(endSchema, json(data));
      if (!result.success) throw new SnapshotError("its end is damaged");
      return result.output;
    });
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor);
  }
}

function type(source: Source): number {
  const bytes = new Uint8Array(4);
  source.read(bytes);
  return new DataView(bytes.buffer).getUint32(0, true);
}

function readBeginning(source: Source): { machine: SnapshotConfig; config: RecordingConfig } {
  const record = new SnapshotReader(source).next();
  const payload = record?.payload ?? new Uint8Array(0);
  const machine = parseConfig(payload);
  const value = json(payload) as object;
  if (!("recording" in value)) throw new SnapshotError("a snapshot, and not a recording");
  const result = v.safeParse(schema, value);
  if (!result.success) {
    const where = v.getDotPath(result.issues[0]) ?? "all of it";
    throw new SnapshotError(`what it says about its machine can't be: ${where}`);
  }
  return { machine, config: result.output.recording };
}

function json(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new SnapshotError("what should be JSON is none");
  }
}
