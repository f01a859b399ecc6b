/** Takes snapshots of a machine, in a VM's process. */
import { closeSync } from "node:fs";
import type { DirtyPages } from "../../vmm/dirty-log.ts";
import { RecordType, SnapshotError } from "../../vmm/snapshot/format.ts";
import { descriptorSink, type Wait } from "../../vmm/snapshot/sources.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import type { HostDevices } from "../backend/devices.ts";
import { isExpected } from "../expected.ts";
import type { VmLife } from "../vm-life.ts";
import type { SnapshotResult } from "../vm-messages.ts";
import { machineConfig, quiesce, saveMemory, saveState } from "./save.ts";

/** What is asked for. */
export interface TakeRequest {
  /** Of the CONFIG record, as JSON: what this process doesn't know. */
  readonly config: string;
  readonly compress: boolean;
  /**
   * Only what changed since the snapshot that `config` says it is based on, where that is known. And
   * from now on it is written down what changes, which costs the guest a little.
   */
  readonly differential: boolean;
  /**
   * It is for copies: a differential one holds all that changed since the first of its kind. What
   * `differential` means for other snapshots has nothing to do with these.
   */
  readonly template: boolean;
  /** Which disks go on in new images. */
  readonly overlays: readonly { place: number; name: string }[];
  /** The VM ends when it is written. */
  readonly stop: boolean;
}

/** What was written in a life since a snapshot of it. */
interface Since {
  readonly life: VmLife;
  readonly id: string;
  readonly dirty: DirtyPages;
}

/** What of a VM's devices a snapshot has to do with. */
export type SnapshotDevices = Pick<HostDevices, "flush" | "states" | "rebase">;

interface Config {
  readonly id: string;
  readonly base?: { readonly id: string };
}

export class SnapshotTaker {
  readonly #pagemap: number;
  readonly #wait: Wait;
  /** Since the last snapshot that is no template. */
  #last: Since | undefined;
  /** Since the last template that stands alone. */
  #template: Since | undefined;

  /** @param pagemap descriptor of vmm_pagemap_open */
  constructor(pagemap: number, wait: Wait) {
    this.#pagemap = pagemap;
    this.#wait = wait;
  }

  /**
   * The guest stands still meanwhile.
   * @param life undefined: there is none that could be taken just now
   * @param descriptors a file or a stream, then the overlays: they are closed here, or the disks' now
   * @returns with `stopped`: the VM has to end
   */
  take(
    life: VmLife | undefined,
    request: TakeRequest,
    [descriptor, ...overlays]: readonly number[],
    devices: SnapshotDevices,
  ): { result: SnapshotResult; stopped: boolean } {
    const start = performance.now();
    const result: SnapshotResult = { bytes: 0, pages: 0, paused: 0, differential: false };
    let images = overlays;
    let stopped = false;
    try {
      if (life === undefined) {
        throw new SnapshotError("the guest is about to start, or is being sent or recorded");
      }
      quiesce(life);
      try {
        devices.flush();
        this.#write(life, request, descriptor, devices, result);
        devices.rebase(
          request.overlays.map(({ place, name }, index) => {
            return { place, name, format: "qcow2", descriptor: images[index] };
          }),
        );
        images = [];
        stopped = request.stop;
        this.#taken(life, request, result);
      } finally {
        if (!stopped) life.machine.proceed();
      }
    } catch (error) {
      if (!isExpected(error)) throw error;
      result.failure = `no snapshot: ${error.message}`;
    } finally {
      for (const one of [descriptor, ...images]) closeSync(one);
    }
    result.paused = performance.now() - start;
    return { result, stopped };
  }

  /** The next template stands alone: what changes need not be written down for it. */
  forgetTemplate(): void {
    this.#template?.dirty[Symbol.dispose]();
    this.#template = undefined;
  }

  #since(life: VmLife, template: boolean): Since | undefined {
    const since = template ? this.#template : this.#last;
    return since?.life === life ? since : undefined;
  }

  #write(
    life: VmLife,
    { config, compress, differential, stop, template }: TakeRequest,
    descriptor: number,
    devices: SnapshotDevices,
    result: SnapshotResult,
  ): void {
    const { base, ...rest } = JSON.parse(config) as Config;
    const since = this.#since(life, template);
    const based = differential && since !== undefined && since.id === base?.id;
    const writer = new SnapshotWriter(descriptorSink(descriptor, this.#wait), { compress });
    writer.json(RecordType.CONFIG, {
      ...rest,
      ...machineConfig(life),
      diskStates: stop ? devices.states() : undefined,
      base: based ? base : undefined,
    });
    const changed = based ? since.dirty.collect() : undefined;
    saveMemory(life, writer, { pagemap: this.#pagemap, changed, template });
    saveState(life, writer);
    result.bytes = writer.written;
    result.pages = writer.pages;
    result.differential = based;
  }

  /** The guest still stands: nothing came between. What failed before here, changed nothing. */
  #taken(
    life: VmLife,
    { config, differential, template }: TakeRequest,
    { differential: based }: SnapshotResult,
  ): void {
    // The next one is based on the same one.
    if (template && based) return;
    const before = this.#since(life, template);
    if (before === undefined && !differential) return;
    before?.dirty.clear();
    const { id } = JSON.parse(config) as Config;
    const since = { life, id, dirty: before?.dirty ?? life.dirty.follow() };
    if (template) this.#template = since;
    else this.#last = since;
  }
}
