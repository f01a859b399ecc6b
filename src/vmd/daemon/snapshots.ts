/** Snapshots of the daemon's VMs, and VMs that go on from them. */
import { closeSync, constants, fstatSync } from "node:fs";
import * as v from "valibot";
import { daemonLibrary } from "../../vmm/native.ts";
import { SnapshotError } from "../../vmm/snapshot/format.ts";
import { FileError } from "../boot-files.ts";
import { hostError } from "../disk/index.ts";
import type { RequestOf } from "../protocol.ts";
import { type OpenedSnapshot, openSnapshot, remember } from "../snapshot/chain.ts";
import type { SnapshotConfig } from "../snapshot/config.ts";
import { HOT_WINDOW } from "../snapshot/write.ts";
import type { SnapshotResult } from "../vm-messages.ts";
import type { RestoreLaunch } from "../vm-host.ts";
import { VmError } from "../vm-options.ts";
import type { ManagedVm } from "./managed-vm.ts";
import { requireSnapshots, snapshotConfig, writable } from "./snapshot-config.ts";
import { RefusalError } from "./refusal.ts";
import { type Caller, type InterfaceSettings, openAs, type VmSettings } from "./settings.ts";

const CREATE = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
const PIPE = constants.O_WRONLY | constants.O_NONBLOCK;

/**
 * Has a VM write a snapshot into a new file, with the rights of whoever asks.
 * @throws RefusalError
 */
export async function takeSnapshot(
  vm: ManagedVm,
  request: RequestOf<"snapshot">,
  caller: Caller,
): Promise<SnapshotResult> {
  const { snapshot, path, as, pipe, compress, differential, stop, downtime, overlays } = request;
  const { host } = vm;
  if (differential && pipe) {
    throw new RefusalError("SNAPSHOT", "what goes through a pipe can't be differential");
  }
  if (downtime !== undefined && (stop || differential)) {
    throw new RefusalError("SNAPSHOT", "a live snapshot is neither differential nor the VM's end");
  }
  requireSnapshots(vm.settings);
  const open = (name: string, flags: number) => openOrRefuse(name, flags, caller);
  if (!stop && overlays.length < writable(vm.settings).length) {
    throw new RefusalError("DISK", "the vm has disks that were not frozen");
  }
  const { base } = vm.moving;
  const name = as ?? path;
  if (base.needs(name)) {
    if (differential) {
      throw new RefusalError(
        "SNAPSHOT",
        `${name}: the snapshot would be based on this file itself`,
      );
    }
    base.forget();
  }
  const opened: number[] = [];
  let again: number | undefined;
  try {
    const out = open(path, pipe ? PIPE : CREATE);
    opened.push(out);
    if (pipe && !fstatSync(out).isFIFO()) {
      throw new RefusalError("SNAPSHOT", `${path}: it is no pipe`);
    }
    again = pipe ? undefined : open(path, constants.O_RDONLY);
    const images = overlays.map(({ place, path: name }) => {
      const descriptor = open(name, constants.O_RDWR);
      opened.push(descriptor);
      return { place, name, descriptor };
    });
    const frozen = new Map(overlays.map((one) => [one.place, one.frozen]));
    const config = {
      ...snapshotConfig(vm, snapshot, frozen),
      base: differential ? base.base(name) : undefined,
    };
    opened.length = 0;
    const locked = lockImages(images);
    let result: SnapshotResult;
    try {
      const how = { compress, differential, stop, downtime, window: HOT_WINDOW };
      const options = { ...how, overlays: images };
      result = await host.snapshot(out, config, options);
      vm.moving.locks.rebase(locked);
      // Its disks are anybody's then.
      if (stop) await vm.whenStopped();
    } finally {
      for (const { descriptor } of locked) closeSync(descriptor);
    }
    if (again !== undefined) {
      base.written(snapshot, name, result.differential);
      remember(again);
    }
    return result;
  } catch (error) {
    for (const descriptor of opened) closeSync(descriptor);
    if (error instanceof VmError) throw new RefusalError("SNAPSHOT", error.message);
    throw error;
  } finally {
    if (again !== undefined) closeSync(again);
  }
}

