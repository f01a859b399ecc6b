/** Ports of the host that lead to a guest's, as users write them. */
import { parseIpv4 } from "./ipv4.ts";

export interface PortForward {
  readonly protocol: "tcp" | "udp";
  /** The host's, where it listens. */
  readonly address: string;
  readonly port: number;
  readonly guestPort: number;
}

/** Of an interface; more than anybody writes. */
export const MAX_FORWARDS = 64;

/** Nobody else gets to the guest, unless somebody says so. */
const ADDRESS = "127.0.0.1";

/**
 * "2222:22", "0.0.0.0:2222:22", "53:53/udp": the host's address and port, the guest's port.
 * @returns undefined for what is no forward.
 */
export function parsePortForward(text: string): PortForward | undefined {
  const match = /^(?:([0-9.]+):)?([0-9]{1,5}):([0-9]{1,5})(?:\/(tcp|udp))?$/.exec(text);
  if (match === null) return undefined;
  const [, address = ADDRESS, port, guestPort, protocol = "tcp"] = match;
  if (parseIpv4(address) === undefined || !isPort(port) || !isPort(guestPort)) return undefined;
  return {
    protocol: protocol === "udp" ? "udp" : "tcp",
    address,
    port: Number(port),
    guestPort: Number(guestPort),
  };
}

function isPort(text: string): boolean {
  const port = Number(text);
  return port >= 1 && port <= 65_535;
}

/** Whether both are for the same port of the host. */
export function sameHostPort(a: PortForward, b: PortForward): boolean {
  return a.protocol === b.protocol && a.address === b.address && a.port === b.port;
}

export function formatPortForward({ protocol, address, port, guestPort }: PortForward): string {
  return `${address}:${port}:${guestPort}/${protocol}`;
}
