/** What a VM's process and vmd say to each other about a migration. */
import type { DiskDescription } from "../descriptions.ts";

/** How a machine is to be sent. */
export interface SendRequest {
  /** Of the CONFIG record, as JSON: what the VM's process doesn't know. */
  readonly config: string;
  /** Most is sent while the guest runs. */
  readonly live: boolean;
  /** What the guest may stand still for the last of it, ms. */
  readonly downtime: number;
  /** After so many it is sent whatever is left. */
  readonly rounds: number;
  /** Whether the receiver's answers come back; else the stream itself may not be trusted to bring any. */
  readonly answers: "surely" | "perhaps";
}

/** To a VM process. */
export type ToMigration =
  /** With the descriptor of a stream socket. */
  | ({ kind: "send" } & SendRequest)
  /** Its disks are free for another. */
  | { kind: "disks-unlocked" }
  /** They are locked again; or not, for this reason. */
  | { kind: "disks-locked"; failure?: string }
  /** With the files of each disk and the disc: they are open. Or they aren't, for this reason. */
  | { kind: "disks"; disks: DiskDescription[]; cdrom?: DiskDescription; failure?: string };

/** From a VM process. */
export type MigrationEvent =
  /** Sent so many pages; so many were written meanwhile. */
  | { stage: "round"; round: number; pages: number; left: number; time: number }
  /** All that the guest wrote is durable: its disks may be unlocked. */
  | { stage: "flushed" }
  /** They are to be locked again. */
  | { stage: "relock" }
  /** All was received: its disks are to be opened. */
  | { stage: "disks" }
  | {
      stage: "over";
      /** Of these, vmd alone says that it is gone. */
      outcome: "sent" | "failed" | "unknown" | "gone";
      /** Empty when it was sent. */
      why: string;
      rounds: number;
      pages: number;
      bytes: number;
      /** The guest, ms; until it ran on the other side. */
      stoodStill: number;
    };
