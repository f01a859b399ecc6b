/** An interface's end, as a VM process is told of it. */
import type { OpenedInterface } from "../descriptions.ts";
import { formatMac } from "./mac.ts";
import type { InterfaceEnd } from "./networks.ts";

export function openedInterface({
  kind,
  descriptor,
  mac,
  locked,
  lease,
}: InterfaceEnd): OpenedInterface {
  const own = lease && {
    ...lease,
    mac: formatMac(lease.mac),
    hostMac: lease.hostMac && formatMac(lease.hostMac),
  };
  return { kind, descriptor, mac: formatMac(mac), locked, lease: own };
}
