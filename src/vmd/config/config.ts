/** vm.conf as data: what a configuration file says, checked. */
import type { PortForward } from "../net/port-forward.ts";

/** Where something stands in a file. */
export interface Place {
  file: string;
  /** From 1. */
  line: number;
}

/** An error or a warning about a file: "file:line: message". */
export interface ConfigMessage extends Place {
  message: string;
}

/** Names as written, with their numbers. */
export interface ConfigOwner {
  user?: string;
  group?: string;
  uid?: number;
  gid?: number;
}

/** How much a disk or an interface moves: see RateLimits. */
export interface ConfigLimits {
  bytes?: number;
  burst?: number;
  operations?: number;
}

export interface ConfigInterface {
  local: boolean;
  /** "tap3"; absent: the next that is free. */
  tap?: string;
  group?: string;
  /** "fe:e1:bb:d1:12:34"; absent: made up. */
  lladdr?: string;
  lockedLladdr: boolean;
  rdomain?: number;
  switch?: string;
  up: boolean;
  limits?: ConfigLimits;
  /** Ports of the host that lead to the guest's. */
  forwards?: readonly PortForward[];
}

/** What users may choose for instances of a VM. */
export interface ConfigInstance {
  boot: boolean;
  cpus: boolean;
  cdrom: boolean;
  disk: boolean;
  instance: boolean;
  interface: boolean;
  memory: boolean;
  owner?: ConfigOwner;
}

/** See ShareOption. */
export interface ConfigShare {
  path: string;
  tag: string;
  readOnly: boolean;
  allow: string[];
  deny: string[];
  user?: string;
}

export interface ConfigVm extends Place {
  name: string;
  /** The VM that this one is an instance of. */
  parent?: string;
  enable: boolean;
  instances?: ConfigInstance;
  boot?: string;
  bootDevice?: "cdrom" | "disk" | "net";
  cdrom?: string;
  cpus?: number;
  disks: {
    path: string;
    format?: "raw" | "qcow2";
    readOnly?: boolean;
    direct?: boolean;
    limits?: ConfigLimits;
  }[];
  interfaces: ConfigInterface[];
  /** So many interfaces at least. */
  interfaceCount?: number;
  /** Bytes. */
  memory?: number;
  owner?: ConfigOwner;
  // Beyond vmd: what direct boots need.
  initrd?: string;
  append?: string;
  modules: string[];
  engine?: "auto" | "kvm" | "unicorn";
  /** A processor that both engines have, and how fast its TSC counts, kHz. */
  portable?: { tscKhz?: number };
  devices: ("balloon" | "console")[];
  vsock?: { cid: number; path: string };
  shares: ConfigShare[];
}

export interface ConfigSwitch extends Place {
  name: string;
  enable: boolean;
  group?: string;
  interface: string;
  lockedLladdr: boolean;
  rdomain?: number;
  up: boolean;
}

export interface Config {
  vms: ConfigVm[];
  switches: ConfigSwitch[];
  localPrefix: { address: string; length: number };
  /** Absent: no IPv6 on local interfaces. */
  localInet6?: { prefix?: string };
  socketOwner?: ConfigOwner;
  /** Seconds; absent: as many at once as there are CPUs, every 30 s. */
  staggered?: { parallel: number; delay: number };
  agentx?: { context?: string; path?: string };
}
