/**
 * A 9P2000.L server: one request's bytes in, its reply's bytes out, in order. Whatever the bytes
 * are, it doesn't throw, and no reply is longer than the session's msize.
 *
 * A request is done when its reply is made, so there is never one to flush.
 */
import { Attributes } from "./attributes.ts";
import { Errno, refuse, Refusal } from "./errno.ts";
import { type Fid, Fids } from "./fids.ts";
import { type Qid, QID_SIZE, Writer } from "./fields.ts";
import { type Entry, entryQid, EntryType, type Files, Open, type Status } from "./files.ts";
import {
  dataReply,
  decodeRequest,
  encodeReply,
  MSIZE_MAX,
  MSIZE_MIN,
  NONE,
  READ_HEADER,
  type ReplyKind,
  type ReplyOf,
  type Request,
  type RequestOf,
  tagOf,
  VERSION,
} from "./messages.ts";
import { Tree } from "./tree.ts";
import { Whitelist, type WhitelistGlobs } from "./whitelist.ts";

/** What of a directory is shared, and how. */
export interface SharePolicy extends WhitelistGlobs {
  readonly?: boolean;
  /** Guests may make symbolic links; such as lead nowhere outside or to what is hidden. */
  symlinks?: boolean;
}

/** Permissions of a file that is made; set-id bits are none of them. */
const MODE = 0o777;
const REMOVE_DIRECTORY = 0x200;
/** F_UNLCK, and P9_LOCK_SUCCESS. */
const UNLOCKED = 2;
const LOCKED = 0;
/** Of an open file, beside how it is accessed. */
const KEPT = Open.APPEND | Open.SYNC | Open.DIRECTORY;
/** The furthest that a file can reach. */
const OFFSET_MAX = 2n ** 63n - 1n;

export class Server implements Disposable {
  readonly #files: Files;
  readonly #tree: Tree;
  readonly #attributes: Attributes;
  readonly #fids: Fids;
  readonly #symlinks: boolean;
  readonly #reply = new Uint8Array(MSIZE_MAX);
  /** 0: no version has been agreed upon. */
  #msize = 0;

  /** @throws GlobError */
  constructor(files: Files, policy: SharePolicy = {}) {
    this.#files = files;
    this.#tree = new Tree(files, new Whitelist(policy), policy.readonly === true);
    this.#attributes = new Attributes(files, this.#tree);
    this.#fids = new Fids(files);
    this.#symlinks = policy.symlinks === true;
  }

  /** Fids of the session. */
  get fids(): number {
    return this.#fids.size;
  }

  /** Ends the session. */
  [Symbol.dispose](): void {
    this.#fids.clear();
  }

