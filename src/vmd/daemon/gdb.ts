/** Where a VM's debugger connects, in the daemon. */
import { GdbHost } from "../gdb-host.ts";
import { rightsOf } from "../vsock-host.ts";
import type { VmSettings } from "./settings.ts";

/** Listens with the rights of who asked for it. @throws NativeError */
export function openGdb({ gdb }: VmSettings): GdbHost | undefined {
  if (gdb === undefined) return undefined;
  const { at, by } = gdb;
  if (by.uid === process.geteuid!()) return new GdbHost(at);
  return new GdbHost(at, rightsOf(by.uid, by.gid, by.groups));
}
