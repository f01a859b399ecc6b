/** Takes snapshots of a machine, in a VM's process. */
import { closeSync } from "node:fs";
import type { DirtyPages } from "../../vmm/dirty-log.ts";
import { NativeError } from "../../vmm/native.ts";
import { RecordType, SnapshotError } from "../../vmm/snapshot/format.ts";
import { descriptorSink, type Wait } from "../../vmm/snapshot/sources.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import type { HostDevices } from "../backend/devices.ts";
import { isExpected } from "../expected.ts";
import { BATCH } from "../migration/passes.ts";
import type { VmLife } from "../vm-life.ts";
import type { SnapshotResult } from "../vm-messages.ts";
import { LiveCopy, StreamQueue } from "./live.ts";
import { machineConfig, quiesce, requireNoObstacle, saveMemory, saveState } from "./save.ts";

const ETIMEDOUT = -110;

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
  /**
   * Memory is copied while the guest runs, which stands still for the rest: for about so long, ms.
   * Not with `differential` or `stop`.
   */
  readonly downtime?: number;
}

/** What was written in a life since a snapshot of it. */
interface Since {
  readonly life: VmLife;
  readonly id: string;
  readonly dirty: DirtyPages;
}

/** What of a VM's devices a snapshot has to do with. */
export type SnapshotDevices = Pick<HostDevices, "flush" | "states" | "rebase">;

/** What became of a request. */
export interface Taken {
  readonly result: SnapshotResult;
  /** The VM has to end. */
  readonly stopped: boolean;
}

/** One whose memory is being copied. */
interface Copying {
  readonly life: VmLife;
  readonly request: TakeRequest;
  readonly descriptors: readonly number[];
  readonly devices: SnapshotDevices;
  readonly writer: SnapshotWriter;
  readonly copy: LiveCopy;
}

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
  #copying: Copying | undefined;
  /** The guest stands still for the rest of it: what is written is waited for. */
  #finishing = false;

  /** @param pagemap descriptor of vmm_pagemap_open */
  constructor(pagemap: number, wait: Wait) {
    this.#pagemap = pagemap;
    this.#wait = wait;
  }

  /**
   * The guest stands still meanwhile; where a `downtime` is given, it runs on, and `step` does it.
   * @param life undefined: there is none that could be taken just now
   * @param descriptors a file or a stream, then the overlays: they are closed here, or the disks' now
   * @returns undefined: later
   */
  take(
    life: VmLife | undefined,
    request: TakeRequest,
    descriptors: readonly number[],
    devices: SnapshotDevices,
  ): Taken | undefined {
    const start = performance.now();
    try {
      if (life === undefined) {
        throw new SnapshotError("the guest is about to start, or is being sent or recorded");
      }
      if (this.#copying !== undefined) throw new SnapshotError("one is being written already");
      requireNoObstacle(life);
      if (request.downtime === undefined) {
        return this.#finish(life, request, descriptors, devices, start);
      }
      this.#begin(life, request, descriptors, devices, request.downtime);
      return undefined;
    } catch (error) {
      return failure(error, descriptors);
    }
  }

  /** Whether a machine's memory is being copied. */
  get copying(): boolean {
    return this.#copying !== undefined;
  }

  /**
   * Goes on with it. @param hurry the guest doesn't run anyway
   * @returns what became of it, or ms after which to come again
   */
  step(hurry: boolean): Taken | number {
    const { life, request, descriptors, devices, copy } = this.#copying as Copying;
    try {
      const later = copy.step(hurry);
      if (later !== undefined) return later;
      const taken = this.#finish(life, request, descriptors, devices, performance.now());
      this.#end();
      return taken;
    } catch (error) {
      this.#end();
      return failure(error, descriptors);
    }
  }

  /** The machine is about to go. @returns what became of a copy of it */
  abandon(why: string): Taken | undefined {
    const copying = this.#copying;
    this.#end();
    return copying && failure(new SnapshotError(why), copying.descriptors);
  }

  #end(): void {
    this.#copying?.copy[Symbol.dispose]();
    this.#copying = undefined;
    this.#finishing = false;
  }

  #begin(
    life: VmLife,
    request: TakeRequest,
    descriptors: readonly number[],
    devices: SnapshotDevices,
    downtime: number,
  ): void {
    const { config, compress } = request;
    const queue = new StreamQueue(descriptors[0]);
    const sink = (bytes: Uint8Array) => {
      // The writer uses it again: what waits is a copy.
      queue.send(bytes.slice());
      if (this.#finishing) this.#drain(queue, descriptors[0]);
    };
    const writer = new SnapshotWriter(sink, { compress, recordPages: BATCH });
    const { base: _, ...rest } = JSON.parse(config) as Config;
    writer.json(RecordType.CONFIG, { ...rest, ...machineConfig(life) });
    const copy = new LiveCopy(life, writer, queue, { pagemap: this.#pagemap, downtime });
    this.#copying = { life, request, descriptors, devices, writer, copy };
  }

  /** The guest stands still from here on. */
  #finish(
    life: VmLife,
    request: TakeRequest,
    descriptors: readonly number[],
    devices: SnapshotDevices,
    start: number,
  ): Taken {
    const [descriptor, ...images] = descriptors;
    const result: SnapshotResult = { bytes: 0, pages: 0, paused: 0, differential: false };
    let stopped = false;
    quiesce(life);
    try {
      devices.flush();
      if (this.#copying === undefined) this.#write(life, request, descriptor, devices, result);
      else this.#writeRest(this.#copying, result);
      devices.rebase(
        request.overlays.map(({ place, name }, index) => {
          return { place, name, format: "qcow2", descriptor: images[index] };
        }),
      );
      images.length = 0;
      stopped = request.stop;
      this.#taken(life, request, result);
    } catch (error) {
      return failure(error, [descriptor, ...images]);
    } finally {
      if (!stopped) life.machine.proceed();
    }
    closeSync(descriptor);
    result.paused = performance.now() - start;
    return { result, stopped };
  }

  #writeRest({ life, writer, copy }: Copying, result: SnapshotResult): void {
    this.#finishing = true;
    copy.rest();
    saveState(life, writer);
    result.bytes = writer.written;
    result.pages = writer.pages;
    result.rounds = copy.rounds;
  }

  #drain(queue: StreamQueue, descriptor: number): void {
    while (!queue.flush()) {
      if (!this.#wait(descriptor, "room")) throw new NativeError("writing it", ETIMEDOUT);
    }
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

function failure(error: unknown, descriptors: readonly number[]): Taken {
  if (!isExpected(error)) throw error;
  for (const one of descriptors) closeSync(one);
  const nothing = { bytes: 0, pages: 0, paused: 0, differential: false };
  return { result: { ...nothing, failure: `no snapshot: ${error.message}` }, stopped: false };
}
