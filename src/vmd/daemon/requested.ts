/** The settings that a start request asks for. */
import type { RequestOf } from "../protocol.ts";
import { type Caller, DEFAULT_MEMORY, type OwnedPath, type VmSettings } from "./settings.ts";

/**
 * @param base the VM as it is known; what the request gives takes its place.
 * @returns `base` itself when the request gives nothing.
 */
export function requestedSettings(
  request: RequestOf<"start">,
  name: string,
  caller: Caller,
  base?: VmSettings,
): VmSettings {
  const given = (path: string | undefined): OwnedPath | undefined =>
    path === undefined ? undefined : { path, by: caller };
  const { kernel, initrd, cmdline, modules, memory, disks, cdrom, bootDevice } = request;
  const { interfaces, interfaceCount, traceExits, record, vsock, shares, gdb } = request;
  const { engine, portable, tscKhz, format, bits, reboot } = request;
  const { debugExit, virtualTime, epoch, devices } = request;
  const asIs = { engine, portable, tscKhz, format, bits, reboot };
  const machine = Object.fromEntries(
    Object.entries({ ...asIs, debugExit, virtualTime, epoch, devices }).filter(
      ([, value]) => value !== undefined,
    ),
  );
  const asked =
    [
      ...[kernel, initrd, cmdline, modules, memory, cdrom, bootDevice],
      ...[interfaceCount, traceExits, record, vsock, shares, gdb],
    ].some((value) => value !== undefined) ||
    disks.length + interfaces.length + Object.keys(machine).length > 0;
  if (base !== undefined && !asked) return base;
  const cards = [...(base?.interfaces ?? []), ...interfaces];
  while (cards.length < (interfaceCount ?? 0)) cards.push({ local: false });
  return {
    name,
    kernel: given(kernel) ?? base?.kernel,
    initrd: given(initrd) ?? base?.initrd,
    cmdline: cmdline ?? base?.cmdline,
    modules:
      modules?.map((specification) => {
        const space = specification.indexOf(" ");
        if (space < 0) return { path: specification, by: caller };
        return {
          path: specification.slice(0, space),
          args: specification.slice(space + 1),
          by: caller,
        };
      }) ??
      base?.modules ??
      [],
    memory: memory ?? base?.memory ?? DEFAULT_MEMORY,
    disks: [...(base?.disks ?? []), ...disks.map((disk) => ({ ...disk, by: caller }))],
    cdrom: given(cdrom) ?? base?.cdrom,
    bootDevice: bootDevice ?? base?.bootDevice,
    interfaces: cards,
    owner: base?.owner ?? { uid: caller.uid },
    instances: base?.instances,
    configured: base?.configured ?? false,
    machine: { ...base?.machine, ...machine },
    trace: given(traceExits),
    record: given(record),
    gdb: gdb && { at: gdb, by: caller },
    shares: shares?.map((one) => ({ ...one, by: caller })) ?? base?.shares,
    vsock: vsock === undefined ? base?.vsock : { ...vsock, by: caller },
  };
}
