/** Has a VM's process write a snapshot, for a program that holds the VM. */
import { closeSync, openSync, unlinkSync } from "node:fs";
import { hostError, parseDiskArgument } from "../disk/index.ts";
import { SnapshotError } from "../../vmm/snapshot/format.ts";
import type { VmHost } from "../vm-host.ts";
import type { SnapshotResult } from "../vm-messages.ts";
import type { VcpuOptions } from "../vm-options.ts";
import type { SnapshotBase } from "./base.ts";
import { remember } from "./chain.ts";
import { FrozenDisks } from "./disks.ts";
import { newId, snapshotConfig } from "./restored.ts";

/** For so long a guest stands still for what is left of a live snapshot, about, ms. */
export const SNAPSHOT_DOWNTIME = 100;
/** For so long before a snapshot it is looked at which pages the guest touches, ms. */
export const HOT_WINDOW = 100;

export interface WriteOptions {
  readonly compress?: boolean;
  /** The VM ends, and its disks stay as they are. */
  readonly stop?: boolean;
  /** Only what changed since the last one. */
  readonly differential?: boolean;
  /** Memory is copied while the guest runs, which stands still for about so long, ms. */
  readonly downtime?: number;
  /** The VM's snapshots so far. */
  readonly base: SnapshotBase;
}

/**
 * @param path of a file that isn't there yet
 * @throws VmError, SnapshotError, DiskError
 */
export async function writeSnapshot(
  host: VmHost,
  options: VcpuOptions,
  path: string,
  { compress = false, stop = false, differential = false, downtime, base }: WriteOptions,
): Promise<SnapshotResult> {
  if (downtime !== undefined && (stop || differential)) {
    throw new SnapshotError("a live snapshot is neither differential nor the VM's end");
  }
  const id = newId();
  const disks = (options.disks ?? []).map((disk) =>
    typeof disk === "string" ? parseDiskArgument(disk) : disk,
  );
  const out = create(path);
  const again = openSync(path, "r");
  let frozen: FrozenDisks | undefined;
  try {
    frozen = new FrozenDisks(stop ? [] : disks, id);
    const { overlays } = frozen;
    const named = disks.map((disk, place) => {
      return { ...disk, path: overlays.find((one) => one.place === place)?.frozen ?? disk.path };
    });
    const config = {
      ...snapshotConfig({ ...options, disks: named }, id),
      base: differential ? base.base(path) : undefined,
    };
    const result = await host.snapshot(out, config, {
      compress,
      differential,
      stop,
      downtime,
      window: HOT_WINDOW,
      overlays: overlays.map(({ place, path }) => {
        return { place, name: path, descriptor: openSync(path, "r+") };
      }),
    });
    base.written(id, path, result.differential);
    remember(again);
    return result;
  } catch (error) {
    frozen?.undo();
    unlinkSync(path);
    throw error;
  } finally {
    closeSync(again);
  }
}

function create(path: string): number {
  try {
    return openSync(path, "wx", 0o600);
  } catch (error) {
    throw hostError(path, error);
  }
}
