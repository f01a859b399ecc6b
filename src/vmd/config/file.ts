/** Reads a configuration's file: a regular one, of a bounded size. */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";

/** Bytes. */
export const LONGEST_FILE = 2 ** 20;
/** Of /dev/null: major 1, minor 3. */
const NULL_DEVICE = (1 << 8) | 3;

/** Why a file can't be read, in a few words. */
export class FileError extends Error {
  override name = "FileError";
}

const REASONS: Record<string, string> = {
  ENOENT: "no such file",
  ENOTDIR: "no such file",
  EACCES: "permission denied",
  ENAMETOOLONG: "name too long",
  ELOOP: "too many symbolic links",
};

/** @throws FileError */
export function readBounded(path: string): string {
  let descriptor: number;
  try {
    // A FIFO without a writer isn't waited for.
    descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    throw new FileError(REASONS[code] ?? code);
  }
  try {
    const status = fstatSync(descriptor);
    if (status.isDirectory()) throw new FileError("is a directory");
    // /dev/null says that there is nothing to say.
    if (status.isCharacterDevice() && status.rdev === NULL_DEVICE) return "";
    if (!status.isFile()) throw new FileError("not a regular file");
    // Files of /proc have no size, and others may grow.
    const bytes = Buffer.alloc(Math.min(status.size, LONGEST_FILE) + 4096);
    let length = 0;
    while (length < bytes.length) {
      const read = readSync(descriptor, bytes, length, bytes.length - length, null);
      if (read === 0) break;
      length += read;
    }
    if (length > LONGEST_FILE || length === bytes.length) {
      throw new FileError(`too long (limit is ${LONGEST_FILE / 2 ** 20}M)`);
    }
    return bytes.toString("utf8", 0, length);
  } finally {
    closeSync(descriptor);
  }
}
