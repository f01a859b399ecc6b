/**
 * Taps: the host's end of a guest's interface is an interface of the host's. On its descriptor a
 * packet is a virtio network header of 12 bytes and a frame.
 */
import { closeSync } from "node:fs";
import { check, NativeError, netLibrary, ptr } from "../../vmm/native.ts";
import { NetworkError } from "./host-command.ts";
import { formatIpv4 } from "./ipv4.ts";
import { findLink, ip, isLinkName } from "./link.ts";
import { LOCAL_LENGTH } from "./local-address.ts";
import { formatMac, parseMac } from "./mac.ts";

const NAME_SIZE = 16;
const MTU = 1500;

export interface TapOptions {
  /** "tap3"; absent: the next that is free. */
  name?: string;
  /** Who may open it beside root: a user's number. */
  owner?: number;
  /** The host's link address there. */
  mac?: Uint8Array;
  /** Default: 1500. */
  mtu?: number;
  /** What ip(8) shows: "vm3-if0-web". */
  description?: string;
  /** The bridge that it becomes a port of. */
  bridge?: string;
  /** The host's IPv4 address there, of a network of two. */
  address?: number;
  /** Default: true. */
  up?: boolean;
}

export interface Tap {
  readonly name: string;
  /** Whose closing removes the interface, unless that was there before. */
  readonly descriptor: number;
  /** The host's link address there. */
  readonly mac: Uint8Array;
}

/**
 * Opens a tap, and configures it. Without root it must be there, made for this user, and is left as
 * the administrator made it.
 * @throws NetworkError
 */
export function openTap(options: TapOptions = {}): Tap {
  const { name = "tap%d" } = options;
  if (options.name !== undefined && !isLinkName(name)) {
    throw new NetworkError(`${name} is no name for an interface`);
  }
  const bytes = new Uint8Array(NAME_SIZE);
  new TextEncoder().encodeInto(name, bytes.subarray(0, NAME_SIZE - 1));
  const root = process.geteuid!() === 0;
  // A descriptor that the kernel gives to who may not make one would be a surprise, not a rule.
  const descriptor = netLibrary().vmm_tap_open(ptr(bytes), root ? (options.owner ?? -1) : -1);
  if (descriptor < 0) throw refusal(options.name ?? "a tap", descriptor);
  try {
    const found = new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
    if (root) configure(found, options);
    const mac =
      options.mac !== undefined && root ? options.mac : parseMac(findLink(found)?.address ?? "");
    return { name: found, descriptor, mac: mac ?? new Uint8Array(6) };
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

/** Tells the kernel what the guest takes: bits of Offload. @throws NativeError */
export function setTapOffloads(descriptor: number, offloads: number): void {
  check("a tap's offloads", netLibrary().vmm_tap_offload(descriptor, offloads));
}

function configure(name: string, options: TapOptions): void {
  const { mac, mtu = MTU, description, bridge, address, up = true } = options;
  const words = ["mtu", `${mtu}`];
  if (mac !== undefined) words.push("address", formatMac(mac));
  if (description !== undefined) words.push("alias", description);
  if (bridge !== undefined) words.push("master", bridge);
  ip("link", "set", "dev", name, ...words);
  if (address !== undefined) {
    ip("address", "replace", `${formatIpv4(address)}/${LOCAL_LENGTH}`, "dev", name);
  }
  ip("link", "set", "dev", name, up ? "up" : "down");
}

function refusal(name: string, result: number): NetworkError {
  const error = new NativeError(name, result);
  switch (error.code) {
    case "EBUSY":
      return new NetworkError(`${name} is in use`);
    case "EPERM":
      return new NetworkError(
        `${name} needs root, or one made for this user: ip tuntap add dev tap0 mode tap user NAME`,
      );
    case "EACCES":
      return new NetworkError(`${name} needs /dev/net/tun, which this user may not open`);
    case "EINVAL":
      return new NetworkError(`${name} is an interface already, and no tap`);
    case "ENOENT":
    case "ENODEV":
      return new NetworkError(`${name} needs /dev/net/tun: load the kernel's module tun`);
    default:
      return new NetworkError(error.message);
  }
}
