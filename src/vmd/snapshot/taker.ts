/** Takes snapshots of a machine, in a VM's process. */
import { closeSync } from "node:fs";
import type { DirtyPages } from "../../vmm/dirty-log.ts";
import { NativeError } from "../../vmm/native.ts";
import { RecordType, SnapshotError } from "../../vmm/snapshot/format.ts";
import { ProgressSink } from "../../vmm/snapshot/progress.ts";
import { descriptorSink, type Wait } from "../../vmm/snapshot/sources.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import type { HostDevices } from "../backend/devices.ts";
import { isExpected } from "../expected.ts";
import { BATCH } from "../migration/passes.ts";
import type { VmLife } from "../vm-life.ts";
import type { SnapshotResult } from "../vm-messages.ts";
import { HotPages } from "./hot-pages.ts";
import { LiveCopy, StreamQueue } from "./live.ts";
import {
  machineConfig,
  quiesce,
  requireNoObstacle,
  saveHotPages,
  saveMemory,
  saveRegisters,
  saveState,
} from "./save.ts";

const ETIMEDOUT = -110;
/** Pages of a record that is read while the next one is written. */
const PART = 96;

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
  /** Somebody reads it meanwhile, if it is a differential one; see ProgressSource. */
  readonly told?: boolean;
  /** Which disks go on in new images. */
  readonly overlays: readonly { place: number; name: string }[];
  /** The VM ends when it is written. */
  readonly stop: boolean;
  /**
   * Memory is copied while the guest runs, which stands still for the rest: for about so long, ms.
   * Not with `differential` or `stop`.
   */
  readonly downtime?: number;
  /**
   * It says which pages the guest touched lately: in so many ms from now, for which the guest runs
   * on. Absent: it doesn't say that.
   */
  readonly window?: number;
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

/** One before which the guest runs on. */
interface Pending {
  readonly life: VmLife;
  readonly request: TakeRequest;
  readonly descriptors: readonly number[];
  readonly devices: SnapshotDevices;
  readonly hot: HotPages | undefined;
  /** Its memory is copied meanwhile. */
  readonly copying: { readonly writer: SnapshotWriter; readonly copy: LiveCopy } | undefined;
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
  #pending: Pending | undefined;
  /** The guest stands still for the rest of it: what is written is waited for. */
  #finishing = false;

  /** @param pagemap descriptor of vmm_pagemap_open */
  constructor(pagemap: number, wait: Wait) {
    this.#pagemap = pagemap;
    this.#wait = wait;
  }

  /**
   * The guest stands still meanwhile; where a `downtime` or a `window` is given, it runs on, and
   * `step` does it.
   * @param life undefined: there is none that could be taken just now
   * @param descriptors a file or a stream, the overlays, a socket if it is `told`: they are closed here,
   * or the disks' now
   * @returns undefined: later
   */
  take(
    life: VmLife | undefined,
    request: TakeRequest,
    descriptors: readonly number[],
    devices: SnapshotDevices,
  ): Taken | undefined {
    const start = performance.now();
    let hot: HotPages | undefined;
    try {
      if (life === undefined) {
        throw new SnapshotError("the guest is about to start, or is being sent or recorded");
      }
      if (this.#pending !== undefined) throw new SnapshotError("one is being written already");
      requireNoObstacle(life);
      if (request.window !== undefined) hot = watch(life, request.window);
      const pending = { life, request, descriptors, devices, hot };
      if (request.downtime !== undefined) this.#begin(pending, request.downtime);
      else if (hot !== undefined) this.#pending = { ...pending, copying: undefined };
      else return this.#finish({ ...pending, copying: undefined }, start);
      return undefined;
    } catch (error) {
      hot?.[Symbol.dispose]();
      return failure(error, descriptors);
    }
  }

  /** Whether there is one before which the guest runs on. */
  get pending(): boolean {
    return this.#pending !== undefined;
  }

  /**
   * Goes on with it. @param hurry the guest doesn't run anyway
   * @returns what became of it, or ms after which to come again
   */
  step(hurry: boolean): Taken | number {
    const pending = this.#pending as Pending;
    const { descriptors, hot, copying } = pending;
    try {
      hot?.roll();
      const later = copying?.copy.step(hurry);
      if (later !== undefined) return later;
      const left = hurry ? 0 : (hot?.left ?? 0);
      if (left > 0) return left;
      const taken = this.#finish(pending, performance.now());
      this.#end();
      return taken;
    } catch (error) {
      this.#end();
      return failure(error, descriptors);
    }
  }

  /** Something else is to come behind it: @returns what became of it, if it was no more than put off */
  hurry(): Taken | undefined {
    if (this.#pending === undefined || this.#pending.copying !== undefined) return undefined;
    return this.step(true) as Taken;
  }

  /** The machine is about to go. @returns what became of a copy of it */
  abandon(why: string): Taken | undefined {
    const pending = this.#pending;
    this.#end();
    return pending && failure(new SnapshotError(why), pending.descriptors);
  }

  #end(): void {
    this.#pending?.copying?.copy[Symbol.dispose]();
    this.#pending?.hot?.[Symbol.dispose]();
    this.#pending = undefined;
    this.#finishing = false;
  }

  #begin(pending: Omit<Pending, "copying">, downtime: number): void {
    const { life, descriptors } = pending;
    const { config, compress } = pending.request;
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
    this.#pending = { ...pending, copying: { writer, copy } };
  }

