/**
 * Copies of a VM that runs: its machine is written into a file in memory, which all copies map, so
 * they share what none of them writes.
 */
import { closeSync, constants, openSync } from "node:fs";
import { check, daemonLibrary, hostLibrary } from "../../vmm/native.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import type { RequestOf } from "../protocol.ts";
import { readConfig } from "../snapshot/config.ts";
import { newId } from "../snapshot/restored.ts";
import type { RestoreLaunch } from "../vm-host.ts";
import { VmError } from "../vm-options.ts";
import type { ManagedVm } from "./managed-vm.ts";
import { RefusalError } from "./refusal.ts";
import { requireNamedDisks, snapshotConfig, writable } from "./snapshot-config.ts";
import { lockImages, openOrRefuse, restoredSettings, restoreLaunch } from "./snapshots.ts";
import type { Caller, VmSettings } from "./settings.ts";

/** What copies are made from. */
export interface Template extends Disposable {
  /** How long the VM stood still, ms. */
  readonly paused: number;
  /** Of a copy. */
  settings(name: string): VmSettings;
  /** What one goes on from; the descriptor is whoever's who takes it. */
  launch(): RestoreLaunch;
}

/** @throws RefusalError */
export async function makeTemplate(
  vm: ManagedVm,
  { snapshot, overlays }: Pick<RequestOf<"fork">, "snapshot" | "overlays">,
  caller: Caller,
): Promise<Template> {
  const { host } = vm;
  requireNamedDisks(vm.settings);
  if (overlays.length < writable(vm.settings).length) {
    throw new RefusalError("DISK", "the vm has disks that were not frozen");
  }
  const images: { place: number; name: string; descriptor: number }[] = [];
  const memory = check("memory for copies", hostLibrary().vmm_memory_file(0));
  try {
    for (const { place, path } of overlays) {
      const descriptor = openOrRefuse(path, constants.O_RDWR, caller);
      images.push({ place, name: path, descriptor });
    }
    const frozen = new Map(overlays.map((one) => [one.place, one.frozen]));
    const config = snapshotConfig(vm, snapshot, frozen);
    const out = check("memory for copies", daemonLibrary().vmm_duplicate(memory));
    const given = images.splice(0);
    const locked = lockImages(given);
    let paused: number;
    try {
      ({ paused } = await host.snapshot(out, config, { overlays: given }));
      vm.moving.locks.rebase(locked);
    } finally {
      for (const { descriptor } of locked) closeSync(descriptor);
    }
    const said = readConfig(new FileSource(memory));
    return {
      paused,
      settings: (name) => copySettings(restoredSettings(said, asIs(name, said), caller)),
      launch: () => ({
        ...restoreLaunch({ config: said, inputs: [] }),
        inputs: [{ descriptor: reopen(memory), stream: false, verify: false }],
        clone: { generation: newId() },
      }),
      [Symbol.dispose]: () => closeSync(memory),
    };
  } catch (error) {
    closeSync(memory);
    for (const { descriptor } of images) closeSync(descriptor);
    if (error instanceof VmError) throw new RefusalError("SNAPSHOT", error.message);
    throw error;
  }
}

/** For reading: what was written is nobody's to change. */
function reopen(descriptor: number): number {
  return openSync(`/proc/self/fd/${descriptor}`, "r");
}

function asIs(name: string, { options }: ReturnType<typeof readConfig>) {
  const disks = (options.disks ?? []).map(({ path, format, readOnly }) => ({
    path,
    format,
    readOnly,
  }));
  return { vm: name, disks };
}

/** What is unique of a VM is left out: it gets another. */
function copySettings(settings: VmSettings): VmSettings {
  if (settings.vsock !== undefined) {
    throw new RefusalError(
      "EINVAL",
      "a vm with a socket device can't be copied: its path and CID are one's",
    );
  }
  return {
    ...settings,
    disks: settings.disks.map((disk) => ({ ...disk, ephemeral: disk.readOnly !== true })),
    interfaces: settings.interfaces.map((one) => ({ ...one, lladdr: undefined, tap: undefined })),
  };
}
