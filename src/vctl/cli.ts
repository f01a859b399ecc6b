/** What all commands share: how they fail, and how they ask for colour. */
import { BootError } from "../vmd/boot/index.ts";
import { FileError } from "../vmd/boot-files.ts";
import { SizeError } from "../vmd/size.ts";
import { VmError } from "../vmd/vm.ts";
import { EngineError } from "../vmm/engine.ts";
import { NativeError } from "../vmm/native.ts";
import { TraceError } from "../vmm/trace.ts";

/** A mistake of the user, in one sentence. */
export class UsageError extends Error {
  override name = "UsageError";
}

const EXPECTED = [
  UsageError,
  BootError,
  FileError,
  SizeError,
  VmError,
  EngineError,
  NativeError,
  TraceError,
] as const;

/** Ends vctl with "vctl: sentence" and code 1; an error of our own shows its stack. */
export function fail(error: unknown): never {
  const known = EXPECTED.some((kind) => error instanceof kind);
  const text = error instanceof Error ? (known ? error.message : (error.stack ?? error)) : error;
  process.stderr.write(`vctl: ${known ? "" : "internal error: "}${text}\n`);
  process.exit(1);
}

/** Writes "vctl: message" to standard error. */
export function say(message: string): void {
  process.stderr.write(`vctl: ${message}\n`);
}
