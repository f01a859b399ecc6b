/** From a VM's settings, and what was opened for it, to what its process is started with. */
import { ftruncateSync } from "node:fs";
import { newId } from "../snapshot/restored.ts";
import type { VmLaunch } from "../vm-host.ts";
import { checkVmOptions, type VcpuOptions } from "../vm-options.ts";
import type { Resources } from "./resources.ts";
import type { VmSettings } from "./settings.ts";
import { type DescribedVm, snapshotConfig } from "./snapshot-config.ts";

/** @throws VmError that names what won't do */
export function launchOptions(settings: VmSettings, { files }: Resources): VcpuOptions {
  const { name, machine, cmdline, memory, bootDevice, gdb, vsock, record, shares } = settings;
  return checkVmOptions({
    ...machine,
    name,
    kernel: files?.kernel.path ?? "-",
    cmdline,
    memory,
    bootDevice,
    gdb: gdb?.at,
    vsock: vsock && { cid: vsock.cid, path: vsock.path },
    record: record?.path,
    // Opened by the daemon; who records has to know.
    shares: record && shares,
  });
}

/** The file that a run is recorded in, emptied: all else is right. */
export function openedRecord(
  { settings, macs }: DescribedVm,
  { record }: Resources,
): VmLaunch["record"] {
  if (record === undefined) return undefined;
  ftruncateSync(record.descriptor);
  const machine = { ...settings.machine, virtualTime: true };
  const described = { settings: { ...settings, machine }, macs };
  return { ...record, config: snapshotConfig(described, newId()) };
}
