/**
 * Copies of a VM that runs: its machine is written into a file in memory, which all copies map, so
 * they share what none of them writes.
 *
 * That file is kept for the next copies. They get another beside it with what the VM has written
 * since, which its process knows by the engine's log of dirty pages and by what devices tell: nobody
 * is asked whether the first file is still good, and a process that doesn't know gives all of it anew.
 */
import { closeSync, constants, openSync } from "node:fs";
import { check, daemonLibrary, hostLibrary } from "../../vmm/native.ts";
import { FEW } from "../../vmm/snapshot/machine-memory.ts";
import { openProgress } from "../../vmm/snapshot/progress.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import type { RequestOf } from "../protocol.ts";
import { readConfig, type SnapshotConfig } from "../snapshot/config.ts";
import { newId } from "../snapshot/restored.ts";
import type { RestoreLaunch, VmHost } from "../vm-host.ts";
import type { Prepared, Wanted, WarmPool } from "../warm-process.ts";
import type { SnapshotResult } from "../vm-messages.ts";
import { VmError } from "../vm-options.ts";
import type { ManagedVm } from "./managed-vm.ts";
import { RefusalError } from "./refusal.ts";
import { requireSnapshots, snapshotConfig, writable } from "./snapshot-config.ts";
import { lockImages, openOrRefuse, restoredSettings, restoreLaunch } from "./snapshots.ts";
import type { Caller, VmSettings } from "./settings.ts";

/** So long after the last copy a VM's memory is kept for more, ms. */
const SPELL = 60_000;
/** So many processes wait for copies. */
const WARM = 4;
/** The file is made anew when so many of its pages, as a part of them, are others by now. */
const STALE = 0.5;

/** What copies are made from. */
export interface Template extends Disposable {
  /** @throws RefusalError */
  readonly written: Promise<Written>;
  /** Of a copy. */
  settings(name: string): VmSettings;
  /**
   * What one goes on from; its descriptors are whoever's who takes it. The first may be had before all
   * is written. @throws RefusalError
   */
  launch(): Promise<RestoreLaunch>;
  /** What processes may wait with. */
  readonly wanted: Wanted;
  /** Has processes wait for more of them, once it is disposed of. @param copy runs */
  prepare(copy: VmHost): void;
}

/** How a template was written. */
export interface Written {
  /** How long the VM stood still, ms. */
  readonly paused: number;
  /** It isn't based on what was there: whoever was launched before has to be launched again. */
  readonly anew: boolean;
}

/** What a template is at a time. */
interface Parts {
  /** Its place among all templates, as their VMs were asked for them; from 1 on. */
  readonly order: number;
  config: SnapshotConfig;
  /** Of processes that wait with the first of its files. */
  key: string;
  /** Files that it consists of, each based on the one before; closed with it. */
  files: number[];
  /** Pages of the second of them; absent: there is none that is whole. */
  changed?: number;
  /** The last of them is being written, and nobody reads it yet. */
  later?: RestoreLaunch["later"];
}

/** A machine in a file in memory. */
interface Kept {
  readonly id: string;
  /** Of processes that wait with it: nobody else's. */
  readonly key: string;
  /** What it says about itself. */
  readonly config: SnapshotConfig;
  readonly memory: number;
  readonly pages: number;
}

/** The templates of a daemon's VMs, each for as long as its VM runs and is copied now and then. */
export class Templates implements Disposable {
  readonly #kept = new Map<VmHost, Kept>();
  readonly #timers = new Map<VmHost, Timer>();
  readonly #pool: WarmPool;
  #made = 0;
  #asked = 0;

  /** @param pool where copies' processes wait */
  constructor(pool: WarmPool) {
    this.#pool = pool;
  }

