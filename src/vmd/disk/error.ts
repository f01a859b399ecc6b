/** What is wrong with an image or a host file, in one sentence. */

/** strerror(3) of what files fail with. */
const TEXTS: Record<string, string> = {
  EACCES: "Permission denied",
  EBADF: "Bad file descriptor",
  EBUSY: "Device or resource busy",
  EDQUOT: "Disk quota exceeded",
  EEXIST: "File exists",
  EFBIG: "File too large",
  EINTR: "Interrupted system call",
  EINVAL: "Invalid argument",
  EIO: "Input/output error",
  EISDIR: "Is a directory",
  ELOOP: "Too many levels of symbolic links",
  EMFILE: "Too many open files",
  ENAMETOOLONG: "File name too long",
  ENFILE: "Too many open files in system",
  ENODEV: "No such device",
  ENOENT: "No such file or directory",
  ENOMEM: "Cannot allocate memory",
  ENOSPC: "No space left on device",
  ENOTDIR: "Not a directory",
  ENXIO: "No such device or address",
  EPERM: "Operation not permitted",
  EROFS: "Read-only file system",
  ETXTBSY: "Text file busy",
};

/** Linux's numbers of those, on x86. */
const ERRNO: Record<number, string> = {
  1: "EPERM",
  4: "EINTR",
  5: "EIO",
  6: "ENXIO",
  9: "EBADF",
  12: "ENOMEM",
  16: "EBUSY",
  19: "ENODEV",
  22: "EINVAL",
  27: "EFBIG",
  28: "ENOSPC",
  30: "EROFS",
  122: "EDQUOT",
};

/** An image that can't be used, or a request that can't be answered: "file: field: sentence". */
export class DiskError extends Error {
  override name = "DiskError";

  constructor(
    message: string,
    /** The host's errno name, e.g. "ENOSPC", where the host failed; else the image is wrong. */
    readonly code?: string,
  ) {
    super(message);
  }
}

/** strerror(3) of an errno name. */
export function strerror(code: string): string {
  return TEXTS[code] ?? code;
}

/** "ENOSPC" of 28, for what files fail with. */
export function errnoName(errno: number): string {
  return ERRNO[errno] ?? `error ${errno}`;
}

/** The DiskError for what a function of node:fs threw; other errors are passed on. */
export function hostError(name: string, error: unknown): unknown {
  let code = (error as NodeJS.ErrnoException | undefined)?.code;
  if (error instanceof DiskError || code === undefined) return error;
  // The runtime's own limit on sizes and positions lies above those of file systems.
  if (code === "ERR_OUT_OF_RANGE") code = "EFBIG";
  return new DiskError(`${name}: ${strerror(code)}`, code);
}

/** An offset for a sentence: "0x30000". */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
