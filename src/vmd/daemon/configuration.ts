/** From a configuration file to what the daemon works with. */
import { existsSync } from "node:fs";
import { cpus } from "node:os";
import type { Config, ConfigOwner, ConfigVm } from "../config/index.ts";
import type { Log } from "./log.ts";
import { RefusalError } from "./refusal.ts";
import { DEFAULT_MEMORY, type Owner, type VmSettings } from "./settings.ts";
import type { Stagger } from "./staggered.ts";

export interface Configuration {
  vms: readonly { settings: VmSettings; enable: boolean }[];
  switches: readonly { name: string }[];
  socketOwner: Owner | undefined;
  stagger: Stagger;
}

export interface ConfigurationOptions {
  /** A file that isn't there is an empty one. */
  optional: boolean;
  macros: Record<string, string>;
  log: Log;
}

/** vmd's default pause between batches, s. */
const DELAY = 30;

/**
 * @param path undefined for no configuration.
 * @throws RefusalError with all errors of the file, a line each
 */
export async function readConfiguration(
  path: string | undefined,
  { optional, macros, log }: ConfigurationOptions,
): Promise<Configuration> {
  const stagger = { parallel: cpus().length, delay: DELAY };
  if (path === undefined || (optional && !existsSync(path))) {
    return { vms: [], switches: [], socketOwner: undefined, stagger };
  }
  // A parser takes time and memory that a daemon without a file saves.
  const { format, parseConfig } = await import("../config/index.ts");
  const { config, errors, warnings } = parseConfig(path, { macros });
  for (const warning of warnings) log.warn(format(warning));
  if (config === undefined) throw new RefusalError("CONFIG", errors.map(format).join("\n"));
  return {
    vms: config.vms.map((vm) => ({ settings: settingsOf(vm, config), enable: vm.enable })),
    switches: config.switches,
    socketOwner: config.socketOwner === undefined ? undefined : ownerOf(config.socketOwner),
    stagger: config.staggered ?? stagger,
  };
}

function ownerOf({ uid, gid }: ConfigOwner): Owner {
  return { uid: uid ?? process.geteuid!(), gid };
}

/** An instance has what its parents have, but for its disks. */
function settingsOf(vm: ConfigVm, config: Config, depth = 0): VmSettings {
  const parentVm = config.vms.find(({ name }) => name === vm.parent);
  // A VM that is its own forefather has none.
  const parent =
    parentVm === undefined || depth > config.vms.length
      ? undefined
      : settingsOf(parentVm, config, depth + 1);
  const path = (text: string | undefined) => (text === undefined ? undefined : { path: text });
  return {
    name: vm.name,
    kernel: path(vm.boot) ?? parent?.kernel,
    initrd: path(vm.initrd) ?? parent?.initrd,
    modules:
      vm.modules.length === 0
        ? (parent?.modules ?? [])
        : vm.modules.map((text) => {
            const space = text.indexOf(" ");
            if (space < 0) return { path: text };
            return { path: text.slice(0, space), args: text.slice(space + 1) };
          }),
    cmdline: vm.append ?? parent?.cmdline,
    memory: vm.memory ?? parent?.memory ?? DEFAULT_MEMORY,
    disks: vm.disks,
    cdrom: path(vm.cdrom) ?? parent?.cdrom,
    bootDevice: vm.bootDevice ?? parent?.bootDevice,
    interfaces: vm.interfaces.length > 0 ? vm.interfaces : (parent?.interfaces ?? []),
    owner: vm.owner === undefined ? (parent?.owner ?? ownerOf({})) : ownerOf(vm.owner),
    instances: vm.instances,
    configured: true,
    machine: vm.engine === undefined ? (parent?.machine ?? {}) : { engine: vm.engine },
  };
}
