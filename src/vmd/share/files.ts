/**
 * The files beneath a share's root; native/share.c. Nothing here knows of a whitelist.
 *
 * A path is names with slashes between, "" for the root, a character a byte. It is resolved from
 * the root at each call, so it means what is there now.
 */
import { type Pointer, ptr, shareLibrary } from "../../vmm/native.ts";
import { demand, Errno, refuse } from "./errno.ts";
import type { Qid } from "./fields.ts";

/** PATH_MAX, without the NUL. */
export const PATH_MAX = 4095;
export const NAME_MAX = 255;

const KIND = 0o170000;
const DIRECTORY = 0o040000;
const REGULAR = 0o100000;
const LINK = 0o120000;

/** Of open(2); 9P2000.L has the same numbers. */
export const Open = {
  WRITE: 1,
  READ_WRITE: 2,
  ACCESS: 3,
  CREATE: 0o100,
  EXCLUSIVE: 0o200,
  TRUNCATE: 0o1000,
  APPEND: 0o2000,
  DATA_SYNC: 0o10000,
  DIRECTORY: 0o200000,
  SYNC: 0o4010000,
} as const;

/** DT_… of a directory's entries. */
export const EntryType = { UNKNOWN: 0, DIRECTORY: 4, LINK: 10 } as const;
/** Qid types. */
const QidType = { DIRECTORY: 0x80, LINK: 0x02, FILE: 0 } as const;

const STATUS = 16;
const SPACE = 8;
const ENTRIES = 32 * 1024;
/** Of struct linux_dirent64. */
const ENTRY_NAME = 19;

const u64 = (value: bigint) => BigInt.asUintN(64, value);

/** What is known of a file. */
export class Status {
  readonly words: BigInt64Array;

  constructor(words: BigInt64Array) {
    this.words = words;
  }

  get mode(): number {
    return Number(this.words[0]);
  }

  get uid(): number {
    return Number(this.words[4]);
  }

  get gid(): number {
    return Number(this.words[5]);
  }

  /** A word of VMM_SHARE_STATUS, unsigned. */
  word(index: number): bigint {
    return u64(this.words[index]);
  }

  get isDirectory(): boolean {
    return (this.mode & KIND) === DIRECTORY;
  }

  get isRegular(): boolean {
    return (this.mode & KIND) === REGULAR;
  }

  get isLink(): boolean {
    return (this.mode & KIND) === LINK;
  }

  get qid(): Qid {
    const { DIRECTORY, LINK, FILE } = QidType;
    const type = this.isDirectory ? DIRECTORY : this.isLink ? LINK : FILE;
    // Changes with what is in the file: its size, and when it was modified.
    const change = this.words[11] ^ this.words[12] ^ (this.words[2] << 8n);
    return { type, version: Number(BigInt.asUintN(32, change)), path: this.word(1) };
  }

  isSameFile(other: Status): boolean {
    return this.words[1] === other.words[1] && this.words[15] === other.words[15];
  }
}

/** The qid of an entry, without looking at the file. */
export function entryQid(type: number, inode: bigint): Qid {
  const kind =
    type === EntryType.DIRECTORY
      ? QidType.DIRECTORY
      : type === EntryType.LINK
        ? QidType.LINK
        : QidType.FILE;
  return { type: kind, version: 0, path: inode };
}

/** An entry of a directory. */
export interface Entry {
  name: string;
  inode: bigint;
  type: number;
  /** Where the next one is. */
  next: bigint;
}

/** A NUL-terminated string for C. */
class Text {
  readonly #bytes = Buffer.alloc(PATH_MAX + 1);
  readonly #pointer = ptr(this.#bytes);

  of(text: string): Pointer {
    if (text.length > PATH_MAX) refuse(Errno.ENAMETOOLONG);
    this.#bytes[this.#bytes.write(text, "latin1")] = 0;
    return this.#pointer;
  }
}

/** The directory of a path, and its name there. The root has none. */
export function split(path: string): [directory: string, name: string] {
  const slash = path.lastIndexOf("/");
  return [path.slice(0, Math.max(slash, 0)), path.slice(slash + 1)];
}

export function join(directory: string, name: string): string {
  return directory === "" ? name : `${directory}/${name}`;
}

export class Files {
  readonly #root: number;
  readonly #c = shareLibrary();
  readonly #a = new Text();
  readonly #b = new Text();
  readonly #newA = new Text();
  readonly #newB = new Text();
  readonly #status = new BigInt64Array(STATUS);
  readonly #entries = Buffer.alloc(ENTRIES);
  readonly #target = Buffer.alloc(PATH_MAX + 1);

  /** @param root descriptor of a directory; O_PATH does. It stays the caller's. */
  constructor(root: number) {
    this.#root = root;
  }

  #known(): Status {
    return new Status(this.#status.slice());
  }

  #look<T>(path: string, use: (descriptor: number, status: Status) => T): T {
    const descriptor = demand(
      this.#c.vmm_share_look(this.#root, this.#a.of(path), ptr(this.#status)),
    );
    try {
      return use(descriptor, this.#known());
    } finally {
      this.close(descriptor);
    }
  }

