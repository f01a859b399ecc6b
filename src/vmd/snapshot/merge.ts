/** Snapshot files into one: a differential one, and those that it is based on. */
import { closeSync, openSync, renameSync, unlinkSync, writeSync, fsyncSync } from "node:fs";
import { mergeSnapshots } from "../../vmm/snapshot/merge.ts";
import { SnapshotError } from "../../vmm/snapshot/format.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import { memoryRanges } from "../machine.ts";
import { VmError } from "../vm-options.ts";
import { openSnapshot } from "./chain.ts";

/** What became of a merge. */
export interface Merged {
  /** Snapshots that were read. */
  snapshots: number;
  /** Bytes of the file. */
  bytes: number;
}

/**
 * Writes a snapshot that stands alone, with all that `path` and its bases hold, and the same id: what
 * is based on `path` may be based on it instead. `output` may be `path`: it is replaced when all is
 * written.
 * @throws SnapshotError, FileError, VmError that name a file
 */
export function mergeSnapshotFiles(
  path: string,
  output: string,
  { compress = false } = {},
): Merged {
  const { config, inputs } = openSnapshot(path);
  const { memory } = config.options;
  const part = `${output}.part`;
  let made = false;
  try {
    const into = openSync(part, "wx", 0o600);
    made = true;
    try {
      const sink = (bytes: Uint8Array) => {
        for (let at = 0; at < bytes.length;) at += writeSync(into, bytes, at);
      };
      const writer = new SnapshotWriter(sink, { compress });
      mergeSnapshots(
        inputs.length,
        (index) => new FileSource(inputs[index].descriptor),
        memoryRanges(memory, config.rom),
        new TextEncoder().encode(JSON.stringify({ ...config, base: undefined })),
        writer,
      );
      fsyncSync(into);
      renameSync(part, output);
      made = false;
      return { snapshots: inputs.length, bytes: writer.written };
    } finally {
      closeSync(into);
    }
  } catch (error) {
    if (error instanceof SnapshotError) throw new SnapshotError(`${path}: ${error.message}`);
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") throw new VmError(`${part}: it is there already`);
    if (code !== undefined) throw new VmError(`${output}: ${code}`);
    throw error;
  } finally {
    if (made) unlinkSync(part);
    for (const { descriptor } of inputs) closeSync(descriptor);
  }
}
