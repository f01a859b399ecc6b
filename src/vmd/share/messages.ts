/**
 * The messages of 9P2000.L, as Linux's v9fs speaks it: Documentation/filesystems/9p.rst and
 * github.com/chaos/diod, protocol.md; the older ones in Plan 9's intro(5).
 *
 * Each is size[4] type[1] tag[2] and its fields. A request of type n has a reply of type n + 1, or
 * Rlerror.
 */
import { Errno, refuse } from "./errno.ts";
import { Reader, type Shape, type Values, Writer } from "./fields.ts";

export const VERSION = "9P2000.L";
/** size[4] type[1] tag[2] */
export const HEADER = 7;
/** Before the data of Rread and Rreaddir. */
export const READ_HEADER = HEADER + 4;
/** An Rlerror: the shortest reply that must always fit. */
export const ERROR_SIZE = HEADER + 4;
export const MSIZE_MIN = 8 * 1024;
export const MSIZE_MAX = 1024 * 1024;
export const NO_TAG = 0xffff;
/** No fid, no uid, no gid. */
export const NONE = 0xffffffff;

const requests = {
  statfs: [8, { fid: "u32" }],
  lopen: [12, { fid: "u32", flags: "u32" }],
  lcreate: [14, { fid: "u32", name: "text", flags: "u32", mode: "u32", gid: "u32" }],
  symlink: [16, { dfid: "u32", name: "text", symtgt: "text", gid: "u32" }],
  mknod: [18, { dfid: "u32", name: "text", mode: "u32", major: "u32", minor: "u32", gid: "u32" }],
  rename: [20, { fid: "u32", dfid: "u32", name: "text" }],
  readlink: [22, { fid: "u32" }],
  getattr: [24, { fid: "u32", request_mask: "u64" }],
  setattr: [
    26,
    {
      fid: "u32",
      valid: "u32",
      mode: "u32",
      uid: "u32",
      gid: "u32",
      size: "u64",
      atime_sec: "u64",
      atime_nsec: "u64",
      mtime_sec: "u64",
      mtime_nsec: "u64",
    },
  ],
  xattrwalk: [30, { fid: "u32", newfid: "u32", name: "text" }],
  xattrcreate: [32, { fid: "u32", name: "text", attr_size: "u64", flags: "u32" }],
  readdir: [40, { fid: "u32", offset: "u64", count: "u32" }],
  fsync: [50, { fid: "u32", datasync: "u32" }],
  lock: [
    52,
    {
      fid: "u32",
      type: "u8",
      flags: "u32",
      start: "u64",
      length: "u64",
      proc_id: "u32",
      client_id: "text",
    },
  ],
  getlock: [
    54,
    { fid: "u32", type: "u8", start: "u64", length: "u64", proc_id: "u32", client_id: "text" },
  ],
  link: [70, { dfid: "u32", fid: "u32", name: "text" }],
  mkdir: [72, { dfid: "u32", name: "text", mode: "u32", gid: "u32" }],
  renameat: [74, { olddirfid: "u32", oldname: "text", newdirfid: "u32", newname: "text" }],
  unlinkat: [76, { dirfd: "u32", name: "text", flags: "u32" }],
  version: [100, { msize: "u32", version: "text" }],
  auth: [102, { afid: "u32", uname: "text", aname: "text", n_uname: "u32" }],
  attach: [104, { fid: "u32", afid: "u32", uname: "text", aname: "text", n_uname: "u32" }],
  flush: [108, { oldtag: "u16" }],
  walk: [110, { fid: "u32", newfid: "u32", wname: "texts" }],
  read: [116, { fid: "u32", offset: "u64", count: "u32" }],
  write: [118, { fid: "u32", offset: "u64", data: "data" }],
  clunk: [120, { fid: "u32" }],
  remove: [122, { fid: "u32" }],
} as const satisfies Record<string, readonly [number, Shape]>;

