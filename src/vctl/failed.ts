/** What vmd or a file refuses of a command that has to do with snapshots. */
import { FileError } from "../vmd/boot-files.ts";
import { DiskError } from "../vmd/disk/index.ts";
import { SnapshotError } from "../vmm/snapshot/format.ts";
import { UsageError } from "./cli.ts";
import { RefusedError } from "./client.ts";

/** An error's sentence, after the command's name; other errors as they are. */
export function failed(command: string, error: unknown): unknown {
  const expected =
    error instanceof RefusedError ||
    error instanceof SnapshotError ||
    error instanceof DiskError ||
    error instanceof FileError;
  return expected ? new UsageError(`${command} command failed: ${error.message}`) : error;
}
