/** Takes snapshots of a machine, in a VM's process. */
import { closeSync } from "node:fs";
import type { CpuidLeaf } from "../../vmm/cpuid.ts";
import type { DirtyPages } from "../../vmm/dirty-log.ts";
import { NativeError } from "../../vmm/native.ts";
import { RecordType, SnapshotError } from "../../vmm/snapshot/format.ts";
import { descriptorSink, type Wait } from "../../vmm/snapshot/sources.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import type { VmLife } from "../vm-life.ts";
import type { SnapshotResult } from "../vm-messages.ts";
import { quiesce, saveMemory, saveState } from "./save.ts";

/** What is asked for. */
export interface SnapshotRequest {
  /** Of the CONFIG record, as JSON: what this process doesn't know. */
  readonly config: string;
  readonly compress: boolean;
  /**
   * Only what changed since the snapshot that `config` says it is based on, where that is known. And
   * from now on it is written down what changes, which costs the guest a little.
   */
  readonly differential: boolean;
}

interface Config {
  readonly id: string;
  readonly base?: { readonly id: string };
}

/** What of a CONFIG record a VM's process knows. */
export function machineConfig({ engine, description, rom }: VmLife): object {
  return { engine: engine.name, cpuid: engine.cpuid.map(leafNumbers), boot: description, rom };
}

const leafNumbers = ({ leaf, subleaf, flags, eax, ebx, ecx, edx }: CpuidLeaf): number[] => {
  return [leaf, subleaf, flags, eax, ebx, ecx, edx];
};

export class SnapshotTaker {
  readonly #pagemap: number;
  readonly #wait: Wait;
  /** Pages that changed since the last snapshot of this machine. */
  #since: { life: VmLife; id: string; dirty: DirtyPages } | undefined;

  /** @param pagemap descriptor of vmm_pagemap_open */
  constructor(pagemap: number, wait: Wait) {
    this.#pagemap = pagemap;
    this.#wait = wait;
  }

  /**
   * The guest stands still meanwhile. @param descriptor a file or a stream; it is closed here
   * @param life undefined: there is none that could be taken just now
   */
  take(life: VmLife | undefined, request: SnapshotRequest, descriptor: number): SnapshotResult {
    const start = performance.now();
    const result: SnapshotResult = { bytes: 0, pages: 0, paused: 0, differential: false };
    try {
      if (life === undefined)
        throw new SnapshotError("the guest is about to start, or is being sent");
      quiesce(life);
      try {
        this.#write(life, request, descriptor, result);
      } finally {
        life.machine.proceed();
      }
    } catch (error) {
      if (!(error instanceof SnapshotError || error instanceof NativeError)) throw error;
      result.failure = `no snapshot: ${error.message}`;
    } finally {
      closeSync(descriptor);
    }
    result.paused = performance.now() - start;
    return result;
  }

  #write(
    life: VmLife,
    { config, compress, differential }: SnapshotRequest,
    descriptor: number,
    result: SnapshotResult,
  ): void {
    const { base, ...rest } = JSON.parse(config) as Config;
    const since = this.#since?.life === life ? this.#since : undefined;
    const known = since !== undefined && since.id === base?.id;
    const based = differential && known;
    const writer = new SnapshotWriter(descriptorSink(descriptor, this.#wait), { compress });
    writer.json(RecordType.CONFIG, {
      ...rest,
      ...machineConfig(life),
      base: based ? base : undefined,
    });
    const changed = based ? since.dirty.collect() : undefined;
    saveMemory(life, writer, { pagemap: this.#pagemap, changed });
    saveState(life, writer);
    writer.end();
    result.bytes = writer.written;
    result.pages = writer.pages;
    result.differential = based;
    // The guest stands still: nothing comes between. What failed before here, changed nothing.
    if (since !== undefined) {
      since.dirty.clear();
      this.#since = { ...since, id: rest.id };
    } else if (differential) {
      this.#since = { life, id: rest.id, dirty: life.dirty.follow() };
    }
  }
}
