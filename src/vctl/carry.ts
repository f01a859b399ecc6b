/** Carries bytes between descriptors, for commands that stand between a VM and a pipe. */
import { processLibrary, ptr } from "../vmm/native.ts";

export const INPUT = 1;
const ROOM = 2;
const EAGAIN = -11;
const INTERRUPTED = -4;
/** What a socket holds, about. */
const PIECE = 256 * 1024;
/** Signals are heard so often, ms. */
const LOOK = 200;

const piece = new Uint8Array(PIECE);

/** What came: valid until the next call; "none" for now, or "end" for ever. */
export function readPiece(descriptor: number): Uint8Array | "none" | "end" {
  const length = Number(processLibrary().vmm_read(descriptor, ptr(piece), PIECE));
  if (length === EAGAIN || length === INTERRUPTED) return "none";
  return length > 0 ? piece.subarray(0, length) : "end";
}

/** Fills an array, waiting for it. @returns bytes that came before the end */
export function readWhole(descriptor: number, into: Uint8Array): number {
  let at = 0;
  while (at < into.length) {
    const rest = into.subarray(at);
    const length = Number(processLibrary().vmm_read(descriptor, ptr(rest), rest.length));
    if (length === EAGAIN) wait([descriptor]);
    else if (length === 0 || (length < 0 && length !== INTERRUPTED)) break;
    else if (length > 0) at += length;
  }
  return at;
}

/** Writes all, waiting for room. @returns false when it can't be written any more */
export function writeWhole(descriptor: number, bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length;) {
    const rest = bytes.subarray(at);
    const written = Number(processLibrary().vmm_write(descriptor, ptr(rest), rest.length));
    if (written === EAGAIN) poll([descriptor], ROOM, -1);
    else if (written < 0 && written !== INTERRUPTED) return false;
    else if (written > 0) at += written;
  }
  return true;
}

export function writeLine(descriptor: number, line: string): boolean {
  return writeWhole(descriptor, new TextEncoder().encode(`${line}\n`));
}

/** Sleeps until one has something, or for a moment. @returns which have */
export function wait(descriptors: readonly number[]): boolean[] {
  return poll(descriptors, INPUT, LOOK);
}

function poll(descriptors: readonly number[], what: number, time: number): boolean[] {
  const events = new Int32Array(descriptors.length).fill(what);
  const { vmm_poll } = processLibrary();
  const count = vmm_poll(ptr(Int32Array.from(descriptors)), ptr(events), events.length, time);
  return descriptors.map((_, i) => count > 0 && events[i] !== 0);
}
