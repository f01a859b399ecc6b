/** Snapshots on disk, as whoever restores a VM opens them: the last one, and those it is based on. */
import { closeSync, fstatSync } from "node:fs";
import { dirname, isAbsolute, join } from "node:path";
import { PAGE, SnapshotError } from "../../vmm/snapshot/format.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import { openBootFile, openPlainly } from "../boot-files.ts";
import { readConfig, type SnapshotConfig } from "./config.ts";

/** A snapshot may be based on one that is based on another, and so on: so many. */
const CHAIN_MAX = 32;

/** Snapshots, open: the first stands alone, each further one is based on the one before. */
export interface OpenedSnapshot {
  /** What the last one says. */
  readonly config: SnapshotConfig;
  readonly inputs: readonly { descriptor: number; stream: boolean; verify: boolean }[];
  /** Of each file, as it was opened; see `rememberChecked`. */
  readonly stamps: readonly Stamp[];
}

/** A file, and what it was like at a time. */
export interface Stamp {
  readonly key: string;
  readonly state: string;
}

/**
 * Opens a snapshot and those that it is based on.
 * @param verify all is looked at before anything runs: default for files that this process has not
 * seen whole and unchanged
 * @throws SnapshotError, FileError that name the file
 */
export function openSnapshot(
  path: string,
  { verify, open = openPlainly }: { verify?: boolean; open?: (path: string) => number } = {},
): OpenedSnapshot {
  const opened: { descriptor: number; config: SnapshotConfig; verify: boolean; stamp: Stamp }[] =
    [];
  try {
    for (let next: string | undefined = path; next !== undefined;) {
      if (opened.length === CHAIN_MAX) {
        throw new SnapshotError(`${path}: it is based on more than ${CHAIN_MAX - 1} others`);
      }
      const one = openOne(next, open);
      const stamp = stampOf(one.descriptor);
      opened.unshift({ ...one, stamp, verify: verify ?? known.get(stamp.key) !== stamp.state });
      const expected = opened[1]?.config.base?.id;
      if (expected !== undefined && expected !== one.config.id) {
        throw new SnapshotError(`${next}: not the snapshot that ${path} is based on`);
      }
      next = baseOf(next, one.config);
    }
  } catch (error) {
    for (const { descriptor } of opened) closeSync(descriptor);
    throw error;
  }
  const { config } = opened[opened.length - 1];
  return {
    config,
    inputs: opened.map(({ descriptor, verify }) => ({ descriptor, stream: false, verify })),
    stamps: opened.map(({ stamp }) => stamp),
  };
}

/** Opens one, and reads what it says. @throws SnapshotError, FileError that name the file */
export function openOne(path: string, open: (path: string) => number = openPlainly) {
  const { descriptor } = openBootFile(path, open);
  try {
    return { descriptor, config: readConfig(new FileSource(descriptor)) };
  } catch (error) {
    closeSync(descriptor);
    if (error instanceof SnapshotError) throw new SnapshotError(`${path}: ${error.message}`);
    throw error;
  }
}

function baseOf(path: string, { base }: SnapshotConfig): string | undefined {
  if (base === undefined) return undefined;
  if (base.path === undefined)
    throw new SnapshotError(`${path}: it doesn't say what it is based on`);
  return isAbsolute(base.path) ? base.path : join(dirname(path), base.path);
}

/**
 * Files that were written or wholly checked here. Checksums are against damage, which changes a file's
 * time or its size; its name is no matter: it is written under another one first. Who makes up a time may
 * as well make up checksums: what is in a file is believed no more for them.
 */
const known = new Map<string, string>();

function stampOf(descriptor: number): Stamp {
  const { dev, ino, size, mtimeNs } = fstatSync(descriptor, { bigint: true });
  return { key: `${dev}:${ino}`, state: `${size}:${mtimeNs}` };
}

/** The file holds a snapshot that is whole: it was written here. */
export function remember(descriptor: number): void {
  keep(stampOf(descriptor));
}

/** All of what was opened has been found to be whole: a VM goes on from it. */
export function rememberChecked({ stamps }: Pick<OpenedSnapshot, "stamps">): void {
  for (const stamp of stamps) keep(stamp);
}

function keep({ key, state }: Stamp): void {
  // What is long ago is looked at again.
  if (known.size >= PAGE) known.clear();
  known.set(key, state);
}
