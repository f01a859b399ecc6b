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
  /** The same for the same files, as long as nobody writes to them. */
  readonly identity: string;
  /** A machine was made of them: what was to be looked at is whole, and isn't looked at again. */
  used(): void;
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
  const opened: { descriptor: number; config: SnapshotConfig; verify: boolean }[] = [];
  try {
    for (let next: string | undefined = path; next !== undefined;) {
      if (opened.length === CHAIN_MAX) {
        throw new SnapshotError(`${path}: it is based on more than ${CHAIN_MAX - 1} others`);
      }
      const one = openOne(next, open);
      opened.unshift({ ...one, verify: verify ?? !isKnown(one.descriptor) });
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
  // As of now: what is written from here on changes them.
  const stamps = opened.map(({ descriptor }) => stamp(descriptor));
  return {
    config,
    identity: JSON.stringify(stamps),
    used: () => stamps.filter((_, place) => opened[place].verify).forEach(keep),
    inputs: opened.map(({ descriptor, verify }) => ({ descriptor, stream: false, verify })),
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
 * Files that were written or wholly checked here. Whoever changes one changes its time too, unless
 * they want it to go unseen: checksums are no hindrance to them either. Another name is no change.
 */
const known = new Map<string, string>();

interface Stamp {
  readonly key: string;
  readonly state: string;
}

function stamp(descriptor: number): Stamp {
  const { dev, ino, size, mtimeNs } = fstatSync(descriptor, { bigint: true });
  return { key: `${dev}:${ino}`, state: `${size}:${mtimeNs}` };
}

function isKnown(descriptor: number): boolean {
  const { key, state } = stamp(descriptor);
  return known.get(key) === state;
}

/** The file holds a snapshot that is whole. */
export function remember(descriptor: number): void {
  keep(stamp(descriptor));
}

function keep({ key, state }: Stamp): void {
  // What is long ago is looked at again.
  if (known.size >= PAGE) known.clear();
  known.set(key, state);
}
