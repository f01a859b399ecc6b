/** From a path, or from descriptors, to a disk: formats, bases, and the limits on both. */
import { closeSync, constants, openSync, readSync, realpathSync } from "node:fs";
import { dirname, extname, resolve } from "node:path";
import type { Disk, DiskFormat } from "./disk.ts";
import { DiskError, hostError } from "./error.ts";
import { DescriptorFile, type HostFile } from "./host-file.ts";
import { QCOW2_MAGIC, type Qcow2Header, readHeader } from "./qcow2/header.ts";
import { Qcow2Disk } from "./qcow2.ts";
import { RawDisk } from "./raw.ts";

/** An image, its base, its base's base, and so on: vmd has 4, but each snapshot adds one. */
const CHAIN_MAX = 16;

/** An open image; of a chain, all but the first only need to be readable. */
export interface DiskFile {
  /** For sentences. */
  name: string;
  descriptor: number;
  format: DiskFormat;
  /** Another descriptor, with O_DIRECT, and what it wants things aligned to, bytes. */
  direct?: { descriptor: number; alignment: number };
}

/** All descriptors of some files, in an order that tells them apart again. */
export function diskDescriptors(files: readonly DiskFile[]): number[] {
  return files.flatMap(({ descriptor, direct }) => {
    return direct === undefined ? [descriptor] : [descriptor, direct.descriptor];
  });
}

export interface OpenOptions {
  /** What the image is; by default, detectFormat finds out. */
  format?: DiskFormat;
  readOnly?: boolean;
  /** Opens a file, with flags of open(2); by default with this process's rights. */
  open?: (path: string, flags: number) => number;
}

/** "raw:disk.img", "qcow2:disk.img" or "disk.img", whose format isn't given. */
export function parseDiskArgument(text: string): { path: string; format?: DiskFormat } {
  for (const format of ["raw", "qcow2"] as const) {
    if (text.startsWith(`${format}:`)) return { path: text.slice(format.length + 1), format };
  }
  return { path: text };
}

/**
 * The format of a file: qcow2 by its magic number, else what its extension says, else raw. A file
 * that can't be read is judged by its extension. Whoever lets a guest write a raw image should keep
 * its format: the guest can write the magic number.
 */
export function detectFormat(path: string): DiskFormat {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    return formatOf(path, descriptor);
  } catch {
    return formatByExtension(path);
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

function formatOf(path: string, descriptor: number): DiskFormat {
  const magic = new DataView(new ArrayBuffer(4));
  const count = readSync(descriptor, new Uint8Array(magic.buffer), 0, 4, 0);
  if (count === 4 && magic.getUint32(0) === QCOW2_MAGIC) return "qcow2";
  return formatByExtension(path);
}

function formatByExtension(path: string): DiskFormat {
  return extname(path).toLowerCase() === ".qcow2" ? "qcow2" : "raw";
}

/** Opens an image with the images that it is based on. @throws DiskError */
export function openDisk(path: string, options: OpenOptions = {}): Disk {
  return diskFromFiles(openDiskFiles(path, options), options);
}

/**
 * Opens the files of an image, the image first, then what it is based on, read-only. They can be
 * passed to another process, for diskFromFiles. The names of bases count from the image's folder.
 * @throws DiskError, with nothing left open.
 */
export function openDiskFiles(path: string, options: OpenOptions = {}): DiskFile[] {
  const files: DiskFile[] = [];
  try {
    let next: { path: string; format: DiskFormat | undefined } | undefined;
    next = { path, format: options.format };
    while (next !== undefined) {
      if (files.length === CHAIN_MAX) {
        throw new DiskError(`${path}: more than ${CHAIN_MAX} images are based on one another`);
      }
      const writable = files.length === 0 && options.readOnly !== true;
      const opened = openFile(next.path, next.format, writable, options.open ?? openSync);
      files.push(opened);
      next = opened.format === "qcow2" ? baseOf(opened, next.path) : undefined;
    }
    return files;
  } catch (error) {
    for (const { descriptor } of files) closeSync(descriptor);
    throw error;
  }
}

function openFile(
  path: string,
  format: DiskFormat | undefined,
  writable: boolean,
  open: (path: string, flags: number) => number,
): DiskFile {
  let descriptor: number;
  try {
    // Not to wait for the other end of a pipe, which isn't taken anyway.
    const access = writable ? constants.O_RDWR : constants.O_RDONLY;
    descriptor = open(path, access | constants.O_NONBLOCK);
  } catch (error) {
    throw hostError(path, error);
  }
  try {
    const file = new DescriptorFile(path, descriptor);
    return { name: file.name, descriptor, format: format ?? formatOf(path, descriptor) };
  } catch (error) {
    closeSync(descriptor);
    throw hostError(path, error);
  }
}

function baseOf({ name, descriptor }: DiskFile, path: string) {
  const { backing } = readHeader(new DescriptorFile(name, descriptor));
  if (backing === undefined) return undefined;
  let folder: string;
  try {
    folder = dirname(realpathSync(path));
  } catch (error) {
    throw hostError(path, error);
  }
  return { path: resolve(folder, backing.name), format: backingFormat(name, backing.format) };
}

function backingFormat(name: string, format: string | undefined): DiskFormat | undefined {
  if (format === undefined || format === "raw" || format === "qcow2") return format;
  throw new DiskError(`${name}: backing format: "${format}" is neither raw nor qcow2`);
}

/**
 * The disk in files that are open, as openDiskFiles gives them. Closing the disk closes them all.
 * @throws DiskError, with all descriptors closed.
 */
export function diskFromFiles(files: readonly DiskFile[], { readOnly = false } = {}): Disk {
  let disk: Disk | undefined;
  let open = files.length;
  try {
    if (files.length === 0 || files.length > CHAIN_MAX) {
      throw new DiskError(`${files[0]?.name ?? "disk"}: 1 to ${CHAIN_MAX} images make a disk`);
    }
    for (const { name, descriptor, format } of files.toReversed()) {
      const first = open === 1;
      const file = new DescriptorFile(name, descriptor);
      disk = diskFromFile(file, format, disk, readOnly || !first);
      open--;
    }
    return disk as Disk;
  } catch (error) {
    // The disk made so far has the last ones.
    for (const { descriptor } of files.slice(0, open)) closeSync(descriptor);
    disk?.close();
    throw error;
  }
}

/**
 * The disk in one file, on its base if it has one. @throws DiskError, with the file left open.
 */
export function diskFromFile(
  file: HostFile,
  format: DiskFormat,
  base: Disk | undefined,
  readOnly: boolean,
): Disk {
  const header: Qcow2Header | undefined = format === "qcow2" ? readHeader(file) : undefined;
  if (base !== undefined && header?.backing === undefined) {
    throw new DiskError(`${file.name}: is based on no other image, but one is given`);
  }
  if (header === undefined) return new RawDisk(file, readOnly);
  if (base === undefined && header.backing !== undefined) {
    throw new DiskError(`${file.name}: its base, ${header.backing.name}, is not given`);
  }
  return new Qcow2Disk(file, header, base, readOnly);
}
