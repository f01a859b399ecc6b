/** The settings of a VM that is received. */
import * as v from "valibot";
import { shareSchema, type RequestOf, vsockSchema } from "../protocol.ts";
import type { SnapshotConfig } from "../snapshot/config.ts";
import { RefusalError } from "./refusal.ts";
import type { Caller, InterfaceSettings, VmSettings } from "./settings.ts";
import { restoredSettings } from "./snapshots.ts";

/**
 * As of a VM that is restored, but for where it has its disks, and what this side says of it.
 * @param base the VM here, where a configuration has one of that name
 * @throws RefusalError
 */
export function receivedSettings(
  config: SnapshotConfig,
  { vm, engine, interfaces }: RequestOf<"receive">,
  caller: Caller,
  base: VmSettings | undefined,
): VmSettings {
  for (const share of config.shares ?? []) check(shareSchema, share, "shares");
  if (config.vsock !== undefined) check(vsockSchema, config.vsock, "socket device");
  const disks = (config.options.disks ?? []).map(({ path, format, readOnly }) => {
    return { path, format, readOnly };
  });
  const settings = restoredSettings(config, { vm, disks }, caller);
  return {
    ...settings,
    interfaces: connected(settings.interfaces, interfaces, base),
    owner: base?.owner ?? settings.owner,
    instances: base?.instances,
    configured: base?.configured ?? false,
    machine: { ...settings.machine, engine: engine ?? config.engine },
  };
}

function check(schema: v.GenericSchema, value: unknown, what: string): void {
  if (v.safeParse(schema, value).success) return;
  throw new RefusalError("EINVAL", `what it says about its ${what} can't be`);
}

/** Where its interfaces lead here: as asked for, as configured, or as it was there. */
function connected(
  saved: readonly InterfaceSettings[],
  given: RequestOf<"receive">["interfaces"],
  base: VmSettings | undefined,
): InterfaceSettings[] {
  const count = saved.length;
  if (given.length > 0 && given.length !== count) {
    throw new RefusalError(
      "EINVAL",
      `the vm has ${count} interface${count === 1 ? "" : "s"}, ${given.length} are given`,
    );
  }
  const configured = base?.interfaces.length === count ? base.interfaces : undefined;
  return saved.map((there, place) => {
    const { lladdr, lockedLladdr, limits } = there;
    // A tap's name is one host's.
    const where = given.at(place) ?? configured?.[place] ?? { ...there, tap: undefined };
    return { limits, ...where, lladdr, lockedLladdr };
  });
}
