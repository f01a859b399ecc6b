/**
 * Has a guest run for vctl itself, to be compared with what it did: in a process of its own
 * (guest-process.ts), confined as a VM's is, since recordings and traces may come from anybody. That
 * process says by itself what came of it.
 */
import { closeSync } from "node:fs";
import { constants } from "node:os";
import { ownConfinement } from "../vmd/confinement.ts";
import { environment } from "../vmd/environment.ts";
import type { GdbOption } from "../vmd/gdb-option.ts";
import type { Confinement } from "../vmd/vm-messages.ts";
import type { VcpuOptions } from "../vmd/vm-options.ts";
import type { EngineName } from "../vmm/engine-library.ts";
import { libraryPath } from "../vmm/native.ts";
import { programPath } from "../vmm/root.ts";
import { UsageError } from "./cli.ts";

/** What is to be run. Its file is the process's descriptor 3, a debugger's listening socket 4. */
export type GuestJob =
  | {
      readonly kind: "recording";
      readonly path: string;
      readonly until?: number;
      readonly console?: boolean;
      readonly registers?: boolean;
      readonly gdb?: GdbOption;
    }
  | {
      readonly kind: "trace";
      readonly path: string;
      /** The device models, without an engine. */
      readonly replay?: boolean;
      /** The guest, too. */
      readonly crossCheck?: EngineName;
    }
  /** On both engines at once; no descriptors. */
  | { readonly kind: "both"; readonly options: VcpuOptions };

/** What the process is told. */
export interface GuestOrder {
  readonly job: GuestJob;
  /** Absent: no sandbox. */
  readonly confine?: Confinement;
}

/** Not SIGHUP, which `nohup` has ignored. */
const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/**
 * @param descriptors 3 and 4 of the process; closed here
 * @param sandbox whether it is confined
 * @returns its exit status
 * @throws UsageError when it ended otherwise
 */
export async function runConfined(
  job: GuestJob,
  descriptors: readonly number[],
  sandbox: boolean,
): Promise<number> {
  const order: GuestOrder = { job, confine: sandbox ? ownConfinement() : undefined };
  const source = programPath("vctl/guest-process.ts");
  const program = [process.execPath, source, JSON.stringify(order)];
  const child = Bun.spawn(sandbox ? [libraryPath("vmd-launch"), ...program] : program, {
    stdio: ["ignore", "inherit", "inherit", ...descriptors],
    env: environment(),
  });
  for (const descriptor of descriptors) closeSync(descriptor);
  // This process has still to take away what it made.
  for (const signal of SIGNALS) process.on(signal, () => child.kill(signal));
  await child.exited;
  const { exitCode, signalCode } = child;
  if (signalCode === null) return exitCode ?? 1;
  // A terminal's ^C goes to both.
  const stopped = SIGNALS.find((signal) => signal === signalCode);
  if (stopped !== undefined) return 128 + constants.signals[stopped];
  const name = job.kind === "both" ? job.options.name : job.path;
  throw new UsageError(`${name}: the process that ran it ended with ${signalCode}`);
}
