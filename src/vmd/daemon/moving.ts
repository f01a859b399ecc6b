/** What of a VM's run has to do with other places that it comes from or goes to. */
import { Channel } from "../channel.ts";
import type { MigrationEvent } from "../migration/messages.ts";
import type { RequestOf } from "../protocol.ts";
import { SnapshotBase } from "../snapshot/base.ts";
import type { VmHost } from "../vm-host.ts";
import { DiskLocks } from "./disk-locks.ts";
import type { Incoming } from "./incoming.ts";
import { Outgoing } from "./outgoing.ts";
import { RefusalError } from "./refusal.ts";
import type { VmSettings } from "./settings.ts";

export class Moving implements Disposable {
  /** Its snapshots since it was started. */
  readonly base = new SnapshotBase();
  readonly #incoming: Incoming | undefined;
  #locks = new DiskLocks([]);
  /** One that comes from elsewhere got its disks. */
  #given = false;
  #outgoing: Outgoing | undefined;

  /** @param incoming where it comes from, when that is another VM */
  constructor(incoming: Incoming | undefined) {
    this.#incoming = incoming;
  }

  /** Locks on its disks. */
  get locks(): DiskLocks {
    return this.#locks;
  }

  set locks(locks: DiskLocks) {
    this.#locks[Symbol.dispose]();
    this.#locks = locks;
  }

  /** How far it is on its way out. @throws RefusalError */
  get outgoing(): Outgoing {
    if (this.#outgoing === undefined) throw new RefusalError("EINVAL", "the vm is not being sent");
    return this.#outgoing;
  }

  /**
   * Begins to send it elsewhere.
   * @param config of its CONFIG record, what its process doesn't know
   * @returns the descriptor that it comes out of; the caller's to close
   * @throws RefusalError
   */
  send(
    host: VmHost,
    config: object,
    { live, downtime, rounds, migration }: RequestOf<"send">,
  ): number {
    if (this.#outgoing !== undefined && this.#outgoing.over === undefined) {
      throw new RefusalError("EALREADY", "it is being sent already");
    }
    const [ours, theirs] = Channel.pair(true);
    this.#outgoing = new Outgoing(this.#locks, (message) => host.tell(message));
    host.tell(
      {
        kind: "send",
        config: JSON.stringify({ ...config, migration }),
        answers: migration?.answers === "stream" ? "surely" : "perhaps",
        ...{ live, downtime, rounds },
      },
      [theirs],
    );
    return ours;
  }

  /** Its process says how far it is. */
  heard(event: MigrationEvent, host: VmHost, settings: VmSettings): void {
    if (event.stage !== "disks") {
      this.#outgoing?.heard(event);
      return;
    }
    // Once, and not whenever a process that a guest has taken over asks.
    if (this.#incoming === undefined || this.#given) return;
    this.#given = true;
    const locks = this.#incoming.openDisks(settings, host);
    if (locks !== undefined) this.locks = locks;
  }

  /** Its process is gone. */
  ended(why: string): void {
    this.#outgoing?.ended(why);
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.#locks[Symbol.dispose]();
  }
}