  /**
   * What a VM is now. Where it is based on what is kept, and no disk has to be another first, it is there
   * at once: while it is written, a copy gets ready. @throws RefusalError
   */
  async make(
    vm: ManagedVm,
    { snapshot, overlays }: Pick<RequestOf<"fork">, "snapshot" | "overlays">,
    caller: Caller,
  ): Promise<Template> {
    requireSnapshots(vm.settings);
    const disks = writable(vm.settings).length;
    if (overlays.length < disks) {
      throw new RefusalError("DISK", "the vm has disks that were not frozen");
    }
    const before = this.#kept.get(vm.host);
    const config = describe(vm, { snapshot, overlays, base: before && { id: before.id } });
    const files: number[] = [];
    let progress: readonly [hears: number, tells: number] | undefined;
    try {
      // Another request may replace it meanwhile.
      if (before !== undefined) files.push(duplicate(before.memory));
      files.push(check("memory for copies", hostLibrary().vmm_memory_file(0)));
      if (before !== undefined && disks === 0) progress = openProgress();
    } catch (error) {
      for (const descriptor of files) closeSync(descriptor);
      throw error;
    }
    const whole = { ...before?.config, ...config } as SnapshotConfig;
    const order = ++this.#asked;
    const parts: Parts = { order, config: whole, key: before?.key ?? "", files };
    const target = { overlays, config, memory: files[files.length - 1], tells: progress?.[1] };
    const written = this.#write(vm, target, before, parts, caller);
    written.catch(() => {});
    try {
      if (progress === undefined) await written;
      else {
        const based = written.then(({ anew }) => (anew ? Promise.reject() : undefined));
        based.catch(() => {});
        parts.later = { hears: progress[0], written: based };
      }
      return this.#template(vm.host, parts, written, caller);
    } catch (error) {
      for (const descriptor of files) closeSync(descriptor);
      throw error;
    }
  }

