/** Disks and interfaces, as whoever starts a VM describes them to its process. */
import type { DiskFormat } from "./disk/index.ts";
import type { LocalLease } from "./net/dhcp.ts";
import type { RateLimits } from "./virtio/rate-limit.ts";

/** A disk in files that are open. */
export interface DiskDescription {
  /** `alignment`: another descriptor follows, with O_DIRECT. */
  files: { name: string; format: DiskFormat; alignment?: number }[];
  readOnly: boolean;
  guessedRaw: boolean;
  limits?: RateLimits;
}

/** An interface by an open descriptor that doesn't block. */
export interface InterfaceDescription {
  kind: "tap" | "switch" | "passt";
  /** "fe:e1:bb:d1:00:01" */
  mac: string;
  /** Frames from other addresses are dropped. */
  locked: boolean;
  mtu?: number;
  limits?: RateLimits;
  /** A local interface's: DHCP is answered here. */
  lease?: LeaseDescription;
}

/** LocalLease, with link addresses as text. */
export interface LeaseDescription extends Omit<LocalLease, "mac" | "hostMac"> {
  mac: string;
  hostMac?: string;
}

/** An interface's other end, open. */
export interface OpenedInterface extends InterfaceDescription {
  descriptor: number;
}
