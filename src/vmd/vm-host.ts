/**
 * A VM process, as whoever started it sees it: the daemon, or a program that holds a Vm.
 */
import { closeSync } from "node:fs";
import { type BootSet, bootSetFiles } from "./boot-files.ts";
import type { DiskDescription, InterfaceDescription, OpenedInterface } from "./descriptions.ts";
import { Channel } from "./channel.ts";
import { diskDescriptors } from "./disk/index.ts";
import type { OpenedDisk } from "./disk-files.ts";
import { connectDescriptor } from "./descriptor-socket.ts";
import type {
  Attachment,
  Confinement,
  Ending,
  FromVm,
  PrepareMessage,
  RestoreDescription,
  SnapshotResult,
  StartMessage,
  StreamName,
  ToVm,
} from "./vm-messages.ts";
import { type VcpuOptions, VmError } from "./vm-options.ts";
import { parseFromVm } from "./vm-schema.ts";
import type { GdbHost } from "./gdb-host.ts";
import type { OpenedShare } from "./shares.ts";
import type { VsockHost } from "./vsock-host.ts";
import { WarmProcess } from "./warm-process.ts";

/** What a VM process says when its guest is about to run. */
export type Running = Extract<FromVm, { kind: "running" }>;

/** No VM process has that much to say in a second; one that has is not obeying. */
const MESSAGES_PER_SECOND = 2000;
/** How long the process may take to go after its last word, ms. */
const LINGER = 2000;
/** How long messages wait for a process that takes none, ms, before they are tried again. */
const RETRY = 20;

/** What a VM is started with. */
export interface VmLaunch {
  options: VcpuOptions;
  /** What it boots from; absent only where it is restored, and then the guest can't be reset. */
  files?: BootSet;
  /** Snapshots that it goes on from, each based on the one before. */
  restore?: RestoreLaunch;
  /** An open file for the trace of its exits. */
  trace?: { path: string; descriptor: number };
  /** An open file for a recording, and what its CONFIG record says. */
  record?: { path: string; descriptor: number; config: object };
  disks?: readonly OpenedDisk[];
  cdrom?: OpenedDisk;
  interfaces?: readonly OpenedInterface[];
  /** The host's end of a socket device; disposed of when the process is gone. */
  vsock?: VsockHost;
  /** Where a debugger connects; disposed of when the process is gone. */
  gdb?: GdbHost;
  shares?: readonly OpenedShare[];
  /** A pty: master and slave. */
  terminal?: { master: number; slave: number };
  /** Streams that are followed from the first byte on; their sockets are in `attached`. */
  attach?: readonly Attachment[];
  /** Absent: no sandbox. */
  confine?: Confinement;
  /** Default: a new one. */
  process?: WarmProcess;
}

export interface SnapshotRequest {
  /** Pages are compressed. */
  compress?: boolean;
  differential?: boolean;
  /** See TakeRequest. */
  template?: boolean;
  /** A socket on which who reads it meanwhile is told how much of it is there; closed here. */
  told?: number;
  /** The VM ends when it is written; not when it can't be. */
  stop?: boolean;
  /** Memory is copied while the guest runs, which stands still for about so long, ms. */
  downtime?: number;
  /** See TakeRequest. */
  window?: number;
  /** Empty images, based on what a disk's is now; closed by the VM's process. */
  overlays?: readonly { place: number; name: string; descriptor: number }[];
}

/** Snapshots, open. */
export interface RestoreLaunch extends Omit<RestoreDescription, "inputs" | "later"> {
  /** The last of them is being written; absent: all are there. */
  later?: {
    /** A socket that tells how much of it is there; closed here. See ProgressSource. */
    hears: number;
    /** Resolves when it is as it will be; else the process is ended. */
    written: Promise<unknown>;
  };
  inputs: readonly ({ descriptor: number } & RestoreDescription["inputs"][number])[];
}

function describedInterface(opened: OpenedInterface): InterfaceDescription {
  const { kind, mac, locked, mtu, limits, lease } = opened;
  return { kind, mac, locked, mtu, limits, lease };
}

