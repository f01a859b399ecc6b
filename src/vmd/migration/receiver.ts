/** Receives a machine, in the VM's process that is to run it; lines.ts says how the two sides talk. */
import { processLibrary, ptr } from "../../vmm/native.ts";
import { SnapshotError } from "../../vmm/snapshot/format.ts";
import { StreamSource } from "../../vmm/snapshot/sources.ts";
import { Watch } from "../console-hub.ts";
import { DiskError } from "../disk/index.ts";
import type { ToMigration } from "./messages.ts";
import { Line } from "./lines.ts";
import { MigrationStream } from "./stream.ts";

/** The other side may do nothing for so long, ms. */
const PATIENCE = 60_000;

type Disks = Extract<ToMigration, { kind: "disks" }>;

/** What a receiver needs of the process around it. */
export interface ReceiverHost {
  /** Where messages come from. */
  readonly channel: number;
  /** Takes those that have come. @throws what ends the process */
  attend(): void;
  /** Asks for the disks. */
  askDisks(): void;
}

export class Receiver {
  readonly #host: ReceiverHost;
  readonly #stream: MigrationStream;
  /** The sender waits for what is said here, and says when to run. */
  readonly #answers: boolean;
  #disks: { message: Disks; descriptors: readonly number[] } | undefined;

  /** @param descriptor closed by `close` */
  constructor(host: ReceiverHost, descriptor: number, answers: boolean) {
    this.#host = host;
    this.#stream = new MigrationStream(descriptor);
    this.#answers = answers;
    this.#stream.say(Line.HELLO);
  }

  /** The machine, as a snapshot. */
  get source(): StreamSource {
    return new StreamSource(this.#stream.descriptor, (_, what) => {
      const events = what === "input" ? Watch.INPUT : Watch.ROOM;
      return this.#wait(this.#stream.descriptor, events);
    });
  }

  /** vmd has opened the disks, or says why not. */
  given(message: Disks, descriptors: readonly number[]): void {
    this.#disks = { message, descriptors };
  }

  /** Once the sender has let go of them. @throws DiskError, SnapshotError */
  disks(): { message: Disks; descriptors: readonly number[] } {
    this.#host.askDisks();
    const end = performance.now() + PATIENCE;
    while (this.#disks === undefined) {
      if (performance.now() > end) throw new SnapshotError("its disks were not opened");
      this.#wait(-1, 0);
    }
    const { message } = this.#disks;
    if (message.failure !== undefined) throw new DiskError(message.failure);
    return this.#disks;
  }

  /** All is there: waits until the sender says that it doesn't run the guest. @throws SnapshotError */
  commit(): void {
    if (!this.#answers) return;
    this.#stream.say(Line.READY);
    for (;;) {
      for (const line of this.#stream.read()) {
        if (line === Line.COMMIT) return;
        throw new SnapshotError("the sender says what is no answer");
      }
      if (this.#stream.ended) throw new SnapshotError("the sender keeps it");
      if (!this.#wait(this.#stream.descriptor, Watch.INPUT)) {
        throw new SnapshotError("the sender doesn't say that it is to run");
      }
    }
  }

  /** The guest is about to run. */
  running(): void {
    this.#stream.say(Line.RUNNING);
    this.#stream.close();
  }

  failed(why: string): void {
    this.#stream.say(`${Line.FAILED} ${why.replaceAll("\n", " ")}`);
    this.#stream.close();
  }

  /** Messages are heard meanwhile. @returns false when nothing came in time */
  #wait(descriptor: number, what: number): boolean {
    const { channel } = this.#host;
    const end = performance.now() + PATIENCE;
    for (;;) {
      const alone = descriptor < 0;
      const events = alone ? Int32Array.of(Watch.INPUT) : Int32Array.of(Watch.INPUT, what);
      const descriptors = alone ? Int32Array.of(channel) : Int32Array.of(channel, descriptor);
      const time = Math.max(0, Math.ceil(end - performance.now()));
      processLibrary().vmm_poll(ptr(descriptors), ptr(events), events.length, time);
      if (events[0] !== 0) this.#host.attend();
      if (alone) return events[0] !== 0;
      if (events[1] !== 0) return true;
      if (time === 0) return false;
    }
  }
}