  /** @throws RefusalError */
  async #write(
    vm: ManagedVm,
    target: Target,
    before: Kept | undefined,
    parts: Parts,
    caller: Caller,
  ): Promise<Written> {
    const { host } = vm;
    let result: SnapshotResult;
    try {
      result = await write(vm, target, caller);
    } catch (error) {
      if (error instanceof VmError) throw new RefusalError("SNAPSHOT", error.message);
      throw error;
    }
    // Copies map it: were it to change or to end, they would. Who tells of it, has done so.
    check("memory for copies", hostLibrary().vmm_memory_seal(target.memory));
    const { paused, pages } = result;
    // A guest may have taken its process over, which says what it likes.
    const anew = before === undefined || !result.differential;
    if (anew) {
      if (before !== undefined) closeSync(parts.files.shift() as number);
      parts.config = readConfig(new FileSource(target.memory));
      const { id } = parts.config;
      parts.key = `template ${++this.#made}`;
      const { config, key } = parts;
      this.#keep(host, { id, key, config, memory: duplicate(target.memory), pages });
    } else {
      parts.changed = pages;
      if (pages > STALE * before.pages) this.#forget(host);
    }
    if (parts.later !== undefined) closeSync(parts.later.hears);
    parts.later = undefined;
    this.#wait(host);
    return { paused, anew: anew && before !== undefined };
  }

  #keep(host: VmHost, kept: Kept): void {
    const before = this.#kept.get(host);
    if (before === undefined) void host.ended.then(() => this.#forget(host));
    else {
      this.#pool.drop(before.key);
      closeSync(before.memory);
    }
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
    this.#pool.drop(kept.key);
    host.tell({ kind: "forget-template" });
  }

  #template(host: VmHost, parts: Parts, written: Promise<Written>, caller: Caller): Template {
    let like: VmHost | undefined;
    return {
      written,
      get wanted() {
        return { key: parts.key, order: parts.files.length > 1 ? parts.order : 0 };
      },
      settings: (name) => {
        const { config } = parts;
        return copySettings(restoredSettings(config, asIs(name, config), caller));
      },
      launch: async () => {
        if (parts.later === undefined) await written;
        const inputs = reopen(parts.files).map((descriptor, place) => {
          return { descriptor, stream: false, verify: false, eager: place > 0 };
        });
        const { later } = parts;
        parts.later = undefined;
        const plain = restoreLaunch({ config: parts.config, inputs: [] });
        return { ...plain, inputs, later, clone: { generation: newId() } };
      },
      prepare: (copy) => (like ??= copy),
      [Symbol.dispose]: () => {
        if (parts.later !== undefined) closeSync(parts.later.hears);
        // Who asked for copies is answered first.
        setImmediate(() => {
          if (like !== undefined) this.#prepare(host, parts, like);
          for (const descriptor of parts.files) closeSync(descriptor);
        });
      },
    };
  }

  #prepare(host: VmHost, parts: Parts, copy: VmHost): void {
    const { key, config, files, order, changed = Infinity } = parts;
    // The next copies are made from another where this one is out of date.
    const kept = this.#kept.get(host)?.key === key;
    const message = kept ? copy.preparation(1) : undefined;
    let prepared: Prepared | undefined;
    if (message !== undefined) {
      // More would be mapped when a copy goes on, whoever has them already.
      if (changed <= FEW) message.changed = true;
      try {
        const given = reopen(files.slice(0, message.changed ? 2 : 1));
        prepared = { key, message, files: given, order: message.changed ? order : undefined };
      } catch {
        // No descriptors are left: they wait without a machine.
      }
    }
    this.#pool.want(WARM, config.engine, prepared);
  }

  [Symbol.dispose](): void {
    for (const host of [...this.#kept.keys()]) this.#forget(host);
  }
}

interface Target extends Pick<RequestOf<"fork">, "overlays"> {
  /** What the daemon says of it. */
  readonly config: Partial<SnapshotConfig>;
  /** The file that it goes into. */
  readonly memory: number;
  /** Where who reads it meanwhile is told; taken over. */
  readonly tells: number | undefined;
}

/** @param base the template that it may be based on */
function describe(
  vm: ManagedVm,
  {
    snapshot,
    overlays,
    base,
  }: Pick<RequestOf<"fork">, "snapshot" | "overlays"> & { base: { id: string } | undefined },
): Partial<SnapshotConfig> {
  const frozen = new Map(overlays.map((one) => [one.place, one.frozen]));
  return { ...snapshotConfig(vm, snapshot, frozen), base };
}

/** Has a VM's process write it. @throws RefusalError, VmError */
async function write(
  vm: ManagedVm,
  { overlays, config, memory, tells }: Target,
  caller: Caller,
): Promise<SnapshotResult> {
  const images: { place: number; name: string; descriptor: number }[] = [];
  const own = tells === undefined ? [] : [tells];
  try {
    for (const { place, path } of overlays) {
      const descriptor = openOrRefuse(path, constants.O_RDWR, caller);
      images.push({ place, name: path, descriptor });
    }
    own.unshift(duplicate(memory));
    const locked = lockImages(images);
    const given = images.splice(0);
    const [out, told] = own.splice(0);
    try {
      const options = { overlays: given, differential: true, template: true, told };
      const result = await vm.host.snapshot(out, config, options);
      vm.moving.locks.rebase(locked);
      return result;
    } finally {
      for (const { descriptor } of locked) closeSync(descriptor);
    }
  } catch (error) {
    for (const descriptor of [...own, ...images.map((image) => image.descriptor)]) {
      closeSync(descriptor);
    }
    throw error;
  }
}

function duplicate(memory: number): number {
  return check("memory for copies", daemonLibrary().vmm_duplicate(memory));
}

/** For reading. */
function reopen(descriptors: readonly number[]): number[] {
  const opened: number[] = [];
  try {
    for (const one of descriptors) opened.push(openSync(`/proc/self/fd/${one}`, "r"));
    return opened;
  } catch (error) {
    for (const one of opened) closeSync(one);
    throw error;
  }
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
