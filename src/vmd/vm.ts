/**
 * A virtual machine as a value: it runs in a process of its own, and this object is what the rest
 * of a program holds.
 *
 * ```ts
 * await using vm = await Vm.start({ kernel: "vmlinuz", initrd: "initrd.gz", memory: "256M" });
 * await vm.console.expect("login:");
 * ```
 */
import { closeSync } from "node:fs";
import type { EngineName } from "../vmm/engine-library.ts";
import { openBootFiles, openTraceFile } from "./boot-files.ts";
import { type ConnectedStream, connectStream } from "./console-socket.ts";
import type { ConsoleStream } from "./console-stream.ts";
import { openDisc, openVmDisk } from "./disk-files.ts";
import { parseDiskArgument } from "./disk/index.ts";
import { ownConfinement } from "./confinement.ts";
import { type Running, VmHost, type VmLaunch } from "./vm-host.ts";
import type { ExitCount } from "./exit-counter.ts";
import { countExits } from "./exit-counts.ts";
import type { BalloonState, Ending, SnapshotResult, VmStatistics } from "./vm-messages.ts";
import { SnapshotBase } from "./snapshot/base.ts";
import { type OpenedSnapshot, openSnapshot } from "./snapshot/chain.ts";
import { disksToGoOn } from "./snapshot/disks.ts";
import {
  bootFilesIfThere,
  newId,
  restoredOptions,
  type RestoreOverrides,
  restoreLaunch,
  snapshotConfig,
} from "./snapshot/restored.ts";
import { SNAPSHOT_DOWNTIME, writeSnapshot } from "./snapshot/write.ts";
import { type OpenedShare, openShares } from "./shares.ts";
import { GdbHost } from "./gdb-host.ts";
import { VsockHost } from "./vsock-host.ts";
import { checkVmOptions, type VcpuOptions, VmError, type VmOptions } from "./vm-options.ts";

export type { Ending, VmStatistics } from "./vm-messages.ts";
export { type VcpuOptions, VmError, type VmOptions } from "./vm-options.ts";

/** What a guest did to its machine. */
export type VmEvent =
  /** It reset it, and starts again. */
  | { kind: "rebooted"; by: string }
  /** It has seen that it is to shut down. */
  | { kind: "acknowledged" }
  /** It is about to halt, power off or reset, of its own accord. */
  | { kind: "shutting-down" }
  /** Something of the host or of a driver in the guest failed. */
  | { kind: "trouble"; text: string };

function isVmEvent(event: { kind: string }): event is VmEvent {
  return ["rebooted", "acknowledged", "shutting-down", "trouble"].includes(event.kind);
}

const STREAMS = ["console", "debug", "virtio"] as const;

export class Vm implements AsyncDisposable {
  readonly name: string;
  /** Of the VM's process. */
  readonly pid: number;
  /** The first serial port. */
  readonly console: ConsoleStream;
  /** The virtio console, if the VM has one. */
  readonly virtio: ConsoleStream;
  /** What firmware writes to the debug ports 0x402 and 0xe9; takes no input. */
  readonly debug: ConsoleStream;
  /** Resolves when the VM is gone, and all it said has been heard. Never rejects. */
  readonly ended: Promise<Ending>;
  /** What is in use, and why not a better one. */
  readonly engine: EngineName;
  readonly engineReason: string;
  /** What was booted. */
  readonly boot: string;
  /** What of the sandbox is not there, as a sentence; empty when all is. */
  readonly unconfined: string;
  /** Pages that are read beside the guest; absent without `prefetch`, or where nobody knows which. */
  readonly prefetched: number | undefined;
  readonly #host: VmHost;
  readonly #options: VcpuOptions;
  readonly #base = new SnapshotBase();
  readonly #listeners = new Set<(event: VmEvent) => void>();

