/** From a VM's settings to what a snapshot says of it, and back, where it is received. */
import * as v from "valibot";
import { shareSchema, type RequestOf, vsockSchema } from "../protocol.ts";
import type { SnapshotConfig } from "../snapshot/config.ts";
import { newId } from "../snapshot/restored.ts";
import type { VmOptions } from "../vm-options.ts";
import { RefusalError } from "./refusal.ts";
import type { Caller, InterfaceSettings, VmSettings } from "./settings.ts";

/** An interface as it is, with where it leads. */
export interface SentInterface {
  readonly mac: string;
  readonly locked: boolean;
  readonly mtu?: number;
  readonly settings: InterfaceSettings;
}

/** Where the receiver's answers go. */
export type Answers = NonNullable<SnapshotConfig["migration"]>;

/** Of a CONFIG record, what the VM's process doesn't know. */
export function sentConfig(
  settings: VmSettings,
  interfaces: readonly SentInterface[],
  migration: Answers | undefined,
): { id: string } & Record<string, unknown> {
  const { name, kernel, initrd, cmdline, modules, disks, cdrom, bootDevice, memory } = settings;
  const { format, bits, reboot, debugExit, virtualTime, devices } = settings.machine;
  return {
    format: 1,
    id: newId(),
    created: Date.now(),
    options: {
      ...{ name, cmdline, bootDevice, memory, format, bits, reboot, debugExit, virtualTime },
      devices,
      kernel: kernel?.path,
      initrd: initrd?.path,
      modules: modules.map(({ path, args }) => (args === undefined ? path : `${path} ${args}`)),
      disks: disks.map(({ path, format, limits }) => ({ path, format, limits })),
      cdrom: cdrom?.path,
    },
    ahead: 0,
    interfaces: interfaces.map(({ mac, locked, mtu, settings }) => {
      const { switch: name, local, limits } = settings;
      return { mac, locked, mtu, limits, network: { switch: name, local } };
    }),
    shares: settings.shares?.map(({ path, tag, readOnly, allow, deny }) => {
      return { path, tag, readOnly, allow, deny };
    }),
    vsock: settings.vsock && { cid: settings.vsock.cid, path: settings.vsock.path },
    migration,
  };
}

const network = v.object({
  switch: v.optional(v.pipe(v.string(), v.maxLength(63))),
  local: v.optional(v.boolean(), false),
});

function parsed<T>(schema: v.GenericSchema<unknown, T>, value: unknown, what: string): T {
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  throw new RefusalError("EINVAL", `what it says about its ${what} can't be`);
}

/**
 * The settings of a VM that is received.
 * @param base the VM here, where a configuration has one of that name
 * @throws RefusalError
 */
export function receivedSettings(
  config: SnapshotConfig,
  { vm: name, engine, interfaces }: RequestOf<"receive">,
  caller: Caller,
  base: VmSettings | undefined,
): VmSettings {
  const { options } = config;
  const own = (path: string | undefined) => (path === undefined ? undefined : { path, by: caller });
  const shares = config.shares?.map((one) => parsed(shareSchema, one, "shares"));
  const vsock = config.vsock === undefined ? undefined : parsed(vsockSchema, config.vsock, "vsock");
  return {
    name,
    kernel: own(options.kernel),
    initrd: own(options.initrd),
    cmdline: options.cmdline,
    modules: (options.modules ?? []).map((module) => {
      const [path, ...args] = module.split(" ");
      return { path, args: args.length > 0 ? args.join(" ") : undefined, by: caller };
    }),
    memory: options.memory,
    disks: (options.disks ?? []).map(({ path, format, limits }) => {
      return { path, format, limits, by: caller };
    }),
    cdrom: own(options.cdrom),
    bootDevice: options.bootDevice,
    interfaces: connected(config, interfaces, base),
    owner: base?.owner ?? { uid: caller.uid },
    instances: base?.instances,
    configured: base?.configured ?? false,
    machine: {
      engine: engine ?? config.engine,
      format: options.format as VmOptions["format"],
      bits: options.bits,
      reboot: options.reboot,
      debugExit: options.debugExit,
      virtualTime: options.virtualTime,
      devices: options.devices,
      epoch: options.virtualTime ? undefined : Date.now() + config.ahead,
    },
    shares: shares?.map((one) => ({ ...one, by: caller })),
    vsock: vsock && { ...vsock, by: caller },
  };
}

/** Where its interfaces lead here: as asked for, as configured, or as it was there. */
function connected(
  config: SnapshotConfig,
  given: RequestOf<"receive">["interfaces"],
  base: VmSettings | undefined,
): InterfaceSettings[] {
  const { interfaces } = config;
  if (given.length > 0 && given.length !== interfaces.length) {
    const count = interfaces.length;
    throw new RefusalError(
      "EINVAL",
      `the vm has ${count} interface${count === 1 ? "" : "s"}, ${given.length} are given`,
    );
  }
  const configured = base?.interfaces.length === interfaces.length ? base.interfaces : undefined;
  return interfaces.map(({ mac, locked, limits, network: there }, place) => {
    const where =
      given.at(place) ?? configured?.[place] ?? parsed(network, there ?? {}, "interfaces");
    return { limits, ...where, lladdr: mac, lockedLladdr: locked };
  });
}
