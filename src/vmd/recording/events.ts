/**
 * What a recording holds behind its snapshot: all that came into the machine from outside, in order,
 * each with the place at which it did. EVENTS records carry as many as were at hand.
 *
 * ```
 *  0  kind    u8         8  poll    f64  places at which input is let in, so far
 *  1  device  u8        16  exits   f64
 *  2  zero    u16       24  now     f64  guest time, ns
 *  4  length  u32       32  value   f64
 * 40  data
 * ```
 *
 * All numbers are little-endian. Events that need no poll (a disk's) have that of the last one, and
 * the exit in which they came.
 */

export const EventKind = {
  /** In no file: there the recording ends, without an end. */
  CUT: 0,
  /** The guest slept, and was looked at before its next timer: at `now`. */
  WAKE: 1,
  /** Typed at COM1. */
  CONSOLE: 2,
  /** Typed at the virtio console. */
  VIRTIO: 3,
  /** vmmci's command `value`. */
  REQUEST: 4,
  /** The guest is to give away `value` pages. */
  BALLOON: 5,
  /** Interface `device` got a frame, with its header. */
  FRAME: 6,
  /** Request `value` of disk `device` read what was not known: f64 first sector, sectors. */
  READ: 7,
  /** The host failed to do request `value` of disk `device`. */
  FAILED: 8,
  /** All registers have the checksum u64. */
  CHECK: 9,
  /** The run is over: `value` 1 where the host stopped it. JSON: EndRecord. */
  END: 10,
  /**
   * The guest reset its machine. JSON: EndRecord, of the machine that is gone. The snapshot of the
   * one that begins follows; places go on, guest time begins anew.
   */
  RESET: 11,
} as const;
export type EventKind = (typeof EventKind)[keyof typeof EventKind];

/** Of recordings. Those of version 1 have no resets. */
export const VERSION = 2;

export const EVENT_HEAD = 40;
/** Bytes of data of one event at most. */
export const DATA_MAX = 2 ** 20;
const LAST_KIND = EventKind.RESET;

export interface RecordedEvent {
  readonly kind: EventKind;
  readonly device: number;
  readonly poll: number;
  readonly exits: number;
  /** Guest time, ns. */
  readonly now: number;
  readonly value: number;
  readonly data: Uint8Array;
}

/** Whether it is of a disk: it may come in any exit. */
export function isOfDisk({ kind }: RecordedEvent): boolean {
  return kind === EventKind.READ || kind === EventKind.FAILED;
}

/** How a run ended, or one of its machines. */
export interface EndRecord {
  /** SHA-256 of the final image: state-hash.ts. */
  readonly image: string;
  /** For people. */
  readonly message: string;
}

/** Writes an event. @returns where the next one goes */
export function encodeEvent(into: Uint8Array, at: number, event: RecordedEvent): number {
  const view = new DataView(into.buffer, into.byteOffset + at, EVENT_HEAD);
  view.setUint8(0, event.kind);
  view.setUint8(1, event.device);
  view.setUint16(2, 0, true);
  view.setUint32(4, event.data.length, true);
  view.setFloat64(8, event.poll, true);
  view.setFloat64(16, event.exits, true);
  view.setFloat64(24, event.now, true);
  view.setFloat64(32, event.value, true);
  into.set(event.data, at + EVENT_HEAD);
  return at + EVENT_HEAD + event.data.length;
}

/** Reads a payload's events; undefined when that is not what it holds. */
export function decodeEvents(payload: Uint8Array): RecordedEvent[] | undefined {
  const events: RecordedEvent[] = [];
  for (let at = 0; at < payload.length;) {
    if (at + EVENT_HEAD > payload.length) return undefined;
    const view = new DataView(payload.buffer, payload.byteOffset + at, EVENT_HEAD);
    const kind = view.getUint8(0);
    const length = view.getUint32(4, true);
    const [poll, exits, now, value] = [8, 16, 24, 32].map((field) => view.getFloat64(field, true));
    at += EVENT_HEAD + length;
    if (kind < EventKind.WAKE || kind > LAST_KIND || length > DATA_MAX || at > payload.length) {
      return undefined;
    }
    if (![poll, exits, now, value].every((number) => number >= 0 && number <= 2 ** 53)) {
      return undefined;
    }
    const data = payload.slice(at - length, at);
    events.push({
      kind: kind as EventKind,
      device: view.getUint8(1),
      ...{ poll, exits, now, value, data },
    });
  }
  return events;
}