/** As its process is told of it. */
export function describedDisk({ files, ...disk }: OpenedDisk): DiskDescription {
  return {
    ...disk,
    files: files.map(({ name, format, direct }) => {
      return { name, format, alignment: direct?.alignment };
    }),
  };
}

/** Sockets for what is attached. @throws NativeError: then the process is not to be used */
function openPairs(count: number, started: WarmProcess): [number, number][] {
  const pairs: [number, number][] = [];
  try {
    while (pairs.length < count) pairs.push(Channel.pair(true));
    return pairs;
  } catch (error) {
    for (const descriptor of pairs.flat()) closeSync(descriptor);
    started.discard();
    throw error;
  }
}

interface Question {
  kind: FromVm["kind"];
  resolve: (message: never) => void;
  reject: (error: VmError) => void;
}

export class VmHost {
  readonly name: string;
  readonly pid: number;
  /** Resolves when the process is gone. Never rejects. */
  readonly ended: Promise<Ending>;
  /** Sockets of what was attached at the start, in that order; the caller's to close. */
  readonly attached: readonly number[];
  /** Told of what nobody asked for: reboots, acknowledgements. */
  onEvent: ((event: FromVm) => void) | undefined;
  readonly #channel: Channel;
  readonly #process: Bun.Subprocess;
  readonly #vsock: VsockHost | undefined;
  readonly #gdb: GdbHost | undefined;
  readonly #shares: readonly OpenedShare[];
  readonly #start: StartMessage;
  /** All snapshots that it went on from. */
  readonly #inputs: RestoreDescription["inputs"];
  readonly #cpuid: RestoreDescription["cpuid"];
  readonly #questions: Question[] = [];
  readonly #running = Promise.withResolvers<Running>();
  #ending: Ending | undefined;
  #failure: string | undefined;
  #over = false;
  #messages = 0;
  #second = 0;
  #stopAsked = false;
  /** A snapshot of a guest that runs is being written. */
  #copying = false;

  /**
   * Starts a VM process. It owns the descriptors from then on: they are closed here.
   * @throws an errno error, NativeError when there is no process to be had, or no socket: nothing is taken
   */
  constructor(launch: VmLaunch) {
    const {
      options,
      files,
      restore,
      trace,
      record,
      disks = [],
      cdrom,
      interfaces = [],
      vsock,
      gdb,
      shares = [],
      terminal,
      attach = [],
      confine,
      process: started = new WarmProcess(confine),
    } = launch;
    const pairs = openPairs(attach.length, started);
    this.name = options.name;
    this.#channel = started.channel;
    this.#process = started.process;
    const ours = this.#channel.descriptor;
    this.pid = this.#process.pid;
    this.ended = this.#process.exited.then(() => this.#exited());
    this.#running.promise.catch(() => {});
    void connectDescriptor(ours, {
      data: (_, data) => this.#receive(data.toString()),
      close: () => {},
    });
    const descriptors =
      files === undefined ? [] : bootSetFiles(files).map(({ descriptor }) => descriptor);
    // What the process has in its machine already, it isn't given again.
    const inputs = restore?.inputs ?? [];
    const rest = inputs.slice(started.prepared);
    for (const { descriptor } of rest) descriptors.push(descriptor);
    if (restore?.later !== undefined) descriptors.push(restore.later.hears);
    if (trace !== undefined) descriptors.push(trace.descriptor);
    if (record !== undefined) descriptors.push(record.descriptor);
    const discs = cdrom === undefined ? disks : [...disks, cdrom];
    for (const disk of discs) descriptors.push(...diskDescriptors(disk.files));
    descriptors.push(...interfaces.map(({ descriptor }) => descriptor));
    this.#vsock = vsock;
    this.#shares = shares;
    descriptors.push(...shares.map(({ host }) => host.descriptor));
    if (vsock !== undefined) {
      descriptors.push(vsock.listener());
      vsock.tell = (message, descriptors) => this.tell(message, descriptors);
    }
    this.#gdb = gdb;
    if (gdb !== undefined) descriptors.push(gdb.take());
    if (terminal !== undefined) descriptors.push(terminal.master, terminal.slave);
    this.attached = pairs.map(([ours]) => ours);
    descriptors.push(...pairs.map(([, theirs]) => theirs));
    const described = (some: RestoreLaunch["inputs"]) => {
      return some.map(({ stream, verify, eager }) => ({ stream, verify, eager }));
    };
    const start: StartMessage = {
      kind: "start",
      options,
      files: {
        boot: files && {
          kernel: files.kernel.path,
          initrd: files.initrd?.path,
          modules: (files.modules ?? []).map(({ path, args }) => ({ path, args })),
        },
        restore: restore && {
          ...restore,
          inputs: described(rest),
          later: restore.later === undefined ? undefined : true,
          // The machine's processor is what it is.
          ...(started.prepared > 0 ? { prepared: true as const, cpuid: [] } : {}),
        },
        trace: trace?.path,
        record: record && { path: record.path, config: JSON.stringify(record.config) },
        disks: disks.map(describedDisk),
        cdrom: cdrom && describedDisk(cdrom),
        interfaces: interfaces.map(describedInterface),
        vsock: vsock && { cid: vsock.cid },
        gdb: gdb === undefined ? undefined : true,
        shares: shares.map(({ tag }) => tag),
      },
      terminal: terminal !== undefined,
      attached: [...attach],
      confine,
    };
    this.tell(start, descriptors);
    for (const { descriptor } of inputs.slice(0, started.prepared)) closeSync(descriptor);
    restore?.later?.written.then(
      () => this.tell({ kind: "written" }),
      () => this.kill(),
    );
    this.#start = start;
    this.#inputs = described(inputs);
    this.#cpuid = restore?.cpuid ?? [];
  }

