/** What a VM of the daemon is made of, and whose rights its files are opened with. */
import { openSync } from "node:fs";
import { daemonLibrary, NativeError, ptr } from "../../vmm/native.ts";
import type { GdbOption } from "../gdb-option.ts";
import type { ShareOption } from "../share-option.ts";
import type { PortForward } from "../net/port-forward.ts";
import type { RateLimits } from "../virtio/rate-limit.ts";
import type { VmOptions } from "../vm-options.ts";

/** Somebody who asks for something. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  /** All of its groups. */
  readonly groups: readonly number[];
}

/** A file of a VM: named by a configuration (the daemon's rights), or by a caller. */
export interface OwnedPath {
  readonly path: string;
  /** Absent: the daemon itself. */
  readonly by?: Caller;
}

export interface OwnedDisk extends OwnedPath {
  readonly format?: "raw" | "qcow2";
  readonly readOnly?: boolean;
  /** Past the host's page cache. */
  readonly direct?: boolean;
  /** What is written goes when the VM does. */
  readonly ephemeral?: boolean;
  readonly limits?: RateLimits;
}

/** Who may operate a VM. */
export interface Owner {
  readonly uid: number;
  readonly gid?: number;
}

export interface InterfaceSettings {
  readonly switch?: string;
  readonly local: boolean;
  readonly tap?: string;
  readonly lladdr?: string;
  readonly lockedLladdr?: boolean;
  readonly up?: boolean;
  readonly limits?: RateLimits;
  readonly forwards?: readonly PortForward[];
}

/** What users may choose for instances of a VM. */
export interface InstanceRights {
  readonly boot: boolean;
  readonly cpus: boolean;
  readonly cdrom: boolean;
  readonly disk: boolean;
  readonly instance: boolean;
  readonly interface: boolean;
  readonly memory: boolean;
  /** Who may make instances; absent: nobody but the administrator. */
  readonly owner?: { readonly uid?: number; readonly gid?: number };
}

/** A VM as it was configured or asked for. */
export interface VmSettings {
  readonly name: string;
  readonly kernel?: OwnedPath;
  readonly initrd?: OwnedPath;
  readonly modules: readonly (OwnedPath & { readonly args?: string })[];
  readonly cmdline?: string;
  /** Bytes. */
  readonly memory: number;
  readonly disks: readonly OwnedDisk[];
  readonly cdrom?: OwnedPath;
  readonly bootDevice?: "cdrom" | "disk" | "net";
  readonly interfaces: readonly InterfaceSettings[];
  readonly owner: Owner;
  readonly instances?: InstanceRights;
  /** A configuration file defines it: it stays when it is stopped. */
  readonly configured: boolean;
  readonly machine: Pick<
    VmOptions,
    | "engine"
    | "portable"
    | "tscKhz"
    | "format"
    | "bits"
    | "reboot"
    | "debugExit"
    | "virtualTime"
    | "epoch"
    | "devices"
  >;
  readonly trace?: OwnedPath;
  /** Where the run is recorded. */
  readonly record?: OwnedPath;
  /** A socket device, and where the host's side listens and connects. */
  /** Absent: as its template has them. */
  readonly shares?: readonly (ShareOption & { readonly by?: Caller })[];
  readonly vsock?: OwnedPath & { readonly cid: number };
  /** Where a debugger connects, and who asked for it. */
  readonly gdb?: { readonly at: GdbOption; readonly by: Caller };
}

/** vmd's default, bytes. */
export const DEFAULT_MEMORY = 512 * 2 ** 20;

/** Opens a file with a caller's rights. @throws an errno error */
export function openAs(path: string, flags: number, by: Caller | undefined): number {
  if (by === undefined || by.uid === process.geteuid!()) return openSync(path, flags, 0o600);
  const groups = Uint32Array.from(by.groups.length > 0 ? by.groups : [by.gid]);
  const result = daemonLibrary().vmm_open_as(
    ptr(Buffer.from(`${path}\0`)),
    flags,
    by.uid,
    by.gid,
    ptr(groups),
    groups.length,
  );
  if (result < 0) throw new NativeError(path, result);
  return result;
}
