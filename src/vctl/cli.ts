/**
 * What all commands share: how they fail, and what they say. It imports no other room, so that each
 * command loads only what it needs.
 */

/** A mistake of the user, in one sentence. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** Errors whose message is a sentence for the user, by name. */
const EXPECTED = new Set([
  "UsageError",
  "BootError",
  "DiskError",
  "FileError",
  "SizeError",
  "VmError",
  "EngineError",
  "NativeError",
  "TraceError",
]);

/** Ends vctl with "vctl: sentence" and code 1; an error of our own shows its stack. */
export function fail(error: unknown): never {
  const known = error instanceof Error && EXPECTED.has(error.name);
  const text = error instanceof Error ? (known ? error.message : (error.stack ?? error)) : error;
  process.stderr.write(`vctl: ${known ? "" : "internal error: "}${text}\n`);
  process.exit(1);
}

/** Writes "vctl: message" to standard error. */
export function say(message: string): void {
  process.stderr.write(`vctl: ${message}\n`);
}
