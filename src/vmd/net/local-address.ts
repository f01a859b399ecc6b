/**
 * Addresses of local interfaces, as vmd has them: each interface is a network of two, the host and
 * the guest, with an address that follows from the VM's id and the interface's place.
 *
 *   host  = prefix | VM id << 8 | (place + 1) * 2
 *   guest = host + 1
 */
import { formatIpv4, parseIpv4 } from "./ipv4.ts";

/** The default: 100.64.0.0/10, which is for carriers' networks (RFC 6598). */
export const LOCAL_PREFIX: LocalPrefix = { address: "100.64.0.0", length: 10 };

/** Every interface's mask: /31, RFC 3021. */
export const LOCAL_LENGTH = 31;

/** As `local prefix` of vm.conf names it. */
export interface LocalPrefix {
  readonly address: string;
  /** 1 to 16. */
  readonly length: number;
}

export interface LocalAddresses {
  readonly host: number;
  readonly guest: number;
}

/** No interface has a greater place. */
const LAST_PLACE = 0x7e;
const LONGEST_PREFIX = 16;

/** An address that can't be had, in one sentence. */
export class LocalAddressError extends Error {
  override name = "LocalAddressError";
}

/**
 * The addresses of a VM's interface. @param place the interface's, from 0.
 * @throws LocalAddressError where there are none
 */
export function localAddresses(prefix: LocalPrefix, id: number, place: number): LocalAddresses {
  const network = parseIpv4(prefix.address);
  const { length } = prefix;
  if (network === undefined) {
    throw new LocalAddressError(`local prefix: ${prefix.address} is no IPv4 address`);
  }
  if (!Number.isInteger(length) || length < 1 || length > LONGEST_PREFIX) {
    throw new LocalAddressError(
      `local prefix: its length is 1 to ${LONGEST_PREFIX}, not ${length}`,
    );
  }
  const hosts = 2 ** (32 - length);
  const text = `${prefix.address}/${length}`;
  if (!Number.isInteger(id) || id < 1 || id >= hosts / 256) {
    throw new LocalAddressError(`local prefix ${text} has no addresses for a VM with id ${id}`);
  }
  if (!Number.isInteger(place) || place < 0 || place > LAST_PLACE) {
    throw new LocalAddressError(`local prefix ${text} has no address for interface ${place}`);
  }
  const host = network - (network % hosts) + id * 256 + (place + 1) * 2;
  return { host, guest: host + 1 };
}

/** The prefix with its host bits cleared: "100.64.0.0/10". */
export function formatPrefix({ address, length }: LocalPrefix): string {
  const network = parseIpv4(address) ?? 0;
  return `${formatIpv4(network - (network % 2 ** (32 - length)))}/${length}`;
}
