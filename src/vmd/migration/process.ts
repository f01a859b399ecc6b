/** A VM's process as one side of a migration: what of it the vCPU's loop has to do with. */
import { closeSync } from "node:fs";
import { NativeError, processLibrary, ptr, watchLibrary } from "../../vmm/native.ts";
import { SnapshotError } from "../../vmm/snapshot/format.ts";
import { Watch } from "../console-hub.ts";
import { requireNoObstacle } from "../snapshot/save.ts";
import type { VmLife } from "../vm-life.ts";
import type { MigrationEvent, SendRequest, ToMigration } from "./messages.ts";
import { Receiver } from "./receiver.ts";
import { Sender } from "./sender.ts";
import { MigrationStream } from "./stream.ts";

/** How long a frozen guest's process sleeps at most: so it notices that the other side is silent. */
const SLEEP = 100;

export interface MigrationHost {
  /** Where messages come from. */
  readonly channel: number;
  readonly pagemap: number;
  post(event: MigrationEvent): void;
  /** Makes durable what the guest wrote. @throws DiskError */
  flushDisks(): void;
  /** Takes messages while a machine is received. @throws SnapshotError when it is to be stopped */
  attend(): void;
}

export class Migration {
  readonly #host: MigrationHost;
  #sender: Sender | undefined;
  #receiver: Receiver | undefined;

  constructor(host: MigrationHost) {
    this.#host = host;
  }

  obey(message: ToMigration, descriptors: readonly number[], life: VmLife | undefined): void {
    switch (message.kind) {
      case "send":
        this.#send(life, message, descriptors[0]);
        return;
      case "disks-unlocked":
        this.#sender?.unlocked();
        return;
      case "disks-locked":
        this.#sender?.locked(message.failure);
        return;
      case "disks":
        this.#receiver?.given(message, descriptors);
    }
  }

  /** Does its part now. @returns whether the guest and its devices have to stand still */
  serve(): boolean {
    const sender = this.#sender;
    if (sender === undefined) return false;
    sender.step();
    return sender.frozen || sender.sent;
  }

  get frozen(): boolean {
    return this.#sender?.frozen ?? false;
  }

  /** The other side runs the guest. */
  get sent(): boolean {
    return this.#sender?.sent ?? false;
  }

  /** Until something comes for a guest that stands still. */
  sleep(): void {
    const { channel } = this.#host;
    const sender = this.#sender as Sender;
    const descriptors = sender.open ? [channel, sender.descriptor] : [channel];
    const events = [Watch.INPUT, Watch.INPUT | (sender.full ? Watch.ROOM : 0)];
    const { vmm_poll: poll } = processLibrary();
    const count = descriptors.length;
    poll(ptr(Int32Array.from(descriptors)), ptr(Int32Array.from(events)), count, SLEEP);
  }

  /** A guest that nobody knew where it runs goes on here. */
  proceed(): void {
    this.#sender?.proceed();
  }

  /** The machine is about to go. */
  abandon(): void {
    this.#sender?.abandon("the guest reset its machine, or ended");
  }

  receive(descriptor: number, answers: boolean): Receiver {
    const { channel } = this.#host;
    this.#receiver = new Receiver(
      {
        channel,
        attend: () => this.#host.attend(),
        askDisks: () => this.#host.post({ stage: "disks" }),
      },
      descriptor,
      answers,
    );
    return this.#receiver;
  }

  #send(life: VmLife | undefined, request: SendRequest, descriptor: number): void {
    const { pagemap, post, flushDisks } = this.#host;
    try {
      if (life === undefined) throw new SnapshotError("the guest is about to start");
      if (this.#sender !== undefined && !this.#sender.over) {
        throw new SnapshotError("it is being sent already");
      }
      requireNoObstacle(life);
      this.#sender = new Sender(
        {
          pagemap,
          watch: (room) => {
            watchLibrary().vmm_watch(descriptor, Watch.INPUT | (room ? Watch.ROOM : 0));
          },
          later: (time) => void watchLibrary().vmm_watch_later(Math.ceil(time * 1000)),
          post,
          flushDisks,
        },
        life,
        new MigrationStream(descriptor),
        request,
      );
    } catch (error) {
      if (!(error instanceof SnapshotError || error instanceof NativeError)) throw error;
      closeSync(descriptor);
      const nothing = { rounds: 0, pages: 0, bytes: 0, stoodStill: 0 };
      post({ stage: "over", outcome: "failed", why: error.message, ...nothing });
    }
  }
}
