/**
 * What whoever started a VM's process tells it: messages on its channel, obeyed between two entries of the
 * guest, and what is wanted of the VM by them.
 */
import { closeSync } from "node:fs";
import { watchLibrary } from "../vmm/native.ts";
import type { HostDevices } from "./backend/devices.ts";
import type { Channel } from "./channel.ts";
import type { ExitObservers } from "./exit-observers.ts";
import type { Migration } from "./migration/process.ts";
import type { MachineRecorder } from "./recording/machine-recorder.ts";
import type { Attempt } from "./sandbox-probe.ts";
import type { SnapshotTaker, Taken } from "./snapshot/taker.ts";
import { VmmciCommand } from "./virtio/vmmci.ts";
import type { VmLife } from "./vm-life.ts";
import type { FromVm, ToVm } from "./vm-messages.ts";
import type { VmStreams } from "./vm-streams.ts";

const PAGE = 4096;

/** What is told goes to these. */
export interface ControlParts {
  readonly channel: Channel;
  readonly taker: SnapshotTaker;
  readonly migration: Migration;
  readonly observers: ExitObservers;
  readonly streams: VmStreams;
  readonly devices: HostDevices;
  readonly recording: MachineRecorder | undefined;
  /** The guest's life, while there is one. */
  life(): VmLife | undefined;
  /** Since this life began. */
  exits(): number;
  post(message: FromVm): void;
  probe(what: Attempt): string;
}

export class VmControl {
  readonly #parts: ControlParts;
  /** What came while only some kinds were obeyed. */
  readonly #deferred: { message: ToVm; descriptors: readonly number[] }[] = [];
  /** The guest stands still. */
  paused = false;
  /** The VM ends. */
  stopped = false;
  /** The guest was asked to go: its next reset is the end. */
  leaving = false;
  /** The snapshots that it goes on from are as they will be. */
  written = false;
  /** Pages; the guest's resets don't change what the host wants. */
  balloonTarget = 0;

  constructor(parts: ControlParts) {
    this.#parts = parts;
  }

  /**
   * Reads and obeys what came.
   * @param only kinds that are obeyed; the others wait for the next call without it
   */
  listen(only?: readonly ToVm["kind"][]): void {
    if (only === undefined) {
      for (const { message, descriptors } of this.#deferred.splice(0)) {
        this.#obey(message, descriptors);
      }
    }
    for (;;) {
      const received = this.#parts.channel.receive();
      if (received === "none") return;
      // Whoever started this is gone: so is the VM.
      if (received === "end") process.exit(1);
      const message = JSON.parse(received.text) as ToVm;
      const { descriptors } = received;
      if (only === undefined || only.includes(message.kind)) this.#obey(message, descriptors);
      else this.#deferred.push({ message, descriptors });
    }
  }

  /** Goes on with a snapshot of a guest that runs. */
  copy(): void {
    const { taker } = this.#parts;
    if (!taker.pending) return;
    const later = taker.step(this.paused);
    if (typeof later === "number") watchLibrary().vmm_watch_later(Math.ceil(later * 1000));
    else this.#tell(later);
  }

  /** The machine is about to go, and a snapshot of it with it. */
  abandon(why: string): void {
    this.#tell(this.#parts.taker.abandon(why));
  }

  #obey(message: ToVm, descriptors: readonly number[]): void {
    const { streams, devices, observers, migration, taker, post } = this.#parts;
    const life = this.#parts.life();
    switch (message.kind) {
      case "attach":
        streams.hub(message.stream).add(descriptors[0], message);
        return;
      case "pause":
      case "unpause":
        this.paused = message.kind === "pause";
        if (!this.paused) {
          migration.proceed();
          life?.machine.syncTime();
        }
        post({ kind: this.paused ? "paused" : "unpaused" });
        return;
      case "registers":
        post({ kind: "registers", text: life?.registers() ?? "" });
        return;
      case "statistics":
        post({
          kind: "statistics",
          statistics: {
            now: life?.machine.clock.now ?? 0,
            resident: life?.image.resident ?? 0,
            exits: this.#parts.exits(),
            ...streams.statistics,
          },
        });
        return;
      case "vsock-answer":
        devices.vsock?.answer(message.id, descriptors.at(0));
        return;
      case "vsock-open":
        devices.vsock?.open(message.port, descriptors[0]);
        return;
      case "vsock-listen":
        devices.vsock?.listen();
        return;
      case "capture":
        if (!devices.capture(message.place, descriptors[0])) closeSync(descriptors[0]);
        return;
      case "snapshot":
        this.#snapshot(life, message, descriptors);
        return;
      case "written":
        this.written = true;
        return;
      case "forget-template":
        taker.forgetTemplate();
        return;
      case "balloon":
        this.#balloon(life, message.target);
        return;
      case "shutdown":
        this.#shutDown(life, message.reset === true);
        return;
      case "send":
      case "disks-unlocked":
      case "disks-locked":
      case "disks":
        if (message.kind === "send") this.#tell(taker.hurry());
        migration.obey(message, descriptors, life);
        return;
      case "count-exits": {
        const answer = observers.count(message.on);
        if (answer !== undefined) post({ kind: "exit-counts", ...answer });
        return;
      }
      case "probe":
        post({ kind: "probe", result: this.#parts.probe(message.what) });
        return;
      case "stop":
        this.#tell(taker.hurry());
        this.stopped = true;
        return;
      case "start":
      case "prepare":
        return;
    }
  }

  #snapshot(
    life: VmLife | undefined,
    request: Extract<ToVm, { kind: "snapshot" }>,
    descriptors: readonly number[],
  ): void {
    const { taker, migration, recording, devices } = this.#parts;
    // None while it is settled who runs the guest, nor of one that is being recorded.
    this.#tell(taker.hurry());
    const taken = migration.frozen || recording !== undefined ? undefined : life;
    this.#tell(taker.take(taken, request, descriptors, devices));
  }

  /** A snapshot is written, or can't be. */
  #tell(taken: Taken | undefined): void {
    if (taken === undefined) return;
    if (taken.stopped) this.stopped = true;
    this.#parts.post({ kind: "snapshot", result: taken.result });
  }

  #balloon(life: VmLife | undefined, target: number | undefined): void {
    const { recording, post } = this.#parts;
    const balloon = life?.machine.balloon;
    if (balloon === undefined) {
      post({ kind: "balloon" });
      return;
    }
    if (target !== undefined) this.balloonTarget = Math.floor(target / PAGE);
    balloon.target(this.balloonTarget);
    recording?.balloon(this.balloonTarget);
    const actual = balloon.actual * PAGE;
    post({ kind: "balloon", balloon: { target: this.balloonTarget * PAGE, actual } });
  }

  // As vmd does it: the guest is to reset, since not every guest can power a machine off.
  #shutDown(life: VmLife | undefined, reset: boolean): void {
    const { observers, recording, post } = this.#parts;
    const asked = life?.machine.vmmci.request(VmmciCommand.REBOOT) ?? false;
    if (asked) {
      this.leaving = !reset;
      observers.request(VmmciCommand.REBOOT);
      recording?.request(VmmciCommand.REBOOT);
    }
    post({ kind: "shutdown", asked });
  }
}
