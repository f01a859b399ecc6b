/**
 * What all commands share: how they fail, and what they say. It imports no other room, so that each
 * command loads only what it needs.
 */

import { writeSync } from "node:fs";

/** As in the protocol, whose checks load a library that most commands don't need. */
const VM_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
const LONGEST_NAME = 63;

/** A mistake of the user, in one sentence. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** Errors whose message is a sentence for the user, by name. */
const EXPECTED = new Set([
  "UsageError",
  "RefusedError",
  "BootError",
  "DiskError",
  "FileError",
  "SizeError",
  "VmError",
  "EngineError",
  "NativeError",
  "TraceError",
  "SnapshotError",
  "RecordingError",
  "SandboxError",
]);

/** A VM as users name it: an id, or a name. @throws UsageError */
export function vmReference(text: string | undefined): number | string {
  if (text === undefined || text === "") throw new UsageError("missing vmid argument");
  if (/^[0-9]+$/.test(text)) {
    const id = Number(text);
    if (!Number.isSafeInteger(id) || id === 0) throw new UsageError(`invalid id: ${text}`);
    return id;
  }
  if (text.length > LONGEST_NAME) throw new UsageError("name too long");
  if (!VM_NAME.test(text)) throw new UsageError("invalid VM name");
  return text;
}

/** Ends vctl with "vctl: sentence" and code 1; an error of our own shows its stack. */
export function fail(error: unknown): never {
  const known = error instanceof Error && EXPECTED.has(error.name);
  const text = error instanceof Error ? (known ? error.message : (error.stack ?? error)) : error;
  say(`${known ? "" : "internal error: "}${text}`);
  process.exit(1);
}

/** Writes "vctl: message" to standard error. */
export function say(message: string): void {
  complain(`vctl: ${message}\n`);
}

let verbose = false;

/** From now on vctl says what it does. */
export function setVerbose(): void {
  verbose = true;
}

/** Says what is done, where the user wants to know. */
export function debug(message: string): void {
  if (verbose) say(message);
}

/** Writes text to standard error. */
export function complain(text: string): void {
  write(2, text);
}

/** Writes a command's result to standard output. Who doesn't read it to its end ends vctl. */
export function print(text: string): void {
  if (!write(1, text)) process.exit(1);
}

/** What a guest prints, as it is. */
export function printBytes(bytes: Uint8Array): void {
  if (!writeBytes(1, bytes)) process.exit(1);
}

function write(descriptor: 1 | 2, text: string): boolean {
  return writeBytes(descriptor, new TextEncoder().encode(text));
}

// Node's streams take 20 ms of a start.
function writeBytes(descriptor: 1 | 2, all: Uint8Array): boolean {
  let bytes = all;
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(descriptor, bytes));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "EAGAIN") return false;
      Bun.sleepSync(1);
    }
  }
  return true;
}
