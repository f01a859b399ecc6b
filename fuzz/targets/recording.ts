import { mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FileError, openBootFiles } from "../../src/vmd/boot-files.ts";
import {
  decodeEvents,
  encodeEvent,
  EVENT_HEAD,
  EventKind,
  type RecordedEvent,
} from "../../src/vmd/recording/events.ts";
import { MachineRecorder } from "../../src/vmd/recording/machine-recorder.ts";
import { RecordingError, RecordingReader } from "../../src/vmd/recording/recording-reader.ts";
import { replayRecording, type ReplayResult } from "../../src/vmd/recording/replay.ts";
import { VmLife } from "../../src/vmd/vm-life.ts";
import { checkVmOptions } from "../../src/vmd/vm-options.ts";
import {
  decodeHead,
  encodeHead,
  HEAD,
  padded,
  type RecordHead,
  RecordType,
} from "../../src/vmm/snapshot/format.ts";
import { Choices } from "../own/choices.ts";
import { must, type Target } from "../own/target.ts";

const folder = mkdtempSync(join(tmpdir(), "fuzz-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const file = join(folder, "recording");
const encoder = new TextEncoder();

/** Exits that a run makes at most: the recorded one has fewer. */
const UNTIL = 500;
/** Guest ns from poll to poll, so that each costs some exits; a checkpoint for each two keys. */
const INTERVALS = { poll: 5000, check: 80_000 };
/** Polls from key to key. */
const KEY_POLLS = 8;
const CHANGES_MAX = 16;
const LETTERS = "vmdq";
const SENTENCE = 400;

/** Says what is typed on COM1, until that is "q". */
const ECHO = Uint8Array.fromHex(
  [
    "baf803 b041 ee", // mov dx,3f8; mov al,'A'; out dx,al
    "bafd03 ec a801 74fb", // mov dx,3fd; in al,dx; test al,1; jz the in
    "baf803 ec ee 3c71 75ef", // mov dx,3f8; in al,dx; out dx,al; cmp al,'q'; jne "mov dx,3fd"
    "b015 baf400 ee f4", // mov al,15; mov dx,f4; out dx,al
  ]
    .join("")
    .replaceAll(" ", ""),
);

/** A recording of a few bytes of firmware, made here: what was typed, and when it ended. */
function recorded(): Uint8Array {
  const rom = new Uint8Array(4096).fill(0xf4);
  rom.set(ECHO);
  rom.set([0xe9, 0x0d, 0xf0], 0xff0); // jmp to offset 0
  const kernel = join(folder, "firmware");
  writeFileSync(kernel, rom);
  const options = checkVmOptions({
    ...{ name: "fuzz", kernel, memory: 2 ** 20, engine: "unicorn", virtualTime: true },
    ...{ epoch: 0, debugExit: true },
  });
  const attention = Int32Array.of(1);
  let polls = 0;
  const attend = () => {
    polls++;
    if (polls % KEY_POLLS !== 0) return;
    const key = encoder.encode(LETTERS[polls / KEY_POLLS - 1]);
    recorder.console(key);
    life.machine.console.input(key);
  };
  const output = { path: file, descriptor: openSync(file, "w") };
  const host = { attention, stopped: () => false, attend };
  const recorder = new MachineRecorder(output, host, INTERVALS);
  using life = VmLife.boot("unicorn", options, openBootFiles(options), {
    output: () => {},
    debug: () => {},
  });
  recorder.begin(life, {
    ...{ format: 1, id: "0".repeat(32), created: 0, engine: "unicorn", ahead: 0, interfaces: [] },
    options: { name: "fuzz", memory: 2 ** 20, virtualTime: true, epoch: 0, debugExit: true },
  });
  const stop = life.vcpu.run();
  recorder.end(`fuzz: ${stop.kind}`, false);
  // A Buffer's slices are no copies: what an input changes would stay so.
  return new Uint8Array(readFileSync(file));
}

/** A record as it lies in a file. */
interface Written {
  readonly head: Omit<RecordHead, "length">;
  readonly payload: Uint8Array;
  /** Its pages, as they are stored, padded. */
  readonly stored: Uint8Array;
}

function recordsOf(bytes: Uint8Array): Written[] {
  const list: Written[] = [];
  let before = 0n;
  for (let at = 0; at < bytes.length;) {
    const block = bytes.subarray(at);
    const { head, sum } = decodeHead(block, list.length, before);
    const data = padded(HEAD + head.length);
    const end = data + padded(head.stored);
    const payload = block.subarray(HEAD, HEAD + head.length);
    list.push({ head, payload, stored: block.subarray(data, end) });
    before = sum;
    at += end;
  }
  return list;
}

/** A file whose checksums are right. */
function encodeRecords(list: readonly Written[]): Uint8Array {
  let before = 0n;
  const parts = list.map(({ head, payload, stored }, serial) => {
    const block = new Uint8Array(padded(HEAD + payload.length));
    block.set(payload, HEAD);
    before = encodeHead(block, { ...head, length: payload.length }, serial, before);
    return [block, stored];
  });
  return new Uint8Array(Buffer.concat(parts.flat()));
}

const base = recorded();
const [CONFIG, ...rest] = recordsOf(base);
const { EVENTS } = RecordType;
const SNAPSHOT = rest.filter(({ head }) => head.type !== EVENTS);
const RECORDED = rest
  .filter(({ head }) => head.type === EVENTS)
  .flatMap(({ payload }) => decodeEvents(payload) ?? []);
const INPUT = RECORDED.findIndex(({ kind }) => kind === EventKind.CONSOLE);

function eventsRecord(payload: Uint8Array): Written {
  const head = { type: EVENTS, flags: 0, pages: 0, stored: 0, data: 0n };
  return { head, payload, stored: new Uint8Array(0) };
}

function encodeEvents(list: readonly RecordedEvent[]): Uint8Array {
  const size = list.reduce((sum, { data }) => sum + EVENT_HEAD + data.length, 0);
  const payload = new Uint8Array(size);
  list.reduce((at, event) => encodeEvent(payload, at, event), 0);
  return payload;
}

/** Other bytes in what was saved: places, then what they become. */
function changed(bytes: Uint8Array, changes: Choices): Uint8Array {
  const copy = bytes.slice();
  while (!changes.ended) {
    const at = changes.u16() % copy.length;
    const some = changes.take(1 + (changes.u8() & 7));
    copy.set(some.subarray(0, copy.length - at), at);
  }
  return copy;
}

const NUMBERS = [0, 1, 2, 0xffff, 2 ** 32, 2 ** 53, 2 ** 53 + 2, -1, 0.5, NaN, Infinity];

/** What an event's number becomes: near to what it was, far, or none. */
function number(choices: Choices, was: number): number {
  const how = choices.u8();
  if (how < NUMBERS.length) return NUMBERS[how];
  return was + (how < 128 ? how - 64 : choices.u32() * (how - 128));
}

/** Other data: some bytes of it, all of it, or its length alone. */
function changedData(data: Uint8Array, choices: Choices): Uint8Array {
  switch (choices.below(3)) {
    case 0:
      return changed(data, new Choices(choices.take(choices.u8())));
    case 1:
      return choices.take(choices.u8()).slice();
    default: {
      const how = choices.u8();
      const length = how < 128 ? how % (data.length + 1) : data.length + how - 127;
      const resized = new Uint8Array(length);
      resized.set(data.subarray(0, length));
      return resized;
    }
  }
}

function changedEvent(event: RecordedEvent, choices: Choices): RecordedEvent {
  switch (choices.below(8)) {
    case 0:
      return { ...event, kind: choices.below(12) as EventKind };
    case 1:
      return { ...event, device: choices.u8() };
    case 2:
      return { ...event, poll: number(choices, event.poll) };
    case 3:
      return { ...event, exits: number(choices, event.exits) };
    case 4:
      return { ...event, now: number(choices, event.now) };
    case 5:
      return { ...event, value: number(choices, event.value) };
    default:
      return { ...event, data: changedData(event.data, choices) };
  }
}

const Op = { CHANGED: 0, SKIP: 1, AGAIN: 2, CUT: 3, BYTES: 4, END: 5 } as const;
const LAST = RECORDED.length - 1;

/** What stands in an event's place. */
interface Slot {
  events: RecordedEvent[];
  /** A record ends behind it. */
  cut: boolean;
  /** The payload of a record behind that. */
  bytes?: Uint8Array;
}

/**
 * The recorded events with a few changes, in records. A change says which event it is of: the others are as
 * they were, so that the machine runs up to there.
 */
function eventRecords(choices: Choices): Written[] {
  let slots = RECORDED.map((event): Slot => ({ events: [event], cut: false }));
  for (let count = 0; count < CHANGES_MAX && !choices.ended; count++) {
    const index = choices.below(RECORDED.length);
    const event = RECORDED[index];
    const slot = slots[Math.min(index, slots.length - 1)];
    switch (choices.below(6)) {
      case Op.CHANGED:
        slot.events.push(changedEvent(slot.events.pop() ?? event, choices));
        break;
      case Op.SKIP:
        slot.events = [];
        break;
      case Op.AGAIN: {
        const { poll, exits, now } = event;
        const some = { ...RECORDED[choices.below(LAST)], poll, exits, now };
        slot.events.push(changedEvent(some, choices));
        break;
      }
      case Op.CUT:
        slot.cut = true;
        break;
      case Op.BYTES:
        slot.cut = true;
        slot.bytes = choices.take(choices.u8()).slice();
        break;
      case Op.END: {
        const changes = new Choices(choices.take(choices.u8()));
        const data = changed(RECORDED[LAST].data, changes);
        slot.events = [{ ...RECORDED[LAST], data }];
        slots = slots.slice(0, slots.indexOf(slot) + 1);
      }
    }
  }
  const records: Written[] = [];
  let list: RecordedEvent[] = [];
  for (const { events, cut, bytes } of [...slots, { events: [], cut: true, bytes: undefined }]) {
    list.push(...events);
    if (!cut) continue;
    if (list.length > 0) records.push(eventsRecord(encodeEvents(list)));
    if (bytes !== undefined) records.push(eventsRecord(bytes));
    list = [];
  }
  return records;
}

const How = { RAW: 1, CONFIG: 2 } as const;

/** The text of CONFIG with some of it replaced, so that it mostly stays JSON. */
function config(choices: Choices): Written {
  const text = new TextDecoder().decode(CONFIG.payload);
  const words = [...text.matchAll(/"(?:[^"\\]|\\.)*"|-?[0-9.]+|true|false|null|[[\]{}]/g)];
  let at = 0;
  let other = "";
  const changes = new Map<number, string>();
  for (let count = choices.u8() & 7; count > 0; count--) {
    const which = choices.u16() % words.length;
    const how = choices.u8();
    const own = () => new TextDecoder().decode(choices.take(how >> 3));
    const word = [...WORDS, ""][how % (WORDS.length + 1)];
    changes.set(which, word === "" ? own() : word);
  }
  for (const [index, { 0: word, index: from }] of words.entries()) {
    other += text.slice(at, from) + (changes.get(index) ?? word);
    at = from + word.length;
  }
  return { ...CONFIG, payload: encoder.encode(other + text.slice(at)) };
}

const WORDS = [
  ...["0", "1", "-1", "1e999", "4096", "1048576", "1e12", "null", "true", "false", "{}", "[]"],
  ...['""', '"x"', '"\\u001b[2J"', '"__proto__"', "[1]", '"devices":["balloon","console"],"x"'],
  ...['"disks":[{"size":512,"readOnly":false}],"y"', '"interfaces":[{"offloads":true}],"z"'],
];

/** @throws what is no error of a recording, or none whose message is a sentence that names the file */
function sentence(error: unknown): void {
  if (![RecordingError, FileError].some((kind) => error instanceof kind)) throw error;
  const { message } = error as Error;
  must(message.startsWith(`${file}: `), `it names no file: ${message}`);
  plain(message);
}

function plain(text: string): void {
  must(text.length > 0 && text.length < SENTENCE, `a message of ${text.length} characters`);
  // oxlint-disable-next-line no-control-regex
  must(!/[\x00-\x1f\x7f]/.test(text), "a message with a control character");
}

function check(result: ReplayResult): void {
  must(/^[0-9a-f]{64}$/.test(result.image), "no checksum");
  must(result.exits <= UNTIL, `${result.exits} exits of ${UNTIL}`);
  if (result.difference !== undefined) plain(result.difference);
  if (result.end !== undefined) plain(result.end.message);
}

/** Reads a recording to its end, and runs nothing. */
function readThrough(): void {
  using reader = new RecordingReader(file);
  reader.read(() => {
    const { reader: snapshot } = reader.snapshot;
    for (let record = snapshot.next(); record !== undefined; record = snapshot.next()) {
      if (record.head.pages > 0) snapshot.data(record);
    }
  });
  let event = reader.take();
  while (event.kind !== EventKind.END) event = reader.take();
  reader.end(event);
}

const descriptors = () => readdirSync("/proc/self/fd").length;

export const target: Target = {
  name: "recording",
  about: "recordings: run again the same, told from another run, or refused by a sentence",
  maxInput: 4096,
  steps: 8_000_000,
  memory: 2 ** 27,
  dictionary: WORDS.map((word) => encoder.encode(word)),
  *seeds() {
    yield Uint8Array.of(0);
    for (const index of RECORDED.keys()) {
      yield Uint8Array.from([0, index, Op.CHANGED, 6, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
      yield Uint8Array.from([0, index, Op.SKIP]);
    }
    for (const field of [0, 1, 2, 3, 4, 5]) {
      yield Uint8Array.from([0, INPUT, Op.CHANGED, field, 70]);
      yield Uint8Array.from([0, INPUT, Op.AGAIN, INPUT, field, 65]);
    }
    // What is typed is more.
    yield Uint8Array.from([0, INPUT, Op.CHANGED, 6, 2, 130]);
    for (const kind of [1, 3, 4, 5, 6, 7, 8, 9, 10]) {
      yield Uint8Array.from([0, 1, Op.AGAIN, INPUT, 0, kind, 1, Op.CUT]);
    }
    yield Uint8Array.from([0, 0, Op.SKIP, 1, Op.BYTES, 40, 2, 0, 0, 0, 9]);
    yield Uint8Array.from([0, LAST, Op.END, 4, 90, 0, 0, 27]);
    for (let word = 0; word < 60; word += 3) {
      yield Uint8Array.from([How.CONFIG, 1, word, 0, word % WORDS.length]);
    }
    yield Uint8Array.from([How.RAW, ...base.subarray(0, 300)]);
  },
  run(input) {
    const choices = new Choices(input);
    const how = choices.u8();
    const before = descriptors();
    if ((how & How.RAW) !== 0) {
      // Over the beginning of one that is whole.
      const bytes = base.slice();
      bytes.set(choices.rest(), 0);
      writeFileSync(file, bytes);
    } else {
      const first = (how & How.CONFIG) !== 0 ? config(choices) : CONFIG;
      writeFileSync(file, encodeRecords([first, ...SNAPSHOT, ...eventRecords(choices)]));
    }
    try {
      if ((how & How.RAW) !== 0) readThrough();
      else {
        const result = replayRecording(file, { until: UNTIL });
        check(result);
        if (input.length < 2) must(result.difference === undefined, `${result.difference}`);
      }
    } catch (error) {
      sentence(error);
    }
    must(descriptors() === before, "a file stays open");
  },
};
