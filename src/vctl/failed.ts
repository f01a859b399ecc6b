/** What vmd or a file refuses of a command that has to do with snapshots. */
import { UsageError } from "./cli.ts";

/** By name: not every command loads what throws them. */
const EXPECTED = ["RefusedError", "SnapshotError", "DiskError", "FileError"];

/** An error's sentence, after the command's name; other errors as they are. */
export function failed(command: string, error: unknown): unknown {
  const expected = error instanceof Error && EXPECTED.includes(error.name);
  return expected ? new UsageError(`${command} command failed: ${error.message}`) : error;
}