  /** The guest stands still from here on. */
  #finish(pending: Pending, start: number): Taken {
    const { life, request, descriptors, devices } = pending;
    const [descriptor, ...images] = descriptors;
    const own = [descriptor];
    const tells = request.told ? images.pop() : undefined;
    if (tells !== undefined) own.push(tells);
    let progress: ProgressSink | undefined;
    const result: SnapshotResult = { bytes: 0, pages: 0, paused: 0, differential: false };
    let stopped = false;
    quiesce(life);
    try {
      devices.flush();
      if (pending.copying === undefined) {
        progress = this.#write(pending, descriptor, tells, result);
      } else this.#writeRest(pending, pending.copying, result);
      devices.rebase(
        request.overlays.map(({ place, name }, index) => {
          return { place, name, format: "qcow2", descriptor: images[index] };
        }),
      );
      images.length = 0;
      stopped = request.stop;
      this.#taken(life, request, result);
      progress?.done();
    } catch (error) {
      return failure(error, [...own, ...images]);
    } finally {
      if (!stopped) life.machine.proceed();
    }
    for (const one of own) closeSync(one);
    result.paused = performance.now() - start;
    return { result, stopped };
  }

  #writeRest(
    { life, hot }: Pending,
    { writer, copy }: NonNullable<Pending["copying"]>,
    result: SnapshotResult,
  ): void {
    this.#finishing = true;
    copy.rest();
    this.#writeHot(life, writer, hot);
    saveState(life, writer);
    result.bytes = writer.written;
    result.pages = writer.pages;
    result.rounds = copy.rounds;
  }

  #writeHot(life: VmLife, writer: SnapshotWriter, hot: HotPages | undefined): void {
    const pages = hot?.collect();
    // A guest that stood still touched none: that says nothing of what it will.
    if (pages === undefined || pages.count === 0) return;
    saveHotPages(life, writer, pages, this.#pagemap);
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
    { life, request, devices, hot }: Pending,
    descriptor: number,
    tells: number | undefined,
    result: SnapshotResult,
  ): ProgressSink | undefined {
    const { config, compress, differential, stop, template } = request;
    const { base, ...rest } = JSON.parse(config) as Config;
    const since = this.#since(life, template);
    const based = differential && since !== undefined && since.id === base?.id;
    const sink = descriptorSink(descriptor, this.#wait);
    // Who reads it has what it is based on, and no other.
    const progress =
      based && tells !== undefined ? new ProgressSink(sink, descriptor, tells) : undefined;
    const recordPages = progress && PART;
    const writer = new SnapshotWriter(progress?.write ?? sink, { compress, recordPages });
    writer.json(RecordType.CONFIG, {
      ...rest,
      ...machineConfig(life),
      diskStates: stop ? devices.states() : undefined,
      base: based ? base : undefined,
    });
    const changed = based ? since.dirty.collect() : undefined;
    saveMemory(life, writer, { pagemap: this.#pagemap, changed, template });
    this.#writeHot(life, writer, hot);
    saveRegisters(life, writer);
    progress?.hold();
    writer.end();
    result.bytes = writer.written;
    result.pages = writer.pages;
    result.differential = based;
    return progress;
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

function watch(life: VmLife, window: number): HotPages | undefined {
  try {
    return new HotPages(life, window);
  } catch (error) {
    // It is advice, and no reason to have no snapshot.
    if (error instanceof NativeError) return undefined;
    throw error;
  }
}

function failure(error: unknown, descriptors: readonly number[]): Taken {
  if (!isExpected(error)) throw error;
  for (const one of descriptors) closeSync(one);
  const nothing = { bytes: 0, pages: 0, paused: 0, differential: false };
  return { result: { ...nothing, failure: `no snapshot: ${error.message}` }, stopped: false };
}
