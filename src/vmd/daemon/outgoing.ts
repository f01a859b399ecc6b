/** A VM that is sent elsewhere, as vmd sees it: how far it is, and who has its disks. */
import type { MigrationEvent } from "../migration/messages.ts";
import type { ToVm } from "../vm-messages.ts";
import type { DiskLocks } from "./disk-locks.ts";

/** So many are kept: somebody looks at them one after the other. */
const EVENTS_MAX = 1000;

type Over = Extract<MigrationEvent, { stage: "over" }>;

export class Outgoing {
  readonly #locks: DiskLocks;
  readonly #tell: (message: ToVm) => void;
  readonly #events: MigrationEvent[] = [];
  #changed = Promise.withResolvers<void>();
  over: Over | undefined;

  constructor(locks: DiskLocks, tell: (message: ToVm) => void) {
    this.#locks = locks;
    this.#tell = tell;
  }

  /** The VM's process says something. */
  heard(event: MigrationEvent): void {
    switch (event.stage) {
      case "flushed":
        this.#locks.release();
        this.#tell({ kind: "disks-unlocked" });
        return;
      case "relock":
        void this.#locks.take().then((failure) => this.#tell({ kind: "disks-locked", failure }));
        return;
      case "round":
        this.#add(event);
        return;
      case "over":
        this.over = event;
        this.#add(event);
    }
  }

  /** The VM is gone. */
  ended(why: string): void {
    if (this.over !== undefined) return;
    const nothing = { rounds: 0, pages: 0, bytes: 0, stoodStill: 0 };
    this.heard({ stage: "over", outcome: "gone", why, ...nothing });
  }

  /** What was heard after the first `count`; waits until there is something, or all is over. */
  async after(count: number): Promise<readonly MigrationEvent[]> {
    while (this.#events.length <= count && this.over === undefined) await this.#changed.promise;
    return this.#events.slice(count);
  }

  #add(event: MigrationEvent): void {
    if (this.#events.length < EVENTS_MAX) this.#events.push(event);
    else this.#events[EVENTS_MAX - 1] = event;
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}
