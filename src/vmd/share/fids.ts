/**
 * A session's fids: numbers of the guest for paths, and for what it has open.
 *
 * A fid holds no descriptor before it is opened: a guest keeps one for each name that it has cached,
 * and no process may have that many. It holds a path, which is resolved anew at each use.
 */
import { Errno, refuse } from "./errno.ts";
import type { Files } from "./files.ts";

/** Bytes that paths may take, with what an object costs. */
const PATH_BYTES = 64 * 2 ** 20;
const FID_COST = 256;
/** Open files: the process may have 1024 descriptors, native/sandbox.h. */
export const OPEN_MAX = 768;

export interface Fid {
  path: string;
  /** −1: not open. */
  descriptor: number;
  directory: boolean;
  writable: boolean;
}

export class Fids {
  readonly #files: Files;
  readonly #fids = new Map<number, Fid>();
  #bytes = 0;
  #open = 0;

  constructor(files: Files) {
    this.#files = files;
  }

  get size(): number {
    return this.#fids.size;
  }

  get(number: number): Fid {
    return this.#fids.get(number) ?? refuse(Errno.EBADF);
  }

  has(number: number): boolean {
    return this.#fids.has(number);
  }

  /** Gives a number to a path, which it must not have yet. */
  add(number: number, path: string): void {
    if (this.#fids.has(number)) refuse(Errno.EINVAL);
    if (this.#bytes + FID_COST + path.length > PATH_BYTES) refuse(Errno.ENFILE);
    this.#bytes += FID_COST + path.length;
    this.#fids.set(number, { path, descriptor: -1, directory: false, writable: false });
  }

  /** Whether another file may be opened, before it is. */
  checkOpen(fid: Fid): void {
    if (fid.descriptor >= 0) refuse(Errno.EINVAL);
    if (this.#open >= OPEN_MAX) refuse(Errno.EMFILE);
  }

  opened(fid: Fid, descriptor: number, directory: boolean, writable: boolean): void {
    this.#open++;
    fid.descriptor = descriptor;
    fid.directory = directory;
    fid.writable = writable;
  }

  /** Another path for one fid. */
  move(fid: Fid, path: string): void {
    this.#bytes += path.length - fid.path.length;
    fid.path = path;
  }

  remove(number: number): void {
    const fid = this.get(number);
    this.#fids.delete(number);
    this.#bytes -= FID_COST + fid.path.length;
    this.#close(fid);
  }

  #close(fid: Fid): void {
    if (fid.descriptor < 0) return;
    this.#files.close(fid.descriptor);
    this.#open--;
    fid.descriptor = -1;
  }

  clear(): void {
    for (const fid of this.#fids.values()) this.#close(fid);
    this.#fids.clear();
    this.#bytes = 0;
  }

  /** Refuses a rename that would make the paths of fids too long to be kept. */
  checkRename(from: string, to: string): void {
    const growth = to.length - from.length;
    if (growth <= 0 || this.#bytes + growth * this.#fids.size <= PATH_BYTES) return;
    let bytes = this.#bytes;
    for (const { path } of this.#fids.values()) if (isAtOrBelow(path, from)) bytes += growth;
    if (bytes > PATH_BYTES) refuse(Errno.ENFILE);
  }

  /** What was at a path is at another now: fids go along. */
  renamed(from: string, to: string): void {
    for (const fid of this.#fids.values()) {
      if (isAtOrBelow(fid.path, from)) this.move(fid, to + fid.path.slice(from.length));
    }
  }
}

function isAtOrBelow(path: string, above: string): boolean {
  return path.startsWith(above) && (path.length === above.length || path[above.length] === "/");
}
