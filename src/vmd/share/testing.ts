/** For tests: a directory, a server of it, and a client that speaks to the server. */
import { closeSync, constants, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Errno } from "./errno.ts";
import { Files } from "./files.ts";
import {
  decodeReply,
  encodeRequest,
  MSIZE_MAX,
  NONE,
  type Reply,
  type RequestKind,
  type RequestOf,
  VERSION,
} from "./messages.ts";
import { Server, type SharePolicy } from "./server.ts";

const O_PATH = 0o10000000;

/** A new directory, gone when it is disposed of. */
export class Folder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "share-"));

  at(...names: string[]): string {
    return join(this.path, ...names);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

export function openRoot(path: string): number {
  return openSync(path, constants.O_DIRECTORY | O_PATH);
}

const names = new Map<number, string>(Object.entries(Errno).map(([name, code]) => [code, name]));

/** One entry of an Rreaddir. */
export interface Listed {
  name: string;
  type: number;
  next: bigint;
  qid: bigint;
}

/** A client of a server in this process. Its root is fid 0; other fids count up. */
export class Client implements Disposable {
  readonly server: Server;
  readonly #root: number;
  readonly #request = new Uint8Array(MSIZE_MAX);
  #next = 1;

  constructor(path: string, policy?: SharePolicy, msize = 64 * 1024) {
    this.#root = openRoot(path);
    this.server = new Server(new Files(this.#root), policy);
    this.ask("version", { msize, version: VERSION });
    this.ask("attach", { fid: 0, afid: NONE, uname: "", aname: "", n_uname: 0 });
  }

  [Symbol.dispose](): void {
    this.server[Symbol.dispose]();
    closeSync(this.#root);
  }

  /** @returns the reply */
  send<K extends RequestKind>(kind: K, values: RequestOf<K>): Reply {
    return decodeReply(this.server.handle(encodeRequest(this.#request, kind, 1, values)).slice());
  }

  /** @returns the reply to a request that is to be done. */
  ask<K extends RequestKind>(kind: K, values: RequestOf<K>): Extract<Reply, { kind: K }> {
    const reply = this.send(kind, values);
    if (reply.kind === "lerror") throw new Error(`T${kind}: ${errorName(reply.ecode)}`);
    return reply as Extract<Reply, { kind: K }>;
  }

  /** @returns the name of the error of a request that is not; "done" if it is. */
  error<K extends RequestKind>(kind: K, values: RequestOf<K>): string {
    const reply = this.send(kind, values);
    return reply.kind === "lerror" ? errorName(reply.ecode) : "done";
  }

  /** A new fid for a path. */
  walk(path: string, from = 0): number {
    const newfid = this.#next++;
    const wname = path.split("/").filter(Boolean);
    const { wqid } = this.ask("walk", { fid: from, newfid, wname });
    if (wqid.length < wname.length) throw new Error("Twalk: ENOENT");
    return newfid;
  }

  /** What a walk ends with: an error's name, or "done". */
  tryWalk(path: string, from = 0): string {
    try {
      this.ask("clunk", { fid: this.walk(path, from) });
      return "done";
    } catch (error) {
      return (error as Error).message.replace(/^T\w+: /, "");
    }
  }

  open(path: string, flags = 0): number {
    const fid = this.walk(path);
    this.ask("lopen", { fid, flags });
    return fid;
  }

  read(path: string): string {
    const fid = this.open(path);
    const { data } = this.ask("read", { fid, offset: 0n, count: 65536 });
    this.ask("clunk", { fid });
    return Buffer.from(data).toString("latin1");
  }

  create(directory: string, name: string, { flags = 2, mode = 0o644 } = {}): number {
    const fid = this.walk(directory);
    this.ask("lcreate", { fid, name, flags, mode, gid: 0 });
    return fid;
  }

  write(fid: number, text: string, offset = 0n): number {
    return this.ask("write", { fid, offset, data: Buffer.from(text, "latin1") }).count;
  }

  list(path: string, count = 8192): string[] {
    const fid = this.open(path);
    const found: string[] = [];
    for (let offset = 0n; ;) {
      const entries = parseEntries(this.ask("readdir", { fid, offset, count }).data);
      if (entries.length === 0) break;
      found.push(...entries.map(({ name }) => name));
      offset = (entries.at(-1) as Listed).next;
    }
    this.ask("clunk", { fid });
    return found.filter((name) => name !== "." && name !== "..").sort();
  }

  readlink(path: string): string {
    return this.ask("readlink", { fid: this.walk(path) }).target;
  }

  /** What is tried on a name in a directory; of "lcreate" a file for writing. */
  tryCreate(kind: "lcreate" | "mkdir" | "symlink", directory: string, name: string): string {
    const fid = this.walk(directory);
    if (kind === "lcreate") return this.error(kind, { fid, name, flags: 1, mode: 0o644, gid: 0 });
    if (kind === "mkdir") return this.error(kind, { dfid: fid, name, mode: 0o755, gid: 0 });
    return this.error(kind, { dfid: fid, name, symtgt: "target", gid: 0 });
  }

  tryRename(from: string, to: string): string {
    const [a, b] = [split(from), split(to)];
    return this.error("renameat", {
      olddirfid: this.walk(a.directory),
      oldname: a.name,
      newdirfid: this.walk(b.directory),
      newname: b.name,
    });
  }

  tryUnlink(path: string, flags = 0): string {
    const { directory, name } = split(path);
    return this.error("unlinkat", { dirfd: this.walk(directory), name, flags });
  }

  trySetattr(path: string, changes: Partial<RequestOf<"setattr">>): string {
    return this.error("setattr", setattr(this.walk(path), changes));
  }
}

export function setattr(fid: number, changes: Partial<RequestOf<"setattr">>): RequestOf<"setattr"> {
  return {
    fid,
    valid: 0,
    mode: 0,
    uid: 0,
    gid: 0,
    size: 0n,
    atime_sec: 0n,
    atime_nsec: 0n,
    mtime_sec: 0n,
    mtime_nsec: 0n,
    ...changes,
  };
}

function split(path: string): { directory: string; name: string } {
  const slash = path.lastIndexOf("/");
  return { directory: path.slice(0, Math.max(slash, 0)), name: path.slice(slash + 1) };
}

function errorName(code: number): string {
  if (names.has(code)) return names.get(code) as string;
  return process.getBuiltinModule("node:util").getSystemErrorName(-code);
}

export function parseEntries(data: Uint8Array): Listed[] {
  const view = Buffer.from(data);
  const entries: Listed[] = [];
  for (let at = 0; at < view.length;) {
    const length = view.readUInt16LE(at + 22);
    entries.push({
      qid: view.readBigUInt64LE(at + 5),
      next: view.readBigUInt64LE(at + 13),
      type: view[at + 21],
      name: view.toString("latin1", at + 24, at + 24 + length),
    });
    at += 24 + length;
  }
  return entries;
}
