/**
 * The VM process: one VM, in the one JavaScript thread. It is told what to run on descriptor 3,
 * confines itself, and then is inside the guest; the watching thread (native/watch.c) kicks it when
 * something comes.
 *
 * It is started by VmHost, alone in its namespaces, and ends with its VM, or when whoever started it
 * is gone.
 */
import { libraryPathOf } from "../vmm/engine-library.ts";
import type { EngineName } from "../vmm/engine.ts";
import { hostLibrary, ioLibrary, type Pointer, ptr, watchLibrary } from "../vmm/native.ts";
import { SnapshotError } from "../vmm/snapshot/format.ts";
import { type BootSet, FileError } from "./boot-files.ts";
import { HostDevices } from "./backend/devices.ts";
import { awaitStart } from "./await-start.ts";
import { Channel, pollInput, pollInputs } from "./channel.ts";
import { Watch } from "./console-hub.ts";
import { ExitObservers } from "./exit-observers.ts";
import type { MachineRecorder } from "./recording/machine-recorder.ts";
import { openWatch, type Preparation, settle } from "./preparation.ts";
import type { Attempt } from "./sandbox-probe.ts";
import { VmmciCommand } from "./virtio/vmmci.ts";
import { type LifeHost, VmLife } from "./vm-life.ts";
import { Migration } from "./migration/process.ts";
import type { Receiver } from "./migration/receiver.ts";
import { SnapshotTaker } from "./snapshot/taker.ts";
import { receiveLife, restoreLife, waitFor } from "./snapshot/restore-life.ts";
import { isExpected } from "./expected.ts";
import type { GuestMemory } from "../vmm/memory.ts";
import type { VirtioBackends } from "./machine.ts";
import type { GdbServer } from "./gdb/server.ts";
import type { Ending, FromVm, RestoreDescription, StartMessage } from "./vm-messages.ts";
import { VmControl } from "./vm-control.ts";
import type { VcpuOptions } from "./vm-options.ts";
import { VmStreams } from "./vm-streams.ts";

/** Where whoever started this process left the other end of its channel. */
const CHANNEL = 3;
/** How long a question may wait while the guest prints to a full debug port, ms. */
const LOOK = 100;

/** So many failures are told: a guest may cause any number. */
const TROUBLES = 100;

type RecordingModule = typeof import("./recording/machine-recorder.ts");

class VmProcess {
  readonly #channel: Channel;
  readonly #start: StartMessage;
  /** Absent: a restored guest whose kernel is no longer to be had. */
  readonly #set: BootSet | undefined;
  readonly #snapshots: number[] = [];
  /** Tells how much is there of the last of them. */
  readonly #progress: number | undefined;
  readonly #migration: Migration;
  readonly #observers: ExitObservers;
  readonly #attention: Int32Array;
  readonly #streams: VmStreams;
  readonly #started = Date.now();
  readonly #devices: HostDevices;
  readonly #control: VmControl;
  readonly #gdb: GdbServer | undefined;
  /** The process waited with a machine, confined. */
  #preparation: Preparation | undefined;
  #troubles = 0;
  /** It is no VM: nobody is told anything. */
  #quiet = false;
  /** Of a recording, those of machines that are gone. */
  #exitsBefore = 0;
  #life: VmLife | undefined;
  #receiver: Receiver | undefined;
  /** Input is let in by it alone. */
  readonly #recording: MachineRecorder | undefined;
  #probe: ((what: Attempt) => string) | undefined;
  /** The guest said that it shuts down: it isn't told again, however often the guest says it. */
  #announced = false;

