/** The disks of a VM of vmd, frozen with the rights of whoever runs vctl. */
import { type DiskOfVm, FrozenDisks } from "../vmd/snapshot/disks.ts";
import type { Client } from "./client.ts";

/** @param id the snapshot's. @throws RefusedError, SnapshotError, DiskError */
export function frozenFor(client: Client, vm: number | string, id: string): FrozenDisks {
  const disks = client.call({ request: "show", vm }).vm.disks as (DiskOfVm & {
    format: string | null;
  })[];
  return new FrozenDisks(
    disks.map((disk) => ({ ...disk, format: disk.format ?? undefined })),
    id,
  );
}