  /** @returns the reply, which is there until the next request. */
  handle(request: Uint8Array): Uint8Array {
    const tag = tagOf(request);
    try {
      if (request.length > (this.#msize || MSIZE_MIN)) refuse(Errno.EMSGSIZE);
      const message = decodeRequest(request);
      if (message.kind !== "version" && this.#msize === 0) refuse(Errno.EPROTO);
      return this.#answer(message);
    } catch (error) {
      const ecode = error instanceof Refusal ? error.errno : Errno.EIO;
      return this.#encode("lerror", tag, { ecode });
    }
  }

  #encode<K extends ReplyKind>(kind: K, tag: number, values: ReplyOf<K>): Uint8Array {
    return encodeReply(this.#reply, kind, tag, values);
  }

  #answer(m: Request): Uint8Array {
    const { tag } = m;
    switch (m.kind) {
      case "version":
        return this.#version(m);
      case "attach":
        return this.#encode("attach", tag, { qid: this.#attach(m).qid });
      case "flush":
        return this.#encode("flush", tag, {});
      case "walk":
        return this.#encode("walk", tag, { wqid: this.#walk(m) });
      case "lopen":
        return this.#encode("lopen", tag, { qid: this.#open(m).qid, iounit: 0 });
      case "lcreate":
        return this.#encode("lcreate", tag, { qid: this.#create(m).qid, iounit: 0 });
      case "read":
        return dataReply(this.#reply, "read", tag, this.#read(m));
      case "write":
        return this.#encode("write", tag, { count: this.#write(m) });
      case "readdir":
        return dataReply(this.#reply, "readdir", tag, this.#readdir(m));
      case "clunk":
        this.#fids.remove(m.fid);
        return this.#encode("clunk", tag, {});
      case "remove":
        this.#remove(m.fid);
        return this.#encode("remove", tag, {});
      case "statfs":
        this.#fids.get(m.fid);
        return this.#encode("statfs", tag, this.#attributes.statfs());
      case "getattr":
        return this.#encode("getattr", tag, this.#attributes.get(this.#fids.get(m.fid)));
      case "setattr":
        this.#attributes.set(this.#fids.get(m.fid), m);
        return this.#encode("setattr", tag, {});
      case "readlink":
        return this.#encode("readlink", tag, {
          target: this.#tree.readlink(this.#fids.get(m.fid).path),
        });
      case "fsync":
        this.#files.sync(this.#opened(m.fid).descriptor, m.datasync !== 0);
        return this.#encode("fsync", tag, {});
      case "mkdir": {
        const { qid } = this.#tree.mkdir(this.#child(m.dfid, m.name), m.mode & 0o1777);
        return this.#encode("mkdir", tag, { qid });
      }
      case "symlink":
        return this.#encode("symlink", tag, { qid: this.#symlink(m).qid });
      case "link":
        this.#tree.link(this.#fids.get(m.fid).path, this.#child(m.dfid, m.name));
        return this.#encode("link", tag, {});
      case "rename":
        this.#rename(this.#fids.get(m.fid).path, this.#child(m.dfid, m.name));
        return this.#encode("rename", tag, {});
      case "renameat":
        this.#rename(this.#child(m.olddirfid, m.oldname), this.#child(m.newdirfid, m.newname));
        return this.#encode("renameat", tag, {});
      case "unlinkat":
        this.#unlink(m);
        return this.#encode("unlinkat", tag, {});
      case "lock":
        // Guests lock among their own processes themselves, and nobody else has this session.
        this.#opened(m.fid);
        return this.#encode("lock", tag, { status: LOCKED });
      case "getlock": {
        this.#opened(m.fid);
        const { start, length, proc_id, client_id } = m;
        const values = { type: UNLOCKED, start, length, proc_id, client_id };
        return this.#encode("getlock", tag, values);
      }
      case "mknod":
        // A device of the guest's making would be one of the host's.
        return refuse(Errno.EPERM);
      case "xattrwalk":
      case "xattrcreate":
      case "auth":
        return refuse(Errno.EOPNOTSUPP);
    }
  }

  // A version ends whatever was before: intro(5), version(5).
  #version({ tag, msize, version }: RequestOf<"version"> & { tag: number }): Uint8Array {
    this.#fids.clear();
    this.#msize = 0;
    if (msize < MSIZE_MIN) refuse(Errno.EMSGSIZE);
    const known = version === VERSION;
    const size = Math.min(msize, MSIZE_MAX);
    if (known) this.#msize = size;
    return this.#encode("version", tag, { msize: size, version: known ? VERSION : "unknown" });
  }

  #attach({ fid, afid, aname }: RequestOf<"attach">): Status {
    if (afid !== NONE) refuse(Errno.EOPNOTSUPP);
    if (aname !== "" && aname !== "/") refuse(Errno.ENOENT);
    const status = this.#tree.status("");
    this.#fids.add(this.#number(fid), "");
    return status;
  }

