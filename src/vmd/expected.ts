/** What may go wrong in a VM's process that is nobody's mistake of ours. */
import { EngineError } from "../vmm/engine.ts";
import { NativeError } from "../vmm/native.ts";
import { SnapshotError } from "../vmm/snapshot/format.ts";
import { TraceError } from "../vmm/trace.ts";
import { BootError } from "./boot/index.ts";
import { FileError } from "./boot-files.ts";
import { DiskError } from "./disk/index.ts";
import { RecordingWriteError } from "./recording/write-error.ts";
import { SandboxError } from "./sandbox.ts";

/** Errors whose message is a sentence for the user. */
export function isExpected(error: unknown): error is Error {
  return (
    error instanceof FileError ||
    error instanceof BootError ||
    error instanceof DiskError ||
    error instanceof EngineError ||
    error instanceof TraceError ||
    error instanceof SandboxError ||
    error instanceof SnapshotError ||
    error instanceof RecordingWriteError ||
    error instanceof NativeError
  );
}
