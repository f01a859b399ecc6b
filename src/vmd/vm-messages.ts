/**
 * What a VM process and whoever started it (the daemon, a program that holds a Vm) say to each
 * other, as JSON texts with descriptors on a Channel.
 */
import type { EngineName } from "../vmm/engine-library.ts";
import type { ExitCount } from "./exit-counter.ts";
import type { DiskDescription, InterfaceDescription } from "./descriptions.ts";
import type { Attempt } from "./sandbox-probe.ts";
import type { MigrationEvent, ToMigration } from "./migration/messages.ts";
import type { VcpuOptions } from "./vm-options.ts";

/** How a VM ended. */
export interface Ending {
  kind: "power-off" | "reset" | "exit" | "stopped" | "crash";
  /** What a process that ran the VM should exit with. */
  code: number;
  /** One sentence, for people. */
  message: string;
  /** The CPU's registers at the end, as text; empty when they could not be had. */
  registers: string;
  /** SHA-256 of the final image, of a VM that was recorded. */
  image?: string;
}

/** What a running VM costs and does. */
export interface VmStatistics {
  /** Guest time, ns. */
  now: number;
  /** Bytes of host memory behind the machine image. */
  resident: number;
  /** Exits since the guest's last reset. */
  exits: number;
  /** Bytes printed, on the console and the debug ports. */
  printed: number;
  /** Who looks at the console now. */
  watchers: number;
}

/** What a guest has given away, bytes. */
export interface BalloonState {
  target: number;
  actual: number;
}

/** What became of a snapshot. */
export interface SnapshotResult {
  /** Why there is none, as a sentence. */
  failure?: string;
  /** Of the file. */
  bytes: number;
  pages: number;
  /** How long the guest stood still, ms. */
  paused: number;
  /** It holds only what changed, and is based on the one before. */
  differential: boolean;
  /** Of one whose memory was copied while the guest ran: in so many rounds. */
  rounds?: number;
}

/** What leads to a VM's files: places in the descriptors of the start message. */
export interface StartFiles {
  /** What it boots from; absent: that is not to be had, and it is restored. */
  boot?: { kernel: string; initrd?: string; modules: { path: string; args?: string }[] };
  restore?: RestoreDescription;
  /** The trace's path. */
  trace?: string;
  /** A recording's path; what its CONFIG record says, as JSON, but for what the process knows. */
  record?: { path: string; config: string };
  disks: DiskDescription[];
  cdrom?: DiskDescription;
  interfaces: InterfaceDescription[];
  /** A socket device: the guest's CID. */
  vsock?: { cid: number };
  /** A debugger may connect, at a listening socket. */
  gdb?: boolean;
  /** Tags of shares. */
  shares: string[];
}

/** What a machine goes on from. */
export interface RestoreDescription {
  /** Of each snapshot, the first one first: how it may be read; without those that are `prepared`. */
  inputs: { stream: boolean; verify: boolean; eager?: boolean }[];
  rom?: { base: number; size: number };
  /** What was booted once. */
  boot: string;
  cpuid: number[][];
  /** How fast its TSC counts, kHz; absent: not known. */
  tscKhz?: number;
  /** It comes from another VM's process: whether that one waits for answers. Its disks come later. */
  receive?: { answers: boolean };
  /** The process has a machine that the first snapshots are in. */
  prepared?: true;
  /** The last of its snapshots is being written: a socket tells how much of it is there, and `written` that all is. */
  later?: true;
  /** Pages that its guest touched lately are read beside it. */
  prefetch?: boolean;
  /** It is a copy: what is unique of a machine becomes another. */
  clone?: { generation: string };
}

/** A stream of a VM that can be watched. */
export type StreamName = "console" | "debug" | "virtio";

/** Someone who follows a stream, and types there. */
export interface Attachment {
  stream: StreamName;
  /** The guest waits rather than that output is lost. */
  lossless: boolean;
  /** Without what was printed before. */
  late: boolean;
}

/** How a VM process confines itself. */
export interface Confinement {
  /** The user and group to become; absent: as started. */
  uid?: number;
  gid?: number;
}

/**
 * The first message to a VM process. Its descriptors: kernel, initrd if there is one, modules (if it
 * has `boot`), each snapshot of `restore`, the socket of one that comes `later`, trace and recording if there is one, the files of each disk and the
 * CD-ROM (each with another behind it if it has an `alignment`), one for each interface, a socket for each
 * share, the listening socket of `vsock`, that of `gdb`, pty master and slave if `terminal`, a stream socket
 * for each attachment.
 */
export interface StartMessage {
  kind: "start";
  options: VcpuOptions;
  files: StartFiles;
  terminal: boolean;
  attached: Attachment[];
  /** Absent: the process keeps the rights it has. */
  confine?: Confinement;
}