  #number(fid: number): number {
    return fid === NONE ? refuse(Errno.EINVAL) : fid;
  }

  #walk({ fid, newfid, wname }: RequestOf<"walk">): Qid[] {
    const from = this.#fids.get(fid);
    if (newfid !== fid && this.#fids.has(newfid)) refuse(Errno.EINVAL);
    // An open one is what it is.
    if (newfid === fid && from.descriptor >= 0) refuse(Errno.EINVAL);
    const qids: Qid[] = [];
    let { path } = from;
    let status: Status | undefined;
    for (const name of wname) {
      try {
        // Only of a directory there is anything more: also "..".
        status ??= this.#tree.status(path);
        if (!status.isDirectory) refuse(Errno.ENOTDIR);
        const next = this.#tree.walk(path, name);
        status = this.#tree.status(next);
        path = next;
        qids.push(status.qid);
      } catch (error) {
        // Some of it is an answer, too, without a new fid: walk(5).
        if (qids.length === 0 || !(error instanceof Refusal)) throw error;
        return qids;
      }
    }
    if (newfid === fid) this.#fids.move(from, path);
    else this.#fids.add(this.#number(newfid), path);
    return qids;
  }

  #child(directory: number, name: string): string {
    return this.#tree.child(this.#fids.get(directory).path, name);
  }

  #opened(number: number): Fid {
    const fid = this.#fids.get(number);
    return fid.descriptor < 0 ? refuse(Errno.EBADF) : fid;
  }

  #open({ fid: number, flags }: RequestOf<"lopen">): Status {
    const fid = this.#fids.get(number);
    this.#fids.checkOpen(fid);
    const writable = isWritable(flags);
    const changes = writable || (flags & Open.TRUNCATE) !== 0;
    if (changes) this.#tree.checkWritable();
    const before = this.#tree.status(fid.path);
    if (changes && before.isDirectory) refuse(Errno.EISDIR);
    const kept = flags & (Open.ACCESS | Open.TRUNCATE | KEPT);
    const [descriptor, status] = this.#files.open(fid.path, kept);
    // The host put something else there meanwhile: it may not be for the guest.
    if (status.isDirectory !== before.isDirectory) {
      this.#files.close(descriptor);
      refuse(Errno.ENOENT);
    }
    this.#fids.opened(fid, descriptor, status.isDirectory, writable);
    return status;
  }

  #create({ fid: number, name, flags, mode }: RequestOf<"lcreate">): Status {
    const fid = this.#fids.get(number);
    this.#fids.checkOpen(fid);
    const path = this.#tree.child(fid.path, name);
    this.#tree.checkCreatable(path);
    const { CREATE, EXCLUSIVE, TRUNCATE, ACCESS, DIRECTORY } = Open;
    const kept = flags & (ACCESS | EXCLUSIVE | TRUNCATE | (KEPT & ~DIRECTORY));
    const writable = isWritable(flags);
    const [descriptor, status] = this.#files.open(path, kept | CREATE, mode & MODE);
    this.#fids.move(fid, path);
    this.#fids.opened(fid, descriptor, status.isDirectory, writable);
    return status;
  }

  #read({ fid: number, offset, count }: RequestOf<"read">): number {
    const fid = this.#opened(number);
    if (fid.directory) refuse(Errno.EISDIR);
    if (offset > OFFSET_MAX) refuse(Errno.EINVAL);
    const end = Math.min(READ_HEADER + count, this.#msize);
    return this.#files.read(fid.descriptor, this.#reply.subarray(READ_HEADER, end), offset);
  }

  #write({ fid: number, offset, data }: RequestOf<"write">): number {
    const fid = this.#opened(number);
    this.#tree.checkWritable();
    if (!fid.writable) refuse(Errno.EBADF);
    if (offset > OFFSET_MAX - BigInt(MSIZE_MAX)) refuse(Errno.EFBIG);
    return this.#files.write(fid.descriptor, data, offset);
  }

  #readdir({ fid: number, offset, count }: RequestOf<"readdir">): number {
    const fid = this.#opened(number);
    if (!fid.directory) refuse(Errno.ENOTDIR);
    // It may have been moved since, by the host, to where other things are allowed.
    const place = this.#tree.place(fid.path);
    const own = this.#files.statusOf(fid.descriptor);
    if (!own.isSameFile(this.#files.status(fid.path))) refuse(Errno.ENOENT);
    const end = Math.min(READ_HEADER + count, this.#msize);
    const writer = new Writer(this.#reply.subarray(0, end), READ_HEADER);
    // An answer without entries is the end, so it goes on until one is shown.
    for (let at = offset; writer.at === READ_HEADER;) {
      const entries = this.#files.list(fid.descriptor, at);
      if (entries.length === 0) break;
      for (const entry of entries) {
        at = entry.next;
        if (!this.#shows(place, fid.path, entry)) continue;
        if (writer.at + QID_SIZE + 8 + 1 + 2 + entry.name.length > end) {
          return writer.at > READ_HEADER ? writer.at - READ_HEADER : refuse(Errno.EINVAL);
        }
        this.#entry(writer, fid.path, entry, own);
      }
    }
    return writer.at - READ_HEADER;
  }

  #shows(place: ReturnType<Tree["place"]>, path: string, entry: Entry): boolean {
    return entry.name === "." || entry.name === ".." || this.#tree.shows(place, path, entry);
  }

  #entry(writer: Writer, path: string, { name, inode, type, next }: Entry, own: Status): void {
    // Above the root there is nothing.
    const above = path === "" && name === "..";
    writer.write("qid", above ? own.qid : entryQid(type, inode));
    writer.write("u64", next);
    writer.write("u8", above ? EntryType.DIRECTORY : type);
    writer.write("text", name);
  }

  #symlink({ dfid, name, symtgt }: RequestOf<"symlink">): Status {
    if (!this.#symlinks) refuse(Errno.EPERM);
    if (symtgt.includes("\0")) refuse(Errno.EINVAL);
    return this.#tree.symlink(this.#child(dfid, name), symtgt);
  }

  // The fid is gone, whatever comes of it: remove(5).
  #remove(number: number): void {
    const { path } = this.#fids.get(number);
    this.#fids.remove(number);
    this.#tree.remove(path);
  }

  #rename(from: string, to: string): void {
    this.#tree.rename(from, to, () => this.#fids.checkRename(from, to));
    this.#fids.renamed(from, to);
  }

  #unlink({ dirfd, name, flags }: RequestOf<"unlinkat">): void {
    if ((flags & ~REMOVE_DIRECTORY) !== 0) refuse(Errno.EINVAL);
    this.#tree.unlink(this.#child(dirfd, name), (flags & REMOVE_DIRECTORY) !== 0);
  }
}

function isWritable(flags: number): boolean {
  // 3 is neither reading nor writing, nor in the protocol.
  if ((flags & Open.ACCESS) === Open.ACCESS) refuse(Errno.EINVAL);
  return (flags & Open.ACCESS) !== 0;
}
