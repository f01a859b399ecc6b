/**
 * Copies of a VM that runs: its machine is written into a file in memory, which all copies map, so
 * they share what none of them writes.
 *
 * That file is kept for the next copies. They get another beside it with what the VM has written
 * since, which its process knows by the engine's log of dirty pages and by what devices tell: nobody
 * is asked whether the first file is still good, and a process that doesn't know gives all of it anew.
 */
import { closeSync, constants, openSync } from "node:fs";
import type { EngineName } from "../../vmm/engine-library.ts";
import { check, daemonLibrary, hostLibrary } from "../../vmm/native.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import type { RequestOf } from "../protocol.ts";
import { readConfig, type SnapshotConfig } from "../snapshot/config.ts";
import { newId } from "../snapshot/restored.ts";
import type { RestoreLaunch, VmHost } from "../vm-host.ts";
import type { SnapshotResult } from "../vm-messages.ts";
import { VmError } from "../vm-options.ts";
import type { ManagedVm } from "./managed-vm.ts";
import { RefusalError } from "./refusal.ts";
import { requireSnapshots, snapshotConfig, writable } from "./snapshot-config.ts";
import { lockImages, openOrRefuse, restoredSettings, restoreLaunch } from "./snapshots.ts";
import type { Caller, VmSettings } from "./settings.ts";

/** So long after the last copy a VM's memory is kept for more, ms. */
const SPELL = 60_000;
/** The file is made anew when so many of its pages, as a part of them, are others by now. */
const STALE = 0.5;

/** What copies are made from. */
export interface Template extends Disposable {
  /** How long the VM stood still, ms. */
  readonly paused: number;
  readonly engine: EngineName;
  /** Of a copy. */
  settings(name: string): VmSettings;
  /** What one goes on from; the descriptor is whoever's who takes it. */
  launch(): RestoreLaunch;
}

/** A machine in a file in memory. */
interface Kept {
  readonly id: string;
  readonly memory: number;
  readonly pages: number;
}

/** The templates of a daemon's VMs, each for as long as its VM runs and is copied now and then. */
export class Templates implements Disposable {
  readonly #kept = new Map<VmHost, Kept>();
  readonly #timers = new Map<VmHost, Timer>();

  /** What a VM is now. @throws RefusalError */
  async make(
    vm: ManagedVm,
    { snapshot, overlays }: Pick<RequestOf<"fork">, "snapshot" | "overlays">,
    caller: Caller,
  ): Promise<Template> {
    const { host } = vm;
    requireSnapshots(vm.settings);
    if (overlays.length < writable(vm.settings).length) {
      throw new RefusalError("DISK", "the vm has disks that were not frozen");
    }
    const before = this.#kept.get(host);
    const parts: number[] = [];
    try {
      // Another request may replace it meanwhile.
      if (before !== undefined) parts.push(duplicate(before.memory));
      const memory = check("memory for copies", hostLibrary().vmm_memory_file(0));
      parts.push(memory);
      const base = before && { id: before.id };
      const result = await write(vm, { snapshot, overlays, base, memory }, caller);
      if (!result.differential && before !== undefined) closeSync(parts.shift() as number);
      if (!result.differential) {
        this.#keep(host, { id: snapshot, memory: duplicate(memory), pages: result.pages });
      } else if (result.pages > STALE * (before as Kept).pages) {
        this.#forget(host);
      }
      this.#wait(host);
      const config = readConfig(new FileSource(memory));
      return template(config, parts, result.paused, caller);
    } catch (error) {
      for (const descriptor of parts) closeSync(descriptor);
      if (error instanceof VmError) throw new RefusalError("SNAPSHOT", error.message);
      throw error;
    }
  }

  #keep(host: VmHost, kept: Kept): void {
    const before = this.#kept.get(host);
    if (before === undefined) void host.ended.then(() => this.#forget(host));
    else closeSync(before.memory);
    this.#kept.set(host, kept);
  }

  #wait(host: VmHost): void {
    clearTimeout(this.#timers.get(host));
    if (!this.#kept.has(host)) return;
    const timer = setTimeout(() => this.#forget(host), SPELL);
    timer.unref();
    this.#timers.set(host, timer);
  }

  #forget(host: VmHost): void {
    clearTimeout(this.#timers.get(host));
    this.#timers.delete(host);
    const kept = this.#kept.get(host);
    if (kept === undefined) return;
    this.#kept.delete(host);
    closeSync(kept.memory);
    host.tell({ kind: "forget-template" });
  }

  [Symbol.dispose](): void {
    for (const host of [...this.#kept.keys()]) this.#forget(host);
  }
}

interface Wanted extends Pick<RequestOf<"fork">, "snapshot" | "overlays"> {
  /** The template that it may be based on. */
  readonly base: { id: string } | undefined;
  /** The file that it goes into. */
  readonly memory: number;
}

/** Has a VM's process write it. @throws RefusalError, VmError */
async function write(
  vm: ManagedVm,
  { snapshot, overlays, base, memory }: Wanted,
  caller: Caller,
): Promise<SnapshotResult> {
  const images: { place: number; name: string; descriptor: number }[] = [];
  try {
    for (const { place, path } of overlays) {
      const descriptor = openOrRefuse(path, constants.O_RDWR, caller);
      images.push({ place, name: path, descriptor });
    }
    const frozen = new Map(overlays.map((one) => [one.place, one.frozen]));
    const config = { ...snapshotConfig(vm, snapshot, frozen), base };
    const out = duplicate(memory);
    const given = images.splice(0);
    const locked = lockImages(given);
    try {
      const options = { overlays: given, differential: true, template: true };
      const result = await vm.host.snapshot(out, config, options);
      vm.moving.locks.rebase(locked);
      return result;
    } finally {
      for (const { descriptor } of locked) closeSync(descriptor);
    }
  } catch (error) {
    for (const { descriptor } of images) closeSync(descriptor);
    throw error;
  }
}

/** @param parts files that it consists of, each based on the one before; closed with it */
function template(
  config: SnapshotConfig,
  parts: readonly number[],
  paused: number,
  caller: Caller,
): Template {
  return {
    paused,
    engine: config.engine,
    settings: (name) => copySettings(restoredSettings(config, asIs(name, config), caller)),
    launch: () => ({
      ...restoreLaunch({ config, inputs: [] }),
      inputs: parts.map((memory) => {
        return { descriptor: reopen(memory), stream: false, verify: false };
      }),
      clone: { generation: newId() },
    }),
    [Symbol.dispose]: () => {
      for (const descriptor of parts) closeSync(descriptor);
    },
  };
}

function duplicate(memory: number): number {
  return check("memory for copies", daemonLibrary().vmm_duplicate(memory));
}

/** For reading: what was written is nobody's to change. */
function reopen(descriptor: number): number {
  return openSync(`/proc/self/fd/${descriptor}`, "r");
}

function asIs(name: string, { options }: SnapshotConfig) {
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
