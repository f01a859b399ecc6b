/** What the daemon says about a VM in its snapshot, and which VMs can have one. */
import { RefusalError } from "./refusal.ts";
import type { VmSettings } from "./settings.ts";

/** What of a VM is said. */
export interface DescribedVm {
  readonly settings: VmSettings;
  /** Link addresses of its interfaces. */
  readonly macs: readonly string[];
}

/** @throws RefusalError for a VM that is recorded, or whose disks can't be named by anybody else */
export function requireSnapshots({ disks, record }: VmSettings): void {
  if (record !== undefined) {
    throw new RefusalError("SNAPSHOT", `the vm is recorded in ${record.path}`);
  }
  if (disks.every(({ ephemeral }) => ephemeral !== true)) return;
  throw new RefusalError("DISK", "the vm is a copy, and what it writes to its disks has no name");
}

export function writable({ disks }: VmSettings): VmSettings["disks"] {
  return disks.filter(({ readOnly }) => readOnly !== true);
}

/** What of a CONFIG record a VM's process doesn't know. @param frozen paths of disks that were frozen */
export function snapshotConfig(
  vm: DescribedVm,
  id: string,
  frozen: ReadonlyMap<number, string> = new Map(),
): object {
  const { name, kernel, initrd, cmdline, modules, disks, cdrom, bootDevice, memory, machine } =
    vm.settings;
  const { shares, vsock, interfaces } = vm.settings;
  const { epoch: _, engine: __, ...rest } = machine;
  return {
    format: 1,
    id,
    created: Date.now(),
    options: {
      ...{ name, cmdline, memory, bootDevice, ...rest },
      kernel: kernel?.path,
      initrd: initrd?.path,
      cdrom: cdrom?.path,
      modules: modules.map(({ path, args }) => (args === undefined ? path : `${path} ${args}`)),
      disks: disks.map(({ path, format, readOnly, limits }, place) => {
        const now = frozen.get(place);
        return now === undefined
          ? { path, format, readOnly, limits }
          : { path: now, format: "qcow2", limits };
      }),
    },
    ahead: 0,
    interfaces: interfaces.map((network, place) => ({
      mac: vm.macs[place],
      locked: network.lockedLladdr === true,
      limits: network.limits,
      network: { ...network, limits: undefined },
    })),
    shares: shares?.map(({ by: ___, ...share }) => share),
    vsock: vsock && { cid: vsock.cid, path: vsock.path },
  };
}
