/** A VM that comes from elsewhere, as vmd sees it. */
import { closeSync } from "node:fs";
import { diskDescriptors } from "../disk/index.ts";
import { describedDisk, type RestoreLaunch, type VmHost } from "../vm-host.ts";
import { Channel } from "../channel.ts";
import type { OpenedDisk } from "../disk-files.ts";
import type { SnapshotConfig } from "../snapshot/config.ts";
import { DiskLocks } from "./disk-locks.ts";
import { openCdrom, openDisk } from "./resources.ts";
import type { VmSettings } from "./settings.ts";

export class Incoming {
  readonly launch: RestoreLaunch;
  /** Whoever carries the stream writes there. Theirs, to close. */
  readonly descriptor: number;
  readonly #begun = Promise.withResolvers<void>();

  /** @param answers whether the sender waits for answers */
  constructor({ boot, cpuid, tscKhz, rom }: SnapshotConfig, answers: boolean) {
    const [ours, theirs] = Channel.pair(true);
    this.descriptor = ours;
    this.launch = {
      ...{ boot, cpuid, tscKhz, rom },
      inputs: [{ descriptor: theirs, stream: true, verify: true }],
      receive: { answers },
    };
  }

  /** Resolves when its process is there. */
  get begun(): Promise<void> {
    return this.#begun.promise;
  }

  started(): void {
    this.#begun.resolve();
  }

  /**
   * Opens its disks, which the sender has let go of, and hands them over.
   * @returns their locks
   */
  openDisks({ disks, cdrom }: VmSettings, host: VmHost): DiskLocks | undefined {
    const opened: OpenedDisk[] = [];
    let disc: OpenedDisk | undefined;
    try {
      for (const disk of disks) opened.push(openDisk(disk));
      disc = cdrom && openCdrom(cdrom);
    } catch (error) {
      for (const { files } of opened) diskDescriptors(files).forEach((one) => closeSync(one));
      host.tell({ kind: "disks", disks: [], failure: (error as Error).message });
      return undefined;
    }
    const locks = new DiskLocks(opened);
    const all = disc === undefined ? opened : [...opened, disc];
    host.tell(
      { kind: "disks", disks: opened.map(describedDisk), cdrom: disc && describedDisk(disc) },
      all.flatMap(({ files }) => diskDescriptors(files)),
    );
    return locks;
  }
}