  status(path: string): Status {
    return this.#look(path, (_, status) => status);
  }

  statusOf(descriptor: number): Status {
    demand(this.#c.vmm_share_status(descriptor, ptr(this.#status)));
    return this.#known();
  }

  /** Opens a regular file or a directory. */
  open(path: string, flags: number, mode = 0): [descriptor: number, status: Status] {
    const { vmm_share_open: open } = this.#c;
    const descriptor = open(this.#root, this.#a.of(path), flags, mode, ptr(this.#status));
    return [demand(descriptor), this.#known()];
  }

  close(descriptor: number): void {
    this.#c.vmm_share_close(descriptor);
  }

  readlink(path: string): string {
    return this.#look(path, (descriptor, status) => {
      if (!status.isLink) refuse(Errno.EINVAL);
      const { vmm_share_readlink: readlink } = this.#c;
      const length = demand(readlink(descriptor, ptr(this.#target), PATH_MAX + 1));
      if (length > PATH_MAX) refuse(Errno.ENAMETOOLONG);
      return this.#target.toString("latin1", 0, length);
    });
  }

  // Of a path that is to be a name in its directory: the root is nowhere.
  #split(path: string, directory: Text, name: Text): [Pointer, Pointer] {
    if (path === "") refuse(Errno.EBUSY);
    const [above, last] = split(path);
    return [directory.of(above), name.of(last)];
  }

  mkdir(path: string, mode: number): void {
    demand(this.#c.vmm_share_mkdir(this.#root, ...this.#split(path, this.#a, this.#b), mode));
  }

  symlink(path: string, target: string): void {
    const [directory, name] = this.#split(path, this.#a, this.#b);
    demand(this.#c.vmm_share_symlink(this.#root, directory, name, this.#newA.of(target)));
  }

  unlink(path: string, directory: boolean): void {
    const place = this.#split(path, this.#a, this.#b);
    demand(this.#c.vmm_share_unlink(this.#root, ...place, directory ? 1 : 0));
  }

  rename(from: string, to: string): void {
    const place = this.#split(from, this.#a, this.#b);
    const newPlace = this.#split(to, this.#newA, this.#newB);
    demand(this.#c.vmm_share_rename(this.#root, ...place, ...newPlace));
  }

  link(from: string, to: string): void {
    const place = this.#split(from, this.#a, this.#b);
    const newPlace = this.#split(to, this.#newA, this.#newB);
    demand(this.#c.vmm_share_link(this.#root, ...place, ...newPlace));
  }

  chmod(at: string | number, mode: number): void {
    const change = (descriptor: number) => void demand(this.#c.vmm_share_chmod(descriptor, mode));
    if (typeof at === "number") change(at);
    else this.#look(at, change);
  }

  /** @param times access and modification: seconds, nanoseconds as for utimensat(2). */
  times(at: string | number, times: BigInt64Array): void {
    const change = (descriptor: number) =>
      void demand(this.#c.vmm_share_times(descriptor, ptr(times)));
    if (typeof at === "number") change(at);
    else this.#look(at, change);
  }

  truncate(at: string | number, size: bigint): void {
    if (typeof at === "number") {
      demand(this.#c.vmm_share_truncate(at, size));
      return;
    }
    const [descriptor] = this.open(at, Open.WRITE);
    try {
      demand(this.#c.vmm_share_truncate(descriptor, size));
    } finally {
      this.close(descriptor);
    }
  }

  /** Reads into all of `into`, or what there is. @returns bytes */
  read(descriptor: number, into: Uint8Array, offset: bigint): number {
    if (into.length === 0) return 0;
    return demand(this.#c.vmm_share_read(descriptor, ptr(into), into.length, offset));
  }

  /** @returns bytes written */
  write(descriptor: number, bytes: Uint8Array, offset: bigint): number {
    if (bytes.length === 0) return 0;
    return demand(this.#c.vmm_share_write(descriptor, ptr(bytes), bytes.length, offset));
  }

  sync(descriptor: number, onlyData: boolean): void {
    demand(this.#c.vmm_share_sync(descriptor, onlyData ? 1 : 0));
  }

  /** Some entries of a directory from an offset on: 0, or what an entry had. None: its end. */
  list(descriptor: number, offset: bigint): Entry[] {
    const bytes = this.#entries;
    const length = demand(this.#c.vmm_share_list(descriptor, offset, ptr(bytes), ENTRIES));
    const entries: Entry[] = [];
    for (let at = 0; at < length; at += bytes.readUInt16LE(at + 16)) {
      const end = bytes.indexOf(0, at + ENTRY_NAME);
      entries.push({
        inode: bytes.readBigUInt64LE(at),
        next: bytes.readBigUInt64LE(at + 8),
        type: bytes[at + 18],
        name: bytes.toString("latin1", at + ENTRY_NAME, end),
      });
    }
    return entries;
  }

  /** The words of VMM_SHARE_SPACE. */
  space(): BigUint64Array {
    const words = new BigUint64Array(SPACE);
    demand(this.#c.vmm_share_space(this.#root, ptr(words)));
    return words;
  }
}
