/** From a VM's options to what its snapshot says, and back. */
import { type BootSet, FileError, openBootFiles, openPlainly } from "../boot-files.ts";
import type { RestoreLaunch } from "../vm-host.ts";
import { checkVmOptions, type VcpuOptions, VmError, type VmOptions } from "../vm-options.ts";
import { parseDiskArgument } from "../disk/index.ts";
import type { OpenedSnapshot } from "./chain.ts";
import type { SnapshotConfig } from "./config.ts";

/** What may be another than in the snapshot. */
export type RestoreOverrides = Pick<
  VmOptions,
  | "name"
  | "disks"
  | "cdrom"
  | "interfaces"
  | "vsock"
  | "shares"
  | "engine"
  | "sandbox"
  | "reboot"
  | "record"
>;

/** A snapshot's id: nobody else's. */
export function newId(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString("hex");
}

/** What of a CONFIG record a VM's process doesn't know. */
export function snapshotConfig(options: VcpuOptions, id: string): object {
  const { name, kernel, initrd, cmdline, modules, cdrom, devices, bootDevice, memory } = options;
  const { format, bits, debugExit, reboot, virtualTime, portable, tscKhz } = options;
  return {
    format: 1,
    id,
    created: Date.now(),
    options: {
      ...{ name, kernel, initrd, cmdline, modules, cdrom, devices, bootDevice, memory },
      ...{ format, bits, debugExit, reboot, virtualTime, portable, tscKhz },
      disks: options.disks?.map((disk) => {
        return typeof disk === "string" ? parseDiskArgument(disk) : disk;
      }),
    },
    ahead: 0,
    interfaces: (options.interfaces ?? []).map(({ mac, locked, mtu, limits }) => {
      return { mac, locked, mtu, limits };
    }),
    shares: options.shares,
    vsock: options.vsock,
  };
}

/** Options of a VM that goes on from a snapshot. @throws VmError */
export function restoredOptions(config: SnapshotConfig, overrides: RestoreOverrides): VcpuOptions {
  const { options, engine, interfaces, ahead } = config;
  const { disks = [], ...rest } = options;
  const given = overrides.interfaces ?? [];
  if (given.length !== interfaces.length) {
    throw new VmError(
      `${options.name}: the snapshot has ${interfaces.length} interfaces, ${given.length} are given`,
    );
  }
  if (overrides.record !== undefined && options.virtualTime !== true) {
    throw new VmError(`${options.name}: it can't be recorded: its time is real`);
  }
  return checkVmOptions({
    // What was booted needs no name here any more.
    kernel: "-",
    engine,
    disks,
    vsock: config.vsock as VmOptions["vsock"],
    shares: config.shares as VmOptions["shares"],
    epoch: options.virtualTime ? undefined : Date.now() + ahead,
    ...(rest as VmOptions),
    ...overrides,
  });
}

/** What it would boot from at a reset; undefined: that is not to be had any more. */
export function bootFilesIfThere(
  options: VcpuOptions,
  open: (path: string) => number = openPlainly,
): BootSet | undefined {
  try {
    return openBootFiles(options, open);
  } catch (error) {
    if (error instanceof FileError) return undefined;
    throw error;
  }
}

export function restoreLaunch(
  { boot, cpuid, tscKhz, rom }: SnapshotConfig,
  inputs: OpenedSnapshot["inputs"],
): RestoreLaunch {
  return { boot, cpuid, tscKhz, rom, inputs };
}
