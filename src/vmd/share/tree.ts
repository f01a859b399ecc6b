/**
 * A share's directory tree under its whitelist: paths are looked up, made, moved and removed here,
 * and every path of every request comes by.
 *
 * What is hidden isn't there (ENOENT); nor can it be made (EACCES), whether it is there or not. What
 * can only be passed through isn't changed (EACCES).
 */
import { Errno, refuse, Refusal } from "./errno.ts";
import {
  EntryType,
  type Entry,
  type Files,
  join,
  NAME_MAX,
  PATH_MAX,
  split,
  type Status,
} from "./files.ts";
import type { Place, Whitelist } from "./whitelist.ts";

const UP = "..";

export class Tree {
  readonly #files: Files;
  readonly #whitelist: Whitelist;
  readonly #readonly: boolean;

  constructor(files: Files, whitelist: Whitelist, readonly: boolean) {
    this.#files = files;
    this.#whitelist = whitelist;
    this.#readonly = readonly;
  }

  /** Ends a request that would change something in a read-only share. */
  checkWritable(): void {
    if (this.#readonly) refuse(Errno.EROFS);
  }

  /** The path of a name in a directory. */
  child(directory: string, name: string): string {
    if (name.length > NAME_MAX) refuse(Errno.ENAMETOOLONG);
    if (name === "" || name === "." || name === UP || /[/\0]/.test(name)) refuse(Errno.EINVAL);
    return join(directory, name);
  }

  /** One step of a walk. ".." of the root is the root. */
  walk(path: string, name: string): string {
    return name === UP ? split(path)[0] : this.child(path, name);
  }

  /** What is at a path that isn't hidden. */
  status(path: string): Status {
    const place = this.#visible(path);
    const status = this.#files.status(path);
    // A passage leads somewhere, which only a directory does.
    if (place.verdict === "passage" && !status.isDirectory) refuse(Errno.ENOENT);
    return status;
  }

  #visible(path: string): Place {
    const place = this.#whitelist.of(path);
    return place.verdict === "hidden" ? refuse(Errno.ENOENT) : place;
  }

  /** Ends a request that would change what isn't allowed at all, or isn't there for the guest. */
  checkChangeable(path: string): void {
    this.checkWritable();
    if (this.#visible(path).verdict !== "allowed") refuse(Errno.EACCES);
  }

  /** Ends a request that would put something where nothing is allowed. */
  checkCreatable(path: string): void {
    this.checkWritable();
    if (this.#whitelist.of(path).verdict !== "allowed") refuse(Errno.EACCES);
  }

  /** The target of a link. What it names must be visible, and so what is on the way. */
  readlink(path: string): string {
    this.status(path);
    const target = this.#files.readlink(path);
    if (!this.isNameable(path, target)) refuse(Errno.EACCES);
    return target;
  }

  /** Whether a link at a path may say where it leads: to nowhere outside, or hidden. */
  isNameable(path: string, target: string): boolean {
    // An absolute one is of the host.
    if (target === "" || target.startsWith("/")) return false;
    const places = [this.#whitelist.root];
    for (const name of split(path)[0].split("/").filter(Boolean)) this.#enter(places, name);
    for (const name of target.split("/")) {
      if (name === "" || name === ".") continue;
      if (name !== UP) this.#enter(places, name);
      else if (places.length === 1) return false;
      else places.pop();
      if (places.at(-1)?.verdict === "hidden") return false;
    }
    return true;
  }

  #enter(places: Place[], name: string): void {
    places.push(this.#whitelist.step(places.at(-1) as Place, name));
  }

  /** Whether a directory's entry is shown. */
  shows(place: Place, path: string, entry: Entry): boolean {
    const { verdict } = this.#whitelist.step(place, entry.name);
    if (verdict !== "passage") return verdict === "allowed";
    if (entry.type !== EntryType.UNKNOWN) return entry.type === EntryType.DIRECTORY;
    try {
      return this.#files.status(join(path, entry.name)).isDirectory;
    } catch (error) {
      if (error instanceof Refusal) return false;
      throw error;
    }
  }

  /** The place of a directory that is to be listed. */
  place(path: string): Place {
    return this.#visible(path);
  }

  mkdir(path: string, mode: number): Status {
    this.checkCreatable(path);
    this.#files.mkdir(path, mode);
    return this.#files.status(path);
  }

  symlink(path: string, target: string): Status {
    this.checkCreatable(path);
    if (target.length > PATH_MAX) refuse(Errno.ENAMETOOLONG);
    if (!this.isNameable(path, target)) refuse(Errno.EACCES);
    this.#files.symlink(path, target);
    return this.#files.status(path);
  }

  unlink(path: string, directory: boolean): void {
    this.checkChangeable(path);
    this.#files.unlink(path, directory);
  }

  /** For Tremove, which doesn't say what it is. */
  remove(path: string): void {
    this.checkChangeable(path);
    this.#files.unlink(path, this.#files.status(path).isDirectory);
  }

  /** @param check asked last, before anything happens. */
  rename(from: string, to: string, check: () => void): void {
    this.checkChangeable(from);
    this.checkCreatable(to);
    const status = this.#files.status(from);
    // What is below would be judged by other names. A guest's mv copies it then, and each of the
    // copies is judged.
    const places = [this.#whitelist.of(from), this.#whitelist.of(to)] as const;
    if (status.isDirectory && !this.#whitelist.sameBelow(...places)) refuse(Errno.EXDEV);
    check();
    this.#files.rename(from, to);
  }

  /** Another name for a regular file. */
  link(from: string, to: string): void {
    this.checkChangeable(from);
    this.checkCreatable(to);
    if (!this.#files.status(from).isRegular) refuse(Errno.EPERM);
    this.#files.link(from, to);
  }
}
