/** What Tgetattr, Tsetattr and Tstatfs are about: what is known of files, and may be changed of it. */
import { Errno, refuse } from "./errno.ts";
import type { Fid } from "./fids.ts";
import { type Files, NAME_MAX, type Status } from "./files.ts";
import { NONE, type ReplyOf, type RequestOf } from "./messages.ts";
import type { Tree } from "./tree.ts";

/** P9_STATS_BASIC: what stat(2) has. */
const BASIC = 0x7ffn;
/** V9FS_MAGIC: what the host's file system is, is the host's affair. */
const FILE_SYSTEM = 0x01021997;

/** P9_SETATTR_… */
const Valid = {
  MODE: 1,
  UID: 2,
  GID: 4,
  SIZE: 8,
  ATIME: 0x10,
  MTIME: 0x20,
  ATIME_SET: 0x80,
  MTIME_SET: 0x100,
} as const;

/** Of utimensat(2), in place of nanoseconds. */
const NOW = 0x3fffffffn;
const OMIT = 0x3ffffffen;
const NANOSECONDS = 1_000_000_000n;
/** File systems have the years −292 billion to 292 billion; less than that is a time. */
const SECONDS_MAX = 2n ** 40n;
const OFFSET_MAX = 2n ** 63n - 1n;
/** Permissions and the sticky bit: files don't get set-id bits from a guest. */
const MODE = 0o1777;

export class Attributes {
  readonly #files: Files;
  readonly #tree: Tree;

  constructor(files: Files, tree: Tree) {
    this.#files = files;
    this.#tree = tree;
  }

  // What is open may have no name any more.
  #status(fid: Fid): Status {
    return fid.descriptor < 0 ? this.#tree.status(fid.path) : this.#files.statusOf(fid.descriptor);
  }

  get(fid: Fid): ReplyOf<"getattr"> {
    const status = this.#status(fid);
    return {
      valid: BASIC,
      qid: status.qid,
      mode: status.mode,
      uid: status.uid,
      gid: status.gid,
      nlink: status.word(3),
      rdev: status.word(6),
      size: status.word(2),
      blksize: status.word(7),
      blocks: status.word(8),
      atime_sec: status.word(9),
      atime_nsec: status.word(10),
      mtime_sec: status.word(11),
      mtime_nsec: status.word(12),
      ctime_sec: status.word(13),
      ctime_nsec: status.word(14),
      btime_sec: 0n,
      btime_nsec: 0n,
      gen: 0n,
      data_version: 0n,
    };
  }

  set(fid: Fid, request: RequestOf<"setattr">): void {
    const { valid, uid, gid, size, mode } = request;
    this.#tree.checkWritable();
    // A file by its descriptor, if it is open: what has that name now may be another one. Directories
    // by their paths: some are open only to be listed.
    const open = fid.descriptor >= 0 && !fid.directory;
    if (!open) this.#tree.checkChangeable(fid.path);
    const status = this.#status(fid);
    // Files belong to the share's user: nobody gives them to another.
    const given = (bit: number, id: number, is: number) =>
      (valid & bit) !== 0 && id !== NONE && id !== is;
    if (given(Valid.UID, uid, status.uid) || given(Valid.GID, gid, status.gid)) {
      refuse(Errno.EPERM);
    }
    const times = timesOf(request);
    const at = open ? fid.descriptor : fid.path;
    if ((valid & Valid.SIZE) !== 0) {
      if (size > OFFSET_MAX) refuse(Errno.EFBIG);
      if (status.isDirectory) refuse(Errno.EISDIR);
      this.#files.truncate(open && !fid.writable ? this.#named(fid, status) : at, size);
    }
    if ((valid & Valid.MODE) !== 0) {
      if (!status.isDirectory && !status.isRegular) refuse(Errno.EPERM);
      this.#files.chmod(at, mode & MODE);
    }
    if (times !== undefined) this.#files.times(at, times);
  }

  // A file that is open for reading only can be cut if it is the one that still has the name.
  #named(fid: Fid, status: Status): string {
    this.#tree.checkChangeable(fid.path);
    if (!this.#tree.status(fid.path).isSameFile(status)) refuse(Errno.EINVAL);
    return fid.path;
  }

  statfs(): ReplyOf<"statfs"> {
    const [, bsize, blocks, bfree, bavail, files, ffree] = this.#files.space();
    return {
      type: FILE_SYSTEM,
      bsize: Number(BigInt.asUintN(32, bsize)),
      blocks,
      bfree,
      bavail,
      files,
      ffree,
      fsid: 0n,
      namelen: NAME_MAX,
    };
  }
}

/** For utimensat(2); undefined: times stay. */
function timesOf(request: RequestOf<"setattr">): BigInt64Array | undefined {
  const { valid } = request;
  if ((valid & (Valid.ATIME | Valid.MTIME)) === 0) return undefined;
  const one = (bit: number, set: number, seconds: bigint, nanoseconds: bigint) => {
    if ((valid & bit) === 0) return [0n, OMIT];
    if ((valid & set) === 0) return [0n, NOW];
    const signed = BigInt.asIntN(64, seconds);
    if (nanoseconds >= NANOSECONDS || signed > SECONDS_MAX || signed < -SECONDS_MAX) {
      refuse(Errno.EINVAL);
    }
    return [signed, nanoseconds];
  };
  const { atime_sec, atime_nsec, mtime_sec, mtime_nsec } = request;
  return BigInt64Array.from([
    ...one(Valid.ATIME, Valid.ATIME_SET, atime_sec, atime_nsec),
    ...one(Valid.MTIME, Valid.MTIME_SET, mtime_sec, mtime_nsec),
  ]);
}
