/** Reads a recording, and believes none of what it says before it is checked. */
import { closeSync } from "node:fs";
import * as v from "valibot";
import { EngineError } from "../../vmm/engine.ts";
import { RecordType, SnapshotError, TruncatedError } from "../../vmm/snapshot/format.ts";
import { type ReaderPlace, type Source, SnapshotReader } from "../../vmm/snapshot/reader.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import { type BootFile, openBootFile, openPlainly } from "../boot-files.ts";
import { parseConfig, type SnapshotConfig } from "../snapshot/config.ts";
import {
  decodeEvents,
  type EndRecord,
  EventKind,
  isOfDisk,
  type RecordedEvent,
  VERSION,
} from "./events.ts";

const size = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const interval = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1e12));

const schema = v.object({
  recording: v.object({
    version: v.picklist([1, VERSION]),
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

/** A snapshot, and the events that follow it: from a machine's beginning to its reset or end. */
interface Part {
  readonly machine: SnapshotConfig;
  readonly config: RecordingConfig;
  readonly reader: SnapshotReader;
}

/** Where the next event is. */
export interface EventPlace {
  readonly part: Part;
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
  readonly #descriptor: number;
  readonly #source: FileSource;
  #part: Part;
  #events: readonly RecordedEvent[] = [];
  #at = 0;
  #ended = false;

  /** @param file its path; or open, which is closed here. @throws RecordingError, FileError */
  constructor(file: string | BootFile) {
    const { path, descriptor } = typeof file === "string" ? openBootFile(file, openPlainly) : file;
    this.path = path;
    this.#descriptor = descriptor;
    try {
      const source = new FileSource(this.#descriptor);
      if (source.size >= 4 && type(new FileSource(this.#descriptor)) !== RecordType.CONFIG) {
        throw new RecordingError(`${path}: not a recording`);
      }
      this.#source = source;
      this.#part = this.read(() => readPart(source));
    } catch (error) {
      closeSync(this.#descriptor);
      throw error;
    }
  }

  /** What the machine is. */
  get machine(): SnapshotConfig {
    return this.#part.machine;
  }

  get config(): RecordingConfig {
    return this.#part.config;
  }

  /** For loadSnapshots: the machine as it began. */
  get snapshot(): { source: Source; verify: boolean; reader: SnapshotReader } {
    return { source: this.#source, verify: true, reader: this.#part.reader };
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
      part: this.#part,
      events: this.#events,
      at: this.#at,
      ended: this.#ended,
      reader: this.#part.reader.place,
      position: this.#source.position,
    };
  }

  set place({ part, events, at, ended, reader, position }: EventPlace) {
    this.#part = part;
    this.#events = events;
    this.#at = at;
    this.#ended = ended;
    part.reader.place = reader;
    this.#source.position = position;
  }

  /**
   * The next event, which `take` takes. There is one until END is taken; CUT is given again and again.
   * @throws RecordingError
   */
  get next(): RecordedEvent {
    while (this.#at === this.#events.length) this.read(() => this.#more());
    return this.#events[this.#at];
  }

  take(): RecordedEvent {
    const event = this.next;
    if (event.kind !== EventKind.CUT) this.#at++;
    return event;
  }

  /** What CUT is. */
  get cut(): RecordingError {
    return new RecordingError(`${this.path}: it ends too early`);
  }

  /** RESET was taken: `machine`, `config` and `snapshot` are those of what follows it. @throws RecordingError */
  nextPart(): void {
    this.#part = this.read(() => readPart(this.#source));
    this.#events = [];
    this.#at = 0;
    this.#ended = false;
  }

  #more(): void {
    if (this.#ended) throw new SnapshotError("it goes on behind its end");
    const last = this.#events.at(-1);
    const events = this.#following();
    const end = events?.at(-1);
    // Nothing says in the middle of an exit where the run is to stop.
    const isCut = events === undefined || (end !== undefined && this.#isCutBehind(end));
    this.#at = 0;
    this.#ended = end?.kind === EventKind.END;
    if (this.#ended && !this.#source.ended) throw new SnapshotError("something follows its end");
    if (!isCut) {
      this.#events = events;
      return;
    }
    const kept = (events ?? []).slice(0, end?.kind === EventKind.RESET ? -1 : undefined);
    while (kept.length > 0 && isOfDisk(kept[kept.length - 1])) kept.pop();
    const { poll, exits, now } = kept.at(-1) ?? last ?? { poll: 0, exits: 0, now: 0 };
    const data = new Uint8Array(0);
    this.#events = [...kept, { kind: EventKind.CUT, device: 0, poll, exits, now, value: 0, data }];
  }

  /** The events of the next record; undefined where the file ends without an end. */
  #following(): RecordedEvent[] | undefined {
    let payload: Uint8Array;
    try {
      payload = this.#part.reader.following();
    } catch (error) {
      if (error instanceof TruncatedError) return undefined;
      throw error;
    }
    const events = decodeEvents(payload);
    if (events === undefined) throw new SnapshotError("its events are damaged");
    const last = (kind: EventKind) => kind === EventKind.END || kind === EventKind.RESET;
    const end = events.findIndex(({ kind }) => last(kind));
    if (end >= 0 && end !== events.length - 1) {
      throw new SnapshotError("something follows its end");
    }
    return events;
  }

  /** Whether too little follows a record's last event: where that has to be known before it is taken. */
  #isCutBehind(last: RecordedEvent): boolean {
    const { position } = this.#source;
    const { place } = this.#part.reader;
    try {
      if (last.kind === EventKind.RESET) {
        const { reader } = readPart(this.#source);
        while (reader.next() !== undefined);
      } else if (isOfDisk(last)) this.#part.reader.following();
      return false;
    } catch (error) {
      if (error instanceof TruncatedError) return true;
      throw error;
    } finally {
      this.#source.position = position;
      this.#part.reader.place = place;
    }
  }

  /** What an END or RESET event says. @throws RecordingError */
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

/** Behind it, the source is where it was: whoever loads the snapshot reads its CONFIG again. */
function readPart(source: FileSource): Part {
  const { position } = source;
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
  source.position = position;
  const reader = new SnapshotReader(source, { followed: true });
  return { machine, config: result.output.recording, reader };
}

function json(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new SnapshotError("what should be JSON is none");
  }
}
