/**
 * Freezes an image that may be in use: what it holds stays under another name, and a new image of its
 * name, based on that, takes what is written from then on.
 *
 * Each step leaves a disk of the same contents at the image's name, also when it is the last.
 */
import { linkSync, renameSync, unlinkSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { createQcow2 } from "./create.ts";
import { hostError } from "./error.ts";
import { openDisk } from "./open.ts";

export interface FrozenDisk {
  /** The image's name, which is the new image's now. */
  readonly path: string;
  /** The name of what was frozen. */
  readonly frozen: string;
  /** As if it had not been: whoever has the new image open is to close it first. */
  undo(): void;
}

/**
 * @param path a qcow2 image
 * @param tag goes into the frozen image's name
 * @throws DiskError that names a file
 */
export function freezeDisk(path: string, tag: string): FrozenDisk {
  const frozen = join(dirname(path), `${basename(path)}.${tag}`);
  const fresh = `${frozen}.new`;
  const { size } = sizeOf(path);
  attempt(frozen, () => linkSync(path, frozen));
  try {
    createQcow2(fresh, size, { base: { path: frozen, format: "qcow2" } });
    try {
      attempt(path, () => renameSync(fresh, path));
    } catch (error) {
      unlinkSync(fresh);
      throw error;
    }
  } catch (error) {
    unlinkSync(frozen);
    throw error;
  }
  return { path, frozen, undo: () => attempt(path, () => renameSync(frozen, path)) };
}

function sizeOf(path: string): { size: number } {
  const disk = openDisk(path, { readOnly: true, format: "qcow2" });
  const { size } = disk;
  disk.close();
  return { size };
}

function attempt(path: string, step: () => void): void {
  try {
    step();
  } catch (error) {
    throw hostError(path, error);
  }
}