  /**
   * What has another process wait with the machine that this VM went on from.
   * @param count so many of its snapshots: the others will be others
   * @returns undefined: there is more to its start
   */
  preparation(count = Infinity): PrepareMessage | undefined {
    const { options, files } = this.#start;
    const { restore, trace, record, vsock, gdb, shares } = files;
    if (restore === undefined || restore.receive !== undefined) return undefined;
    if (options.virtualTime || this.#inputs.some(({ stream }) => stream)) return undefined;
    if (trace !== undefined || record !== undefined || gdb !== undefined) return undefined;
    if (vsock !== undefined || shares.length > 0) return undefined;
    // Its name, console and what it would boot from at a reset come with the VM.
    const inputs = this.#inputs.slice(0, count).map((input) => ({ ...input, verify: false }));
    const cpuid = this.#cpuid;
    const mine = { prepared: undefined, later: undefined, clone: undefined };
    const plain = { ...restore, inputs, cpuid, ...mine };
    const start = {
      ...this.#start,
      files: { ...files, boot: undefined, restore: plain },
      terminal: false,
      attached: [],
    };
    return { kind: "prepare", start };
  }

  /** Resolves when the first instruction is about to run. @throws VmError when it can't be started */
  get running(): Promise<Running> {
    return this.#running.promise;
  }

  /** Sends a message; descriptors are closed here. */
  tell(message: ToVm, descriptors: readonly number[] = []): void {
    if (this.#over) {
      for (const descriptor of descriptors) closeSync(descriptor);
      return;
    }
    this.#channel.send(message, descriptors);
    this.#retry();
  }

  /** @throws VmError when the VM ends before it answers. */
  async ask<K extends FromVm["kind"]>(
    message: ToVm,
    kind: K,
    descriptors: readonly number[] = [],
  ): Promise<Extract<FromVm, { kind: K }>> {
    if (this.#over) {
      for (const descriptor of descriptors) closeSync(descriptor);
      throw new VmError(`${this.name} is not running`);
    }
    const { promise, resolve, reject } = Promise.withResolvers<Extract<FromVm, { kind: K }>>();
    this.#questions.push({ kind, resolve, reject });
    this.tell(message, descriptors);
    return await promise;
  }

  /** A socket on which a stream's output comes, and on which can be typed. The caller's to close. */
  attach(stream: StreamName, { lossless = false, late = false } = {}): number {
    const [ours, theirs] = Channel.pair(true);
    this.tell({ kind: "attach", stream, lossless, late }, [theirs]);
    return ours;
  }

  /**
   * Writes a snapshot.
   * @param descriptor a file or a stream; it is closed here
   * @param config of its CONFIG record, what the VM's process doesn't know
   * @throws VmError
   */
  async snapshot(
    descriptor: number,
    config: object,
    request: SnapshotRequest = {},
  ): Promise<SnapshotResult> {
    const { compress = false, differential = false, template = false } = request;
    const { overlays = [], stop = false, told } = request;
    const descriptors = [descriptor, ...overlays.map((overlay) => overlay.descriptor)];
    if (told !== undefined) descriptors.push(told);
    if (this.#copying) {
      for (const one of descriptors) closeSync(one);
      throw new VmError(`${this.name}: no snapshot: one is being written already`);
    }
    const message = {
      kind: "snapshot",
      config: JSON.stringify(config),
      compress,
      differential,
      template,
      told: told !== undefined,
      overlays: overlays.map(({ place, name }) => ({ place, name })),
      stop,
      downtime: request.downtime,
      window: request.window,
    } as const;
    if (stop) this.#stopAsked = true;
    this.#copying = request.downtime !== undefined;
    const asked = this.ask(message, "snapshot", descriptors);
    const { result } = await asked.finally(() => (this.#copying = false));
    if (result.failure !== undefined) throw new VmError(`${this.name}: ${result.failure}`);
    return result;
  }

  /** A socket to which an interface's frames are copied, as pcap. The caller's to close. */
  capture(place: number): number {
    const [ours, theirs] = Channel.pair(true);
    this.tell({ kind: "capture", place }, [theirs]);
    return ours;
  }

  /** Stops the vCPU at once, in order. */
  stop(): void {
    this.#stopAsked = true;
    this.tell({ kind: "stop" });
  }

  /** Ends the process without asking it. */
  kill(): void {
    this.#stopAsked = true;
    this.#process.kill("SIGKILL");
  }

  #retry(): void {
    if (this.#over || this.#channel.backlog === 0) return;
    setTimeout(() => {
      if (this.#over) return;
      this.#channel.flush();
      this.#retry();
    }, RETRY);
  }

  #receive(text: string): void {
    const second = Math.floor(performance.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#messages = 0;
    }
    if (++this.#messages > MESSAGES_PER_SECOND) {
      this.#failure = `${this.name}: its process says too much`;
      this.kill();
      return;
    }
    const message = parseFromVm(text);
    if (message === undefined) {
      this.#failure = `${this.name}: its process says what is no message`;
      this.kill();
      return;
    }
    this.#hear(message);
  }

  #hear(message: FromVm): void {
    switch (message.kind) {
      case "running":
        this.#running.resolve(message);
        return;
      case "failed":
        this.#failure = message.message;
        this.#running.reject(new VmError(message.message));
        this.#linger();
        return;
      case "ended":
        this.#ending = message.ending;
        this.#linger();
        return;
      case "vsock-connect":
        this.#vsock?.connect(message.id, message.port);
        return;
      case "vsock-knock":
        this.#vsock?.accept();
        return;
      default: {
        const index = this.#questions.findIndex(({ kind }) => kind === message.kind);
        if (index >= 0) this.#questions.splice(index, 1)[0].resolve(message as never);
        else this.onEvent?.(message);
      }
    }
  }

  #linger(): void {
    setTimeout(() => this.#process.kill("SIGKILL"), LINGER).unref();
  }

  #exited(): Ending {
    this.#over = true;
    this.#vsock?.[Symbol.dispose]();
    this.#gdb?.[Symbol.dispose]();
    for (const { host } of this.#shares) host.stop();
    const { exitCode, signalCode } = this.#process;
    const how = signalCode === null ? `code ${exitCode}` : signalCode;
    const died = `${this.name}: its process ended with ${how}`;
    const ending: Ending = this.#ending ?? {
      kind: this.#failure === undefined && this.#stopAsked ? "stopped" : "crash",
      code: this.#failure === undefined && this.#stopAsked ? 0 : 1,
      message: this.#failure ?? (this.#stopAsked ? `${this.name}: stopped` : died),
      registers: "",
    };
    this.#running.reject(new VmError(ending.message));
    for (const { reject } of this.#questions) reject(new VmError(ending.message));
    return ending;
  }
}