/**
 * Images that are about to be a running VM's disks. Its process is handed the ones given.
 * @returns the same opened images again; whoever's who asks, to close
 */
export function lockImages<T extends { descriptor: number }>(images: readonly T[]): T[] {
  return images.map((image) => {
    daemonLibrary().vmm_lock(image.descriptor, 1);
    return { ...image, descriptor: daemonLibrary().vmm_duplicate(image.descriptor) };
  });
}

export function openOrRefuse(path: string, flags: number, caller: Caller): number {
  try {
    return openAs(path, flags, caller);
  } catch (error) {
    throw new RefusalError("SNAPSHOT", (hostError(path, error) as Error).message);
  }
}

/** Opens a snapshot with the rights of whoever asks. @throws RefusalError */
export function openForCaller(path: string, verify: boolean, caller: Caller): OpenedSnapshot {
  try {
    return openSnapshot(path, {
      verify: verify || undefined,
      open: (name) => openAs(name, constants.O_RDONLY | constants.O_NONBLOCK, caller),
    });
  } catch (error) {
    if (error instanceof SnapshotError || error instanceof FileError) {
      throw new RefusalError("SNAPSHOT", error.message);
    }
    throw error;
  }
}

/** What a VM process is told of it. */
export function restoreLaunch({
  config,
  inputs,
}: Pick<OpenedSnapshot, "config" | "inputs">): RestoreLaunch {
  const { boot, cpuid, tscKhz, rom } = config;
  return { boot, cpuid, tscKhz, rom, inputs };
}

const network = v.object({
  local: v.boolean(),
  switch: v.optional(v.string()),
  tap: v.optional(v.string()),
  lockedLladdr: v.optional(v.boolean()),
  up: v.optional(v.boolean()),
});

/**
 * The settings of a VM that goes on from a snapshot: everything in it is the caller's.
 * @throws RefusalError
 */
export function restoredSettings(
  config: SnapshotConfig,
  { vm, disks, engine }: Pick<RequestOf<"restore">, "vm" | "disks" | "engine">,
  caller: Caller,
): VmSettings {
  const { options, interfaces, vsock, shares, ahead } = config;
  const { kernel, initrd, cdrom, modules = [], cmdline, memory, bootDevice } = options;
  const mine = <T extends object>(value: T) => ({ ...value, by: caller });
  const path = (name: string | undefined) =>
    name === undefined ? undefined : mine({ path: name });
  const there = options.disks ?? [];
  if (disks.length !== there.length) {
    throw new RefusalError(
      "DISK",
      `the snapshot has ${there.length} disks, ${disks.length} are given`,
    );
  }
  const { virtualTime, devices, debugExit, reboot, bits, format, portable, tscKhz } = options;
  const kept = { virtualTime, devices, debugExit, reboot, bits, format, portable, tscKhz };
  const machine = { ...kept, engine: engine ?? config.engine };
  const epoch = virtualTime === true ? undefined : Date.now() + ahead;
  return {
    name: vm ?? options.name,
    kernel: path(kernel),
    initrd: path(initrd),
    cdrom: path(cdrom),
    cmdline,
    memory,
    bootDevice,
    modules: modules.map((one) => {
      const space = one.indexOf(" ");
      return space < 0
        ? mine({ path: one })
        : mine({ path: one.slice(0, space), args: one.slice(space + 1) });
    }),
    disks: disks.map((disk, place) => mine({ ...disk, limits: there[place].limits })),
    interfaces: interfaces.map(({ mac, limits, network: saved }): InterfaceSettings => {
      const result = v.safeParse(network, saved ?? { local: false });
      if (!result.success) throw new RefusalError("NETWORK", "its interfaces can't be");
      return { ...result.output, lladdr: mac, limits };
    }),
    owner: { uid: caller.uid },
    configured: false,
    machine: { ...(machine as VmSettings["machine"]), epoch },
    shares: (shares as VmSettings["shares"])?.map(mine),
    vsock: vsock === undefined ? undefined : mine(vsock as { cid: number; path: string }),
  };
}
