/** The snapshots of a VM that the next one may be based on, as whoever names their files knows them. */
import { realpathSync } from "node:fs";
import { basename, dirname } from "node:path";
import type { SnapshotConfig } from "./config.ts";

export class SnapshotBase {
  #last: { id: string; path: string } | undefined;
  /** Files of the last one, and of those that it is based on. */
  #files = new Set<string>();

  /**
   * What a differential snapshot says that it is based on; a name alone means its own folder.
   * @param path of the new one
   */
  base(path: string): SnapshotConfig["base"] {
    if (this.#last === undefined) return undefined;
    const last = real(this.#last.path);
    const near = dirname(last) === dirname(real(path));
    return { id: this.#last.id, path: near ? basename(last) : last };
  }

  /** Whether a differential snapshot can't be written there: it is itself based on that file. */
  needs(path: string): boolean {
    return this.#files.has(real(path));
  }

  /** Its files are about to be overwritten: the next one stands alone. */
  forget(): void {
    this.#last = undefined;
    this.#files = new Set();
  }

  /** A snapshot was written. */
  written(id: string, path: string, differential: boolean): void {
    if (!differential) this.#files = new Set();
    this.#files.add(real(path));
    this.#last = { id, path };
  }
}

function real(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    try {
      return `${realpathSync(dirname(path))}/${basename(path)}`;
    } catch {
      return path;
    }
  }
}