/**
 * What a VM process may be told before that, while it waits: the start message of another VM that went
 * on from the same snapshots, with the descriptors of those alone. See preparation.ts.
 */
export interface PrepareMessage {
  kind: "prepare";
  start: StartMessage;
  /**
   * There is one more snapshot, whose descriptor is the last: what had changed since the others. Who goes
   * on from them is given one that has all of its pages, and perhaps more.
   */
  changed?: true;
}

/** Messages to a VM process. */
export type ToVm =
  | StartMessage
  | PrepareMessage
  /** With the descriptor of a stream socket: output goes there, what comes from it is typed. */
  | ({ kind: "attach" } & Attachment)
  | { kind: "pause" }
  | { kind: "unpause" }
  /** Asks the guest to shut down, by vmmci; its reset then ends the VM, unless it is to `reset`. */
  | { kind: "shutdown"; reset?: boolean }
  | { kind: "registers" }
  /** How much the guest is to give away, bytes; absent: as it is. */
  | { kind: "balloon"; target?: number }
  /** With the descriptor of a stream socket, to which an interface's frames are copied. */
  | { kind: "capture"; place: number }
  | { kind: "statistics" }
  /**
   * With the descriptor of a file or a stream: a snapshot goes there. Behind it, the descriptor of
   * an empty image for each of `overlays`, which takes what is written to that disk from then on; then
   * a socket on which it tells how far it is, if it is `told`.
   * See TakeRequest.
   */
  | {
      kind: "snapshot";
      config: string;
      compress: boolean;
      differential: boolean;
      template: boolean;
      told: boolean;
      overlays: { place: number; name: string }[];
      /** The VM ends when it is written. */
      stop: boolean;
      /** Memory is copied while the guest runs, which stands still for about so long, ms. */
      downtime?: number;
      window?: number;
    }
  /** The last of the snapshots that it goes on from is as it will be. */
  | { kind: "written" }
  /** The next template stands alone. */
  | { kind: "forget-template" }
  /** What a guest's socket asked for: a connected socket's descriptor, or none. */
  | { kind: "vsock-answer"; id: number }
  /** With the descriptor of a socket whose other end wants to reach a port of the guest's. */
  | { kind: "vsock-open"; port: number }
  /** Who was at the listening socket has been let in. */
  | { kind: "vsock-listen" }
  /** Exits are counted from the first of these on, until one says off, which isn't answered. */
  | { kind: "count-exits"; on: boolean }
  /** For tests of the sandbox: see sandbox-probe.ts. */
  | { kind: "probe"; what: Attempt }
  | ToMigration
  | { kind: "stop" };

/** Messages from it. Every question is answered, in order. */
export type FromVm =
  /** It waits, and has nothing left to do before it is told what to run. */
  | { kind: "ready" }
  | {
      kind: "running";
      engine: EngineName;
      /** Why not a better engine; empty when there is none. */
      why: string;
      /** What was booted. */
      boot: string;
      /** What of the sandbox is not there, as a sentence; empty when all is. */
      unconfined: string;
      /** Of a restore with `prefetch`: so many pages; absent: its snapshot doesn't say which. */
      prefetched?: number;
    }
  /** Something of the host or of a guest's driver failed; for the log. */
  | { kind: "trouble"; text: string }
  /** The guest reset its machine, which starts again. */
  | { kind: "rebooted"; by: string }
  | { kind: "paused" }
  | { kind: "unpaused" }
  /** Whether the guest can be asked. */
  | { kind: "shutdown"; asked: boolean }
  /** The guest has seen that it was asked. */
  | { kind: "acknowledged" }
  /** The guest is about to halt, power off or reset, of its own accord. Told once until it resets. */
  | { kind: "shutting-down" }
  | { kind: "registers"; text: string }
  /** Absent: the machine has no balloon. */
  | { kind: "balloon"; balloon?: BalloonState }
  | { kind: "statistics"; statistics: VmStatistics }
  | { kind: "snapshot"; result: SnapshotResult }
  /** The guest wants to reach a port of the host's: answered by vsock-answer. */
  | { kind: "vsock-connect"; id: number; port: number }
  /** Somebody is at the listening socket: answered by vsock-listen. */
  | { kind: "vsock-knock" }
  /** What was counted so far; absent while a trace is recorded. */
  | { kind: "exit-counts"; counts?: ExitCount[] }
  | { kind: "probe"; result: string }
  | { kind: "migration"; event: MigrationEvent }
  | { kind: "ended"; ending: Ending }
  /** It could not be started. */
  | { kind: "failed"; message: string };
