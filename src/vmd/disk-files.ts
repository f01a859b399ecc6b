/**
 * A VM's disks, as whoever starts it opens them: the image and those that it is based on, each
 * locked, for the VM process to use.
 */
import { closeSync, openSync } from "node:fs";
import { daemonLibrary } from "../vmm/native.ts";
import type { RateLimits } from "./virtio/rate-limit.ts";
import { DiskError, type DiskFile, type DiskFormat, openDiskFiles } from "./disk/index.ts";

/** A disk that is asked for. */
export interface DiskOption {
  path: string;
  /** Absent: what the image itself says. */
  format?: DiskFormat;
  readOnly?: boolean;
  /** How much it moves. */
  limits?: RateLimits;
}

/** An open one; the descriptors are whoever's who has it. */
export interface OpenedDisk {
  files: DiskFile[];
  readOnly: boolean;
  /**
   * Nobody said what it is, and it passes for raw: a guest that could write another format's
   * beginning would choose which files are opened the next time.
   */
  guessedRaw: boolean;
  limits?: RateLimits;
}

/**
 * Opens a disk: the image alone for itself, unless it is read-only; its bases with others.
 * @param open opens a file; throws an errno error.
 * @throws DiskError that names the file.
 */
export function openVmDisk(
  option: DiskOption,
  open: (path: string, flags: number) => number = openSync,
): OpenedDisk {
  const { path, format, readOnly = false, limits } = option;
  const files = openDiskFiles(path, { format, readOnly, open });
  files.forEach(({ name, descriptor }, index) => {
    const exclusive = index === 0 && !readOnly;
    if (daemonLibrary().vmm_lock(descriptor, exclusive ? 1 : 0) === 0) return;
    for (const file of files) closeSync(file.descriptor);
    throw new DiskError(`${name}: in use by another VM`, "EBUSY");
  });
  const guessedRaw = format === undefined && files[0].format === "raw";
  return { files, readOnly, guessedRaw, limits };
}

/** Opens a disc image: raw, for reading, and with others. @throws DiskError that names the file. */
export function openDisc(
  path: string,
  open: (path: string, flags: number) => number = openSync,
): OpenedDisk {
  return openVmDisk({ path, format: "raw", readOnly: true }, open);
}