  /** @param gdb loaded only for a VM with a debugger. @param recording absent where nothing is to be recorded */
  constructor(
    channel: Channel,
    start: StartMessage,
    descriptors: readonly number[],
    gdb: typeof GdbServer | undefined,
    recording: RecordingModule | undefined,
    preparation: Preparation | undefined,
  ) {
    this.#channel = channel;
    this.#start = start;
    this.#preparation = preparation;
    const pagemap = preparation?.pagemap ?? hostLibrary().vmm_pagemap_open();
    this.#migration = new Migration({
      channel: channel.descriptor,
      pagemap,
      post: (event) => this.#post({ kind: "migration", event }),
      flushDisks: () => this.#devices.flush(),
      attend: () => {
        this.#control.listen();
        this.#channel.flush();
        if (this.#control.stopped) throw new SnapshotError("stopped while it was received");
      },
    });
    const left = [...descriptors];
    const next = () => left.shift() as number;
    const { boot, restore, trace, record } = start.files;
    // What disks that come later need is loaded now.
    if (restore?.receive !== undefined) ioLibrary();
    this.#set = boot && {
      kernel: { path: boot.kernel, descriptor: next() },
      initrd: boot.initrd === undefined ? undefined : { path: boot.initrd, descriptor: next() },
      modules: boot.modules.map((module) => ({ ...module, descriptor: next() })),
    };
    for (const _ of restore?.inputs ?? []) this.#snapshots.push(next());
    if (restore?.later === true) this.#progress = next();
    const traced = trace === undefined ? undefined : { path: trace, descriptor: next() };
    this.#observers = new ExitObservers(traced, start);
    this.#attention = preparation?.attention ?? openWatch();
    if (recording !== undefined && record !== undefined) {
      const file = { path: record.path, descriptor: next() };
      this.#recording = new recording.MachineRecorder(file, {
        attention: this.#attention,
        attend: () => this.#attend(this.#life),
        stopped: () => this.#control.stopped,
      });
    }
    const watch = (descriptor: number, events: number) => {
      watchLibrary().vmm_watch(descriptor, events);
    };
    this.#streams = new VmStreams({
      attention: this.#attention,
      recorded: this.#recording !== undefined,
      watch,
      life: () => this.#life,
      typed: (stream, bytes) => this.#typed(stream, bytes),
      sleep: () => this.#sleep(),
    });
    const { vsock } = start.files;
    this.#devices = new HostDevices({
      disks: start.files.disks,
      cdrom: start.files.cdrom,
      interfaces: start.files.interfaces,
      next,
      balloon: start.options.devices?.includes("balloon") === true,
      console:
        start.options.devices?.includes("console") === true ? this.#streams.virtioPort : undefined,
      shares: start.files.shares,
      watch,
      vsock: vsock && {
        cid: vsock.cid,
        watch,
        ask: (id, port) => this.#post({ kind: "vsock-connect", id, port }),
        knock: () => this.#post({ kind: "vsock-knock" }),
        now: () => performance.now(),
      },
      repeatable: start.options.virtualTime === true,
      recording: this.#recording,
      failed: (why) => this.#trouble(why),
    });
    this.#control = new VmControl({
      channel,
      taker: new SnapshotTaker(pagemap, waitFor),
      migration: this.#migration,
      observers: this.#observers,
      streams: this.#streams,
      devices: this.#devices,
      recording: this.#recording,
      life: () => this.#life,
      exits: () => (this.#life?.vcpu.exits ?? this.#exitsBefore) - this.#exitsBefore,
      post: (message) => this.#post(message),
      probe: (what) => this.#probe?.(what) ?? "no probe",
    });
    watch(channel.descriptor, Watch.INPUT);
    this.#gdb =
      gdb &&
      new gdb({
        listener: next(),
        channel: channel.descriptor,
        watch,
        kill: () => (this.#control.stopped = true),
      });
    this.#devices.watch();
    if (start.terminal) {
      this.#streams.hub("console").add(next(), { terminal: true });
      // The slave stays open here, so that the master has somebody at its other end.
      next();
    }
    for (const attachment of start.attached)
      this.#streams.hub(attachment.stream).add(next(), attachment);
  }

  /** Runs the VM to its end. */
  run(): Ending {
    const { options } = this.#start;
    const { engine, why, unconfined, probe } =
      this.#preparation?.ground ?? settle(options.engine, this.#start.confine);
    this.#probe = probe;
    for (let lives = 0; ; lives++) {
      using life = this.#begin(engine, lives === 0, (memory) => this.#devices.connect(memory));
      if (lives === 0) {
        const { description: boot, prefetched } = life;
        this.#post({ kind: "running", engine, why, boot, unconfined, prefetched });
        this.#receiver?.running();
      }
      const ending = this.#live(life);
      if (this.#isLast(ending)) return ending;
      this.#post({ kind: "rebooted", by: ending.message });
    }
  }

  #isLast({ kind }: Ending): boolean {
    return (
      kind !== "reset" ||
      this.#start.options.reboot === false ||
      this.#control.stopped ||
      this.#control.leaving
    );
  }

  /** Begins with the machine that the process waits with, which stays as it is then. @throws what isExpected knows */
  tryOn({ ground }: Preparation, backends: () => VirtioBackends): void {
    this.#quiet = true;
    this.#begin(ground.engine, true, backends).leave();
    // Nothing that comes for it is to wake anybody before it runs.
    watchLibrary().vmm_watch(this.#channel.descriptor, Watch.NOTHING);
  }

  #begin(
    engine: EngineName,
    first: boolean,
    backends: (memory: GuestMemory) => VirtioBackends,
  ): VmLife {
    const { options, files } = this.#start;
    // What time it is for the guest goes on over its resets; runs that repeat begin anew.
    const passed = options.virtualTime ? 0 : Date.now() - this.#started;
    const lifeOptions = { ...options, epoch: options.epoch + passed };
    const host: LifeHost = {
      ...this.#streams.ports,
      acknowledged: (command) => {
        if (command === VmmciCommand.REBOOT) this.#post({ kind: "acknowledged" });
      },
      shuttingDown: () => {
        if (this.#announced) return;
        this.#announced = true;
        this.#post({ kind: "shutting-down" });
      },
      backends,
      broke: (device, why) => this.#trouble(`${device}: its driver broke a rule: ${why}`),
      // Runs that repeat, and such as are to be replayed, know no time but their own.
      hostTime: options.virtualTime || files.trace !== undefined ? undefined : Date.now,
    };
    let life: VmLife;
    if (first && files.restore !== undefined) {
      life = this.#restore(engine, lifeOptions, files.restore, host);
    } else {
      if (this.#set === undefined) {
        throw new FileError("the guest reset its machine, and what it boots from is not to be had");
      }
      life = VmLife.boot(engine, lifeOptions, this.#set, host);
      life.machine.balloon?.target(this.#control.balloonTarget);
    }
    this.#announced = false;
    this.#recording?.begin(life, JSON.parse(files.record?.config ?? "{}") as object);
    this.#exitsBefore = life.vcpu.exits;
    life.vcpu.attention = this.#attention;
    this.#gdb?.begin(life);
    this.#life = life;
    this.#streams.begin();
    return life;
  }

  #restore(
    engine: EngineName,
    options: VcpuOptions,
    restore: RestoreDescription,
    host: LifeHost,
  ): VmLife {
    const files = this.#snapshots.splice(0);
    let life: VmLife;
    if (restore.receive === undefined) {
      const prepared = restore.prepared ? this.#preparation?.machine : undefined;
      this.#preparation = undefined;
      const hears = this.#progress;
      const later =
        hears === undefined
          ? undefined
          : { hears, wait: (open: boolean) => this.#waitForMore(open ? [hears] : []) };
      life = restoreLife(engine, options, restore, host, files, { prepared, later });
    } else {
      this.#receiver = this.#migration.receive(files[0], restore.receive.answers);
      life = receiveLife(engine, options, restore, host, this.#receiver, this.#devices);
    }
    this.#control.balloonTarget = life.machine.balloon?.wanted ?? 0;
    life.machine.syncTime();
    const { clone } = restore;
    if (clone !== undefined) life.machine.vmmci.generation = Buffer.from(clone.generation, "hex");
    return life;
  }

  /** @returns whether all is written */
  #waitForMore(hears: readonly number[]): boolean {
    this.#control.listen(["written", "stop"]);
    if (this.#control.stopped) throw new SnapshotError("stopped while its snapshot was written");
    if (!this.#control.written) pollInputs([...hears, this.#channel.descriptor], LOOK);
    return this.#control.written;
  }

  #live(life: VmLife): Ending {
    const { options } = this.#start;
    this.#observers.begin(life);
    const path = Buffer.from(`${libraryPathOf(life.engine.name)}\0`);
    const target = (handle: number) =>
      watchLibrary().vmm_watch_target(ptr(path), (handle || null) as Pointer);
    using _ = { [Symbol.dispose]: () => void target(0) };
    // A kick would be an exit that no other run has.
    const recording = this.#recording;
    if (recording === undefined) target(life.engine.handle);
    try {
      for (;;) {
        if (recording === undefined) this.#attend(life);
        if (this.#migration.sent) {
          const message = `${options.name}: sent to another place`;
          return { kind: "stopped", code: 0, message, registers: "" };
        }
        if (this.#control.stopped) {
          life.machine.flush();
          const why = this.#observers.flush();
          if (why !== undefined) return life.ending({ kind: "crash", why });
          const message = `${options.name}: stopped`;
          return this.#recorded({ kind: "stopped", code: 0, message, registers: "" });
        }
        const stop = this.#gdb === undefined ? life.vcpu.run() : this.#gdb.run();
        if (stop.kind === "attention" || stop.kind === "debug") continue;
        life.machine.flush();
        const why = this.#observers.flush();
        return this.#recorded(life.ending(why === undefined ? stop : { kind: "crash", why }));
      }
    } finally {
      this.#migration.abandon();
      this.#control.abandon("the guest reset its machine, ended, or was sent");
      this.#devices.abandon();
      this.#observers.end();
      this.#life = undefined;
    }
  }

  /** The recording ends with the VM, and goes on over its resets. */
  #recorded(ending: Ending): Ending {
    const recording = this.#recording;
    if (recording === undefined || recording.failure !== undefined) return ending;
    let image: string | undefined;
    if (this.#isLast(ending)) image = recording.end(ending.message, ending.kind === "stopped");
    else recording.reset(ending.message);
    const why = recording.failure;
    if (why === undefined) return { ...ending, image };
    return { ...ending, kind: "crash", code: 1, message: why };
  }

  /** Looks at everything that may have come. */
  #attend(life: VmLife | undefined): void {
    do {
      if (this.#migration.frozen) this.#migration.sleep();
      else if (this.#control.paused) this.#sleep();
      Atomics.store(this.#attention, 0, 0);
      this.#control.listen();
      this.#channel.flush();
      this.#streams.flush();
      // What comes for the guest waits until it is known where it runs.
      if (this.#migration.serve()) continue;
      this.#control.copy();
      this.#streams.read();
      this.#devices.vsock?.attend();
      // The recorder does it where something came.
      if (this.#recording === undefined) life?.machine.idle();
    } while ((this.#control.paused || this.#migration.frozen) && !this.#control.stopped);
  }

  #sleep(): void {
    if (Atomics.load(this.#attention, 0) !== 0) return;
    pollInput(this.#channel.descriptor, LOOK);
  }

  #typed(stream: "console" | "virtio", bytes: Uint8Array): void {
    if (stream === "virtio") {
      this.#recording?.virtioConsole(bytes);
      return;
    }
    this.#observers.input(bytes);
    this.#recording?.console(bytes);
  }

  /** Gives the rest of the output to who is to lose nothing, unless they are gone or stop it. */
  drain(): void {
    while (this.#streams.pending && !this.#control.stopped) {
      this.#attend(undefined);
      if (this.#streams.pending) this.#sleep();
    }
  }

  /** Tells a debugger that the VM is gone. */
  leaveDebugger(code: number): void {
    this.#gdb?.end(code);
  }

  /** Closes what the devices lead to. */
  close(): void {
    // Another VM writes to the disks.
    if (this.#migration.sent) return;
    for (const why of this.#devices.close()) this.#trouble(why);
  }

  /** For the log; a guest can cause many. */
  #trouble(text: string): void {
    if (++this.#troubles <= TROUBLES) this.#post({ kind: "trouble", text });
  }

  #post(message: FromVm): void {
    if (this.#quiet) return;
    if (!this.#channel.send(message)) process.exit(1);
  }
}

async function main(): Promise<void> {
  const channel = new Channel(CHANNEL);
  const { start, descriptors, preparation } = awaitStart(
    channel,
    (waits, tried, given, backends) => {
      const vm = new VmProcess(channel, tried, given, undefined, undefined, waits);
      vm.tryOn(waits, backends);
    },
  );
  const end = (message: FromVm) => {
    channel.send(message);
    while (channel.backlog > 0 && channel.flush()) Bun.sleepSync(1);
    process.exit(0);
  };
  try {
    // Nothing is loaded once the process is confined.
    const gdb = start.files.gdb === true ? (await import("./gdb/server.ts")).GdbServer : undefined;
    const recording =
      start.files.record === undefined
        ? undefined
        : await import("./recording/machine-recorder.ts");
    const vm = new VmProcess(channel, start, descriptors, gdb, recording, preparation);
    const ending = vm.run();
    vm.leaveDebugger(ending.code);
    vm.close();
    vm.drain();
    end({ kind: "ended", ending });
  } catch (error) {
    const text = isExpected(error)
      ? error.message
      : `internal error: ${(error as Error).stack ?? error}`;
    end({ kind: "failed", message: `${start.options.name}: ${text}`.slice(0, 4000) });
  }
}

void main();
