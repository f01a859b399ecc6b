/** A snapshot's disks: frozen when it is taken, and what a VM that goes on from it writes to. */
import { existsSync, openSync, closeSync } from "node:fs";
import {
  createQcow2,
  detectFormat,
  type DiskFormat,
  freezeDisk,
  type FrozenDisk,
  openDisk,
} from "../disk/index.ts";
import { fileState } from "../disk/state.ts";
import { SnapshotError } from "../../vmm/snapshot/format.ts";
import type { SnapshotConfig } from "./config.ts";

/** A disk of a VM. */
export interface DiskOfVm {
  readonly path: string;
  readonly format?: DiskFormat;
  readonly readOnly?: boolean;
}

/** Disks whose images are frozen: new images, based on them, are at their names. */
export class FrozenDisks {
  readonly #frozen: (FrozenDisk | undefined)[] = [];

  /**
   * Freezes all disks that are written. @param id the snapshot's
   * @throws SnapshotError for one that can't be, DiskError; none is frozen then
   */
  constructor(disks: readonly DiskOfVm[], id: string) {
    try {
      for (const { path, format = detectFormat(path), readOnly } of disks) {
        if (readOnly === true) {
          this.#frozen.push(undefined);
          continue;
        }
        if (format === "raw") {
          throw new SnapshotError(
            `${path}: a raw image can't stay as it is while its VM goes on; make it qcow2, or stop the VM`,
          );
        }
        this.#frozen.push(freezeDisk(path, id.slice(0, 8)));
      }
    } catch (error) {
      this.undo();
      throw error;
    }
  }

  /** Place on the machine, and name, of each new image. */
  get overlays(): { place: number; path: string; frozen: string }[] {
    return this.#frozen.flatMap((one, place) => {
      return one === undefined ? [] : [{ place, path: one.path, frozen: one.frozen }];
    });
  }

  /** There is no snapshot: as if nothing had been frozen. */
  undo(): void {
    for (const one of this.#frozen.splice(0)) one?.undo();
  }
}

/**
 * The disks of a VM that goes on from a snapshot: those that nobody was to write, if nobody has; else
 * new images, based on what was frozen, behind the snapshot's own name.
 * @throws SnapshotError, DiskError
 */
export function disksToGoOn(config: SnapshotConfig, snapshot: string): DiskOfVm[] {
  const { disks = [] } = config.options;
  return disks.map((disk, place) => {
    if (disk.readOnly === true) return disk;
    const state = config.diskStates?.[place];
    if (state === undefined) return overlay(disk, `${snapshot}.disk${place}`);
    if (stateOf(disk.path) === state) return disk;
    throw new SnapshotError(`${disk.path}: it was written since the snapshot was taken`);
  });
}

function stateOf(path: string): string {
  let descriptor: number;
  try {
    descriptor = openSync(path, "r");
  } catch (error) {
    throw new SnapshotError(`${path}: ${(error as NodeJS.ErrnoException).code}`);
  }
  try {
    return fileState(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function overlay({ path, format = "qcow2" }: DiskOfVm, stem: string): DiskOfVm {
  const base = openDisk(path, { readOnly: true, format });
  const { size } = base;
  base.close();
  for (let number = 0; ; number++) {
    const name = number === 0 ? `${stem}.qcow2` : `${stem}-${number}.qcow2`;
    if (existsSync(name)) continue;
    createQcow2(name, size, { base: { path, format } });
    return { path: name, format: "qcow2" };
  }
}
