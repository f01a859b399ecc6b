/** A machine that goes on, in its VM's process: from snapshots, or from another VM's process. */
import { closeSync } from "node:fs";
import type { CpuidLeaf } from "../../vmm/cpuid.ts";
import { checkProcessor, type EngineName } from "../../vmm/engine.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { type ProgressOptions, ProgressSource } from "../../vmm/snapshot/progress.ts";
import { FileSource, StreamSource } from "../../vmm/snapshot/sources.ts";
import type { HostDevices } from "../backend/devices.ts";
import { Watch } from "../console-hub.ts";
import { isExpected } from "../expected.ts";
import type { Receiver } from "../migration/receiver.ts";
import { type LifeHost, type PreparedMachine, VmLife } from "../vm-life.ts";
import type { RestoreDescription } from "../vm-messages.ts";
import type { VcpuOptions } from "../vm-options.ts";
import type { SnapshotInput } from "./load.ts";

/** How long the other end of a snapshot's stream may do nothing, ms. */
const STREAM_PATIENCE = 30_000;

/** A snapshot that has each page of a memory once has far fewer bytes. */
const mostOf = (memory: number) => 2 * memory + 2 ** 26;

const leafOf = ([leaf, subleaf, flags, eax, ebx, ecx, edx]: number[]): CpuidLeaf => {
  return { leaf, subleaf, flags, eax, ebx, ecx, edx };
};

/** The processor that a machine's guest has seen. */
export function processorOf({ cpuid, tscKhz }: Pick<RestoreDescription, "cpuid" | "tscKhz">) {
  return { cpuid: cpuid.map(leafOf), tscKhz: tscKhz || undefined };
}

/** Sleeps until a stream takes or gives something: false when it doesn't for that long. */
export function waitFor(descriptor: number, what: "input" | "room"): boolean {
  const events = Int32Array.of(what === "input" ? Watch.INPUT : Watch.ROOM);
  const { vmm_poll: poll } = processLibrary();
  return poll(ptr(Int32Array.of(descriptor)), ptr(events), 1, STREAM_PATIENCE) > 0;
}

/** The last of some snapshots is being written. */
export interface Later {
  /** See ProgressSource; closed with the files. */
  readonly hears: number;
  readonly wait: ProgressOptions["wait"];
}

/** @param files of the snapshots, in the order in which they are described */
export function openInputs(
  { inputs }: Pick<RestoreDescription, "inputs">,
  files: readonly number[],
  later?: Later & { readonly memory: number },
): SnapshotInput[] {
  return inputs.map(({ stream, verify, eager }, index): SnapshotInput => {
    const file = files[index];
    if (stream) return { source: new StreamSource(file, waitFor), verify: true };
    const source =
      later === undefined || index < inputs.length - 1
        ? new FileSource(file)
        : new ProgressSource(file, later.hears, { wait: later.wait, most: mostOf(later.memory) });
    return { source, file, verify, eager };
  });
}

/**
 * @param files of the snapshots; closed here
 * @param prepared a machine that some of its snapshots are in already; taken over
 * @throws what isExpected knows
 */
export function restoreLife(
  engine: EngineName,
  options: VcpuOptions,
  restore: RestoreDescription,
  host: LifeHost,
  files: readonly number[],
  { prepared, later }: { prepared?: PreparedMachine; later?: Later } = {},
): VmLife {
  const { rom, boot, prefetch } = restore;
  const inputs = openInputs(restore, files, later && { ...later, memory: options.memory });
  const restored = { rom, inputs, description: boot, prepared, prefetch, ...processorOf(restore) };
  const life = VmLife.restore(engine, options, restored, host);
  for (const descriptor of files) closeSync(descriptor);
  if (later !== undefined) closeSync(later.hears);
  return life;
}

/**
 * All that another VM's process sends; it has let go of the disks by then, and runs the guest no more
 * when this returns. @throws what isExpected knows: the sender is told
 */
export function receiveLife(
  engine: EngineName,
  options: VcpuOptions,
  restore: RestoreDescription,
  host: LifeHost,
  receiver: Receiver,
  devices: HostDevices,
): VmLife {
  const { rom, boot } = restore;
  const processor = processorOf(restore);
  try {
    // Before all its memory has come for nothing.
    checkProcessor(engine, { ...processor, portable: options.portable });
    const backends = (memory: GuestMemory) => {
      const { message, descriptors } = receiver.disks();
      devices.open(message, descriptors);
      return devices.connect(memory);
    };
    const inputs = [{ source: receiver.source, verify: true }];
    const restored = { rom, inputs, description: boot, ...processor };
    const life = VmLife.restore(engine, options, restored, { ...host, backends });
    receiver.commit();
    return life;
  } catch (error) {
    receiver.failed(isExpected(error) ? error.message : "an internal error; vmd's log says more");
    throw error;
  }
}
