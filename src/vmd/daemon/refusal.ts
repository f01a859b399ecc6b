/** A request that the daemon refuses: a code for programs, a sentence for people. */

/** errno names, and vmd's own codes (1001 and up in its protocol). */
export type RefusalCode =
  | "EPERM"
  | "ENOENT"
  | "EALREADY"
  | "EBUSY"
  | "EINVAL"
  | "EAGAIN"
  | "ESRCH"
  | "EIO"
  | "EPROTO"
  | "ENAMETOOLONG"
  /** No firmware to boot from. */
  | "BIOS"
  /** A disk that can't be opened. */
  | "DISK"
  /** A snapshot that can't be written or read. */
  | "SNAPSHOT"
  /** An interface that can't be had. */
  | "NETWORK"
  /** It isn't running. */
  | "NOTRUNNING"
  /** No such ISO image. */
  | "CDROM"
  /** ... or it is no regular file. */
  | "CDROMTYPE"
  /** No such template. */
  | "TEMPLATE"
  /** Errors in a configuration file. */
  | "CONFIG";

export class RefusalError extends Error {
  override name = "RefusalError";
  readonly code: RefusalCode;

  constructor(code: RefusalCode, message: string) {
    super(message);
    this.code = code;
  }
}

export const notPermitted = () => new RefusalError("EPERM", "Operation not permitted");
