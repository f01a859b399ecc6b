/** The files that a VM boots from: opened by whoever has the right to, read by whoever runs it. */
import { closeSync, constants, fstatSync, openSync } from "node:fs";
import type { VcpuOptions } from "./vm-options.ts";

/** No file is larger than the largest ArrayBuffer. */
const LARGEST = 2 ** 32;

/** A file that can't be read, in one sentence. */
export class FileError extends Error {
  override name = "FileError";
}

const REASONS: Record<string, string> = {
  ENOENT: "no such file",
  EISDIR: "is a directory",
  EACCES: "permission denied",
  ENOTDIR: "not a directory",
  EROFS: "read-only file system",
};

function failure(path: string, error: unknown): FileError {
  if (error instanceof FileError) return error;
  const code = (error as NodeJS.ErrnoException).code ?? String(error);
  return new FileError(`${path}: ${REASONS[code] ?? code}`);
}

/** An open file under the name that the user knows. */
export interface BootFile {
  readonly path: string;
  readonly descriptor: number;
}

/** What a machine boots from. */
export interface BootSet {
  readonly kernel: BootFile;
  readonly initrd?: BootFile;
  readonly modules?: readonly (BootFile & { readonly args?: string })[];
}

/** Opens a file for reading as the user who runs this. @throws an errno error */
export function openPlainly(path: string): number {
  // Not to wait for the other end of a pipe, which isn't taken anyway.
  return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
}

/**
 * Opens the files that options name.
 * @param open opens one; throws an error with an errno code.
 * @throws FileError that names the file
 */
export function openBootFiles(
  options: Pick<VcpuOptions, "kernel" | "initrd" | "modules">,
  open: (path: string) => number = openPlainly,
): BootSet {
  const opened: number[] = [];
  const file = (path: string): BootFile => {
    const one = openBootFile(path, open);
    opened.push(one.descriptor);
    return one;
  };
  try {
    return {
      kernel: file(options.kernel),
      initrd: options.initrd === undefined ? undefined : file(options.initrd),
      modules: options.modules?.map((specification) => {
        const space = specification.indexOf(" ");
        if (space < 0) return file(specification);
        return {
          ...file(specification.slice(0, space)),
          args: specification.slice(space + 1),
        };
      }),
    };
  } catch (error) {
    for (const descriptor of opened) closeSync(descriptor);
    throw error;
  }
}

/** Opens one that must be a regular file. @throws FileError that names it */
export function openBootFile(path: string, open: (path: string) => number): BootFile {
  let descriptor: number | undefined;
  try {
    descriptor = open(path);
    const status = fstatSync(descriptor);
    if (status.isDirectory()) throw new FileError(`${path}: is a directory`);
    if (!status.isFile()) throw new FileError(`${path}: not a regular file`);
    if (status.size > LARGEST) throw new FileError(`${path}: larger than 4 GiB`);
    return { path, descriptor };
  } catch (error) {
    if (descriptor !== undefined) closeSync(descriptor);
    throw failure(path, error);
  }
}

/** Opens a file that a trace is to be written to, anew. @throws FileError */
export function openTraceFile(path: string, open = () => openSync(path, "w", 0o600)): BootFile {
  try {
    return { path, descriptor: open() };
  } catch (error) {
    throw failure(path, error);
  }
}

/** All files of a set, in an order that names them again. */
export function bootSetFiles(set: BootSet): BootFile[] {
  return [set.kernel, ...(set.initrd === undefined ? [] : [set.initrd]), ...(set.modules ?? [])];
}
