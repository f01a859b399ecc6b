/** From a configuration file to what the daemon works with. */
import { existsSync } from "node:fs";
import { cpus } from "node:os";
import type { ConfigOwner, ConfigVm } from "../config/index.ts";
import type { LocalPrefix, SwitchRequest } from "../net/index.ts";
import type { Log } from "./log.ts";
import { RefusalError } from "./refusal.ts";
import { DEFAULT_MEMORY, type Owner, type VmSettings } from "./settings.ts";
import type { Stagger } from "./staggered.ts";

export interface Configuration {
  vms: readonly { settings: VmSettings; enable: boolean }[];
  switches: readonly SwitchRequest[];
  /** Of local interfaces; absent: vmd's. */
  localPrefix: LocalPrefix | undefined;
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
    return {
      vms: [],
      switches: [],
      localPrefix: undefined,
      socketOwner: undefined,
      stagger,
    };
  }
  // A parser takes time and memory that a daemon without a file saves.
  const { format, parseConfig } = await import("../config/index.ts");
  const { config, errors, warnings } = parseConfig(path, { macros });
  for (const warning of warnings) log.warn(format(warning));
  if (config === undefined) throw wrong(errors.map(format));
  const template = new Map(config.vms.map((vm) => [vm.name, vm]));
  const vms = config.vms.map((vm) => ({ settings: settingsOf(vm, template), vm }));
  const idle = vms.filter(({ settings, vm }) => vm.enable && !hasBoot(settings));
  if (idle.length > 0) {
    const message = "no kernel or disk/cdrom specified";
    throw wrong(idle.map(({ vm: { file, line } }) => format({ file, line, message })));
  }
  return {
    vms: vms.map(({ settings, vm }) => ({ settings, enable: vm.enable })),
    switches: config.switches,
    localPrefix: config.localPrefix,
    socketOwner: config.socketOwner === undefined ? undefined : ownerOf(config.socketOwner),
    stagger: config.staggered ?? stagger,
  };
}

function wrong(lines: readonly string[]): RefusalError {
  return new RefusalError("CONFIG", lines.join("\n"));
}

/** Whether there is something to start it from, as vctl start asks too. */
function hasBoot({ kernel, disks, cdrom }: VmSettings): boolean {
  return kernel !== undefined || disks.length > 0 || cdrom !== undefined;
}

function ownerOf({ uid, gid }: ConfigOwner): Owner {
  return { uid: uid ?? process.geteuid!(), gid };
}

/** An instance has what its templates have, but for their disks and what only one VM can have. */
function settingsOf(vm: ConfigVm, all: ReadonlyMap<string, ConfigVm>): VmSettings {
  // From the first template on; the parser has made sure that there is one.
  const line = [vm];
  for (let { parent } = vm; parent !== undefined; parent = line[0].parent) {
    line.unshift(all.get(parent)!);
  }
  return line.slice(1).reduce(instanceOf, settingsBy(line[0]));
}

function instanceOf(parent: VmSettings, vm: ConfigVm): VmSettings {
  const own = settingsBy(vm);
  const { instances } = parent;
  return {
    ...own,
    kernel: own.kernel ?? parent.kernel,
    initrd: own.initrd ?? parent.initrd,
    modules: own.modules.length > 0 ? own.modules : parent.modules,
    cmdline: own.cmdline ?? parent.cmdline,
    memory: vm.memory ?? parent.memory,
    cdrom: own.cdrom ?? parent.cdrom,
    bootDevice: own.bootDevice ?? parent.bootDevice,
    interfaces:
      own.interfaces.length > 0
        ? own.interfaces
        : parent.interfaces.map(({ switch: name, local }) => ({ switch: name, local })),
    shares: own.shares ?? parent.shares,
    owner: vm.owner === undefined ? parent.owner : own.owner,
    instances: own.instances ?? (instances?.instance === true ? instances : undefined),
    machine: { ...parent.machine, ...own.machine },
  };
}

function settingsBy(vm: ConfigVm): VmSettings {
  const path = (text: string | undefined) => (text === undefined ? undefined : { path: text });
  return {
    name: vm.name,
    kernel: path(vm.boot),
    initrd: path(vm.initrd),
    modules: vm.modules.map((text) => {
      const space = text.indexOf(" ");
      if (space < 0) return { path: text };
      return { path: text.slice(0, space), args: text.slice(space + 1) };
    }),
    cmdline: vm.append,
    memory: vm.memory ?? DEFAULT_MEMORY,
    disks: vm.disks,
    cdrom: path(vm.cdrom),
    bootDevice: vm.bootDevice,
    interfaces: vm.interfaces,
    owner: ownerOf(vm.owner ?? {}),
    instances: vm.instances,
    configured: true,
    vsock: vm.vsock,
    shares: vm.shares.length === 0 ? undefined : vm.shares,
    machine: {
      ...(vm.engine === undefined ? {} : { engine: vm.engine }),
      ...(vm.portable === undefined ? {} : { portable: true, ...vm.portable }),
      ...(vm.devices.length === 0 ? {} : { devices: vm.devices }),
    },
  };
}