const replies = {
  lerror: [7, { ecode: "u32" }],
  statfs: [
    9,
    {
      type: "u32",
      bsize: "u32",
      blocks: "u64",
      bfree: "u64",
      bavail: "u64",
      files: "u64",
      ffree: "u64",
      fsid: "u64",
      namelen: "u32",
    },
  ],
  lopen: [13, { qid: "qid", iounit: "u32" }],
  lcreate: [15, { qid: "qid", iounit: "u32" }],
  symlink: [17, { qid: "qid" }],
  mknod: [19, { qid: "qid" }],
  rename: [21, {}],
  readlink: [23, { target: "text" }],
  getattr: [
    25,
    {
      valid: "u64",
      qid: "qid",
      mode: "u32",
      uid: "u32",
      gid: "u32",
      nlink: "u64",
      rdev: "u64",
      size: "u64",
      blksize: "u64",
      blocks: "u64",
      atime_sec: "u64",
      atime_nsec: "u64",
      mtime_sec: "u64",
      mtime_nsec: "u64",
      ctime_sec: "u64",
      ctime_nsec: "u64",
      btime_sec: "u64",
      btime_nsec: "u64",
      gen: "u64",
      data_version: "u64",
    },
  ],
  setattr: [27, {}],
  xattrwalk: [31, { size: "u64" }],
  xattrcreate: [33, {}],
  readdir: [41, { data: "data" }],
  fsync: [51, {}],
  lock: [53, { status: "u8" }],
  getlock: [55, { type: "u8", start: "u64", length: "u64", proc_id: "u32", client_id: "text" }],
  link: [71, {}],
  mkdir: [73, { qid: "qid" }],
  renameat: [75, {}],
  unlinkat: [77, {}],
  version: [101, { msize: "u32", version: "text" }],
  auth: [103, { aqid: "qid" }],
  attach: [105, { qid: "qid" }],
  flush: [109, {}],
  walk: [111, { wqid: "qids" }],
  read: [117, { data: "data" }],
  write: [119, { count: "u32" }],
  clunk: [121, {}],
  remove: [123, {}],
} as const satisfies Record<string, readonly [number, Shape]>;

type Requests = typeof requests;
type Replies = typeof replies;
export type RequestKind = keyof Requests;
export type ReplyKind = keyof Replies;
/** The fields of a request or reply, by its name without T or R. */
export type RequestOf<K extends RequestKind> = Values<Requests[K][1]>;
export type ReplyOf<K extends ReplyKind> = Values<Replies[K][1]>;
export type Request = { [K in RequestKind]: { kind: K; tag: number } & RequestOf<K> }[RequestKind];
export type Reply = { [K in ReplyKind]: { kind: K; tag: number } & ReplyOf<K> }[ReplyKind];

type Table = ReadonlyMap<
  number,
  readonly [kind: string, fields: readonly (readonly [string, string])[]]
>;

const table = (messages: Record<string, readonly [number, Shape]>): Table =>
  new Map(
    Object.entries(messages).map(([kind, [type, shape]]) => [type, [kind, Object.entries(shape)]]),
  );
const requestTable = table(requests);
const replyTable = table(replies);

/** The tag of a message, whatever else it is. */
export function tagOf(message: Uint8Array): number {
  return message.length < HEADER ? NO_TAG : message[5] | (message[6] << 8);
}

function decode(bytes: Uint8Array, types: Table): { kind: string; tag: number } {
  if (bytes.length < HEADER) refuse(Errno.EPROTO);
  const reader = new Reader(bytes, 0);
  if (reader.read("u32") !== bytes.length) refuse(Errno.EPROTO);
  const type = types.get(reader.read("u8") as number);
  if (type === undefined) refuse(Errno.EOPNOTSUPP);
  const message: { kind: string; tag: number } & Record<string, unknown> = {
    kind: type[0],
    tag: reader.read("u16") as number,
  };
  for (const [name, field] of type[1]) message[name] = reader.read(field as Shape[string]);
  // A message that says more than it means means something else.
  if (reader.left !== 0) refuse(Errno.EPROTO);
  return message;
}

/** @throws Refusal for what is no request. */
export function decodeRequest(bytes: Uint8Array): Request {
  return decode(bytes, requestTable) as unknown as Request;
}

/** @throws Refusal for what is no reply. */
export function decodeReply(bytes: Uint8Array): Reply {
  return decode(bytes, replyTable) as unknown as Reply;
}

function encode(
  into: Uint8Array,
  [type, shape]: readonly [number, Shape],
  tag: number,
  values: object,
): Uint8Array {
  const writer = new Writer(into, 4);
  writer.write("u8", type);
  writer.write("u16", tag);
  for (const name in shape) writer.write(shape[name], (values as Values<Shape>)[name]);
  const message = into.subarray(0, writer.at);
  new Writer(into, 0).write("u32", message.length);
  return message;
}

/** @returns the part of `into` that the request takes. @throws Refusal when it doesn't fit */
export function encodeRequest<K extends RequestKind>(
  into: Uint8Array,
  kind: K,
  tag: number,
  values: RequestOf<K>,
): Uint8Array {
  return encode(into, requests[kind], tag, values);
}

/** @returns the part of `into` that the reply takes. @throws Refusal when it doesn't fit */
export function encodeReply<K extends ReplyKind>(
  into: Uint8Array,
  kind: K,
  tag: number,
  values: ReplyOf<K>,
): Uint8Array {
  return encode(into, replies[kind], tag, values);
}

/** Puts the header of an Rread or Rreaddir before data that is in `into` already. */
export function dataReply(
  into: Uint8Array,
  kind: "read" | "readdir",
  tag: number,
  length: number,
): Uint8Array {
  const writer = new Writer(into, 0);
  writer.write("u32", READ_HEADER + length);
  writer.write("u8", replies[kind][0]);
  writer.write("u16", tag);
  writer.write("u32", length);
  return into.subarray(0, READ_HEADER + length);
}
