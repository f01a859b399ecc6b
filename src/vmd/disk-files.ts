/**
 * A VM's disks, as whoever starts it opens them: the image and those that it is based on, each
 * locked, for the VM process to use.
 */
import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { daemonLibrary } from "../vmm/native.ts";
import type { RateLimits } from "./virtio/rate-limit.ts";
import {
  diskDescriptors,
  DiskError,
  type DiskFile,
  type DiskFormat,
  hostError,
  openDiskFiles,
} from "./disk/index.ts";

/** A disk that is asked for. */
export interface DiskOption {
  path: string;
  /** Absent: what the image itself says. */
  format?: DiskFormat;
  readOnly?: boolean;
  /** Past the host's page cache. */
  direct?: boolean;
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
  const { path, format, readOnly = false, direct = false, limits } = option;
  const files = openDiskFiles(path, { format, readOnly, open });
  files.forEach(({ name, descriptor }, index) => {
    const exclusive = index === 0 && !readOnly;
    if (daemonLibrary().vmm_lock(descriptor, exclusive ? 1 : 0) === 0) return;
    for (const file of files) closeSync(file.descriptor);
    throw new DiskError(`${name}: in use by another VM`, "EBUSY");
  });
  if (direct) {
    try {
      files.forEach((file, index) => {
        file.direct = openDirect(file, index === 0 && !readOnly, open);
      });
    } catch (error) {
      for (const descriptor of diskDescriptors(files)) closeSync(descriptor);
      throw error;
    }
  }
  const guessedRaw = format === undefined && files[0].format === "raw";
  return { files, readOnly, guessedRaw, limits };
}

/** The same file once more, past the page cache. @throws DiskError */
function openDirect(
  { name, descriptor }: DiskFile,
  writable: boolean,
  open: (path: string, flags: number) => number,
): { descriptor: number; alignment: number } {
  const access = writable ? constants.O_RDWR : constants.O_RDONLY;
  let direct: number | undefined;
  try {
    direct = open(name, access | constants.O_NONBLOCK | constants.O_DIRECT);
    const [one, other] = [fstatSync(descriptor), fstatSync(direct)];
    if (one.ino !== other.ino || one.dev !== other.dev) {
      throw new DiskError(`${name}: another file is there now`);
    }
    const alignment = daemonLibrary().vmm_direct_alignment(direct);
    if (alignment <= 0) throw new DiskError(`${name}: no alignment`, "EINVAL");
    return { descriptor: direct, alignment };
  } catch (error) {
    if (direct !== undefined) closeSync(direct);
    if ((error as NodeJS.ErrnoException).code !== "EINVAL") throw hostError(name, error);
    throw new DiskError(`${name}: its file system has no direct I/O`);
  }
}

/** Opens a disc image: raw, for reading, and with others. @throws DiskError that names the file. */
export function openDisc(
  path: string,
  open: (path: string, flags: number) => number = openSync,
): OpenedDisk {
  return openVmDisk({ path, format: "raw", readOnly: true }, open);
}
