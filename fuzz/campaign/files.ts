/** Files that are there whole or not at all. */
import { renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

let written = 0;

/** A name in `folder` that nobody else uses and no listing shows. */
export function temporaryName(folder: string, name: string): string {
  return join(folder, `.${name}.${process.pid}.${written++}`);
}

/** Replaces the file at once: a reader sees the old or the new one, whenever this process ends. */
export function writeWhole(path: string, data: Uint8Array | string): void {
  const temporary = temporaryName(dirname(path), basename(path));
  try {
    writeFileSync(temporary, data, { flush: true });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** The same for what can be found again: without waiting for the disk. */
export function writeQuickly(path: string, data: Uint8Array): void {
  const temporary = temporaryName(dirname(path), basename(path));
  writeFileSync(temporary, data);
  renameSync(temporary, path);
}