  private constructor(
    host: VmHost,
    options: VcpuOptions,
    running: Running,
    streams: readonly ConnectedStream[],
  ) {
    this.#options = options;
    this.name = host.name;
    this.pid = host.pid;
    [this.console, this.debug, this.virtio] = streams.map(({ stream }) => stream);
    this.engine = running.engine;
    this.engineReason = running.why;
    this.boot = running.boot;
    this.unconfined = running.unconfined;
    this.prefetched = running.prefetched;
    this.#host = host;
    host.onEvent = (event) => {
      if (!isVmEvent(event)) return;
      for (const listener of this.#listeners) listener(event);
    };
    this.ended = host.ended.then(async (ending) => {
      await Promise.all(streams.map((stream) => stream.finish()));
      return ending;
    });
  }

  /**
   * Starts a VM; resolves when its first instruction is about to run.
   * @throws VmError with a sentence when a file, a size or the host won't do.
   */
  static async start(options: VmOptions): Promise<Vm> {
    const checked = checkVmOptions(options);
    return await Vm.#launch(checked, () => ({ files: openBootFiles(checked) }));
  }

  /**
   * Goes on where a snapshot left a machine.
   * @param overrides what is another than in the snapshot; its interfaces have to be given again
   * @param verify see openSnapshot
   * @param prefetch pages that its guest touched before the snapshot are read and mapped beside it
   * @throws VmError with a sentence
   */
  static async restore(
    path: string,
    overrides: RestoreOverrides = {},
    { verify, prefetch }: { verify?: boolean; prefetch?: boolean } = {},
  ): Promise<Vm> {
    let opened: OpenedSnapshot | undefined;
    try {
      opened = openSnapshot(path, { verify });
      const { config, inputs, used } = opened;
      const disks = overrides.disks ?? disksToGoOn(config, path);
      const checked = restoredOptions(config, { ...overrides, disks });
      const restore = { ...restoreLaunch(config, inputs), prefetch };
      const launch = { files: bootFilesIfThere(checked), restore };
      opened = undefined;
      const vm = await Vm.#launch(checked, () => launch);
      used();
      return vm;
    } catch (error) {
      for (const { descriptor } of opened?.inputs ?? []) closeSync(descriptor);
      throw error instanceof VmError ? error : new VmError((error as Error).message);
    }
  }

  static async #launch(
    checked: VcpuOptions,
    boot: () => Pick<VmLaunch, "files" | "restore">,
  ): Promise<Vm> {
    const { name } = checked;
    let host: VmHost;
    let vsock: VsockHost | undefined;
    let gdb: GdbHost | undefined;
    let shares: OpenedShare[] = [];
    const confine = checked.sandbox === false ? undefined : ownConfinement();
    try {
      shares = await openShares(checked.shares ?? [], { confine });
      vsock = checked.vsock && new VsockHost(checked.vsock);
      gdb = checked.gdb && new GdbHost(checked.gdb);
      const disks = (checked.disks ?? []).map((disk) =>
        openVmDisk(typeof disk === "string" ? parseDiskArgument(disk) : disk),
      );
      const trace =
        checked.traceExits === undefined ? undefined : openTraceFile(checked.traceExits);
      const record =
        checked.record === undefined
          ? undefined
          : {
              ...openTraceFile(checked.record),
              config: snapshotConfig(checked, newId()),
            };
      host = new VmHost({
        options: checked,
        ...boot(),
        trace,
        record,
        disks,
        cdrom: checked.cdrom === undefined ? undefined : openDisc(checked.cdrom),
        interfaces: checked.interfaces,
        vsock,
        gdb,
        shares,
        attach: STREAMS.map((stream) => ({ stream, lossless: true, late: false })),
        confine,
      });
    } catch (error) {
      vsock?.[Symbol.dispose]();
      gdb?.[Symbol.dispose]();
      for (const share of shares) share.host.stop();
      throw new VmError(`${name}: ${(error as Error).message}`);
    }
    const streams = await Promise.all(host.attached.map(connectStream));
    const running = await host.running;
    return new Vm(host, checked, running, streams);
  }

  /**
   * How much memory the guest has given away, bytes.
   * @param target how much it is to give away.
   * @returns undefined when the VM has no balloon.
   */
  async balloon(target?: number): Promise<BalloonState | undefined> {
    return (await this.#host.ask({ kind: "balloon", target }, "balloon")).balloon;
  }

  /** Stops the vCPU at once and gives back everything. */
  async stop(): Promise<Ending> {
    this.#host.stop();
    return await this.ended;
  }

  /**
   * Asks the guest to shut down, by vmmci; with `reset`, to start again. Where VMs end at a reset
   * (`reboot: false`) that is the same.
   * @returns whether it has a driver for that, and so was asked. Its end is `ended`; that it has
   * seen it, and its start, are events.
   */
  async shutdown({ reset = false }: { reset?: boolean } = {}): Promise<boolean> {
    return (await this.#host.ask({ kind: "shutdown", reset }, "shutdown")).asked;
  }

  /**
   * Writes the machine into a file, from which `Vm.restore` goes on. Unless it is paused the guest
   * first runs on for 100 ms, in which the pages that it touches are noted. Then it stands still, and
   * goes on when all is written: then its disks, which must be qcow2, are frozen, and new images based
   * on them are at their names. With `stop` the VM ends, and its disks stay as they are.
   * @param path of a file that isn't there yet
   * @param differential only what changed since the VM's last snapshot, whose file then has to stay
   * where it is. The first one that is asked for so holds all, and from then on changes are noted.
   * @param live memory is copied while the guest runs, which then stands still for about so long, ms,
   * or 100 ms
   * @throws VmError
   */
  async snapshot(
    path: string,
    options: {
      compress?: boolean;
      stop?: boolean;
      differential?: boolean;
      live?: boolean | number;
    } = {},
  ): Promise<SnapshotResult> {
    try {
      const { live = false, ...request } = options;
      const downtime = live === true ? SNAPSHOT_DOWNTIME : live || undefined;
      const write = { ...request, downtime, base: this.#base };
      return await writeSnapshot(this.#host, this.#options, path, write);
    } catch (error) {
      throw error instanceof VmError
        ? error
        : new VmError(`${this.name}: ${(error as Error).message}`);
    }
  }

  /** The guest doesn't run until unpause; its clock goes on. */
  pause(): void {
    this.#host.tell({ kind: "pause" });
  }

  unpause(): void {
    this.#host.tell({ kind: "unpause" });
  }

  /** The CPU's registers as text. */
  async registers(): Promise<string> {
    return (await this.#host.ask({ kind: "registers" }, "registers")).text;
  }

  /**
   * Follows what the guest does to its machine.
   * @returns a function that ends that.
   */
  onEvent(listener: (event: VmEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Counts exits by reason and place. @param time for so long, ms. @throws VmError */
  async exits(time = 1000): Promise<ExitCount[]> {
    return (await countExits(this.#host, time)).counts;
  }

  async statistics(): Promise<VmStatistics> {
    return (await this.#host.ask({ kind: "statistics" }, "statistics")).statistics;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
