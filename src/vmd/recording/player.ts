/** Feeds a machine with what was recorded, at the same places, and compares what it does. */
import { SnapshotError } from "../../vmm/snapshot/format.ts";
import type { PageSet } from "../../vmm/snapshot/page-set.ts";
import type { InputGate, Stop } from "../vcpu.ts";
import type { VmLife } from "../vm-life.ts";
import { checkpoint } from "./checkpoint.ts";
import { EventKind, isOfDisk, type RecordedEvent } from "./events.ts";
import type { FrameQueue } from "./frame-queue.ts";
import type { EventPlace, RecordingReader } from "./recording-reader.ts";
import type { DiskEvents } from "./replayed-disk.ts";

/** The guest does something else than it did: a sentence that says where. */
export class Divergence extends Error {
  override name = "Divergence";
}

/** Where a run is between its beginning and its end. */
export interface PlayerState {
  readonly polls: number;
  readonly deadline: number;
  readonly nextCheck: number;
  readonly checkedExits: number;
  readonly place: EventPlace;
}

export class Player implements InputGate, DiskEvents {
  deadline = 0;
  /** Told at each checkpoint, while all is in the image. */
  onCheckpoint: ((dirty: PageSet) => void) | undefined;
  readonly #reader: RecordingReader;
  #life!: VmLife;
  #interfaces: readonly FrameQueue[] = [];
  #polls = 0;
  #nextCheck: number;
  #checkedExits = 0;

  constructor(reader: RecordingReader) {
    this.#reader = reader;
    this.#nextCheck = reader.config.check;
  }

  /** The machine that is played to, from now on. */
  begin(life: VmLife, interfaces: readonly FrameQueue[]): void {
    this.#life = life;
    this.#interfaces = interfaces;
    life.vcpu.gate = this;
  }

  /** The guest has reset its machine where it did then, and another is about to begin. */
  reset(): RecordedEvent {
    const event = this.#reader.take();
    this.#compare(event);
    this.#reader.nextPart();
    this.#nextCheck = this.#reader.config.check;
    this.#checkedExits = event.exits;
    this.deadline = 0;
    return event;
  }

  /** Whether the machine stands where the guest reset it. */
  get isAtReset(): boolean {
    const { kind, exits } = this.#reader.next;
    return kind === EventKind.RESET && exits === this.#life.vcpu.exits;
  }

  get state(): PlayerState {
    const { deadline } = this;
    const { place } = this.#reader;
    return {
      polls: this.#polls,
      deadline,
      nextCheck: this.#nextCheck,
      checkedExits: this.#checkedExits,
      place,
    };
  }

  set state({ polls, deadline, nextCheck, checkedExits, place }: PlayerState) {
    this.#checkedExits = checkedExits;
    this.#reader.place = place;
    this.#polls = polls;
    this.deadline = deadline;
    this.#nextCheck = nextCheck;
  }

  // --- InputGate

  admit(): Stop | undefined {
    const { machine, vcpu } = this.#life;
    this.#polls++;
    let any = false;
    while (this.#isInput(this.#reader.next)) {
      const event = this.#reader.take();
      this.#compare(event);
      if (event.kind === EventKind.WAKE) continue;
      any = true;
      this.#apply(event);
    }
    if (any) machine.idle();
    if (this.isCut) return { kind: "attention" };
    if (machine.clock.now >= this.#nextCheck && vcpu.exits > this.#checkedExits) this.#check();
    this.deadline = machine.clock.now + this.#reader.config.poll;
    const { next } = this.#reader;
    const { kind, value } = next;
    const isOfGuest = kind === EventKind.RESET || (kind === EventKind.END && value === 0);
    if (next.poll > this.#polls || isOfGuest || kind === EventKind.CUT) return undefined;
    if (next.kind === EventKind.END && next.poll === this.#polls) {
      this.#compare(next);
      return { kind: "attention" };
    }
    // A disk's may come in any exit before the next poll.
    if (next.poll === this.#polls && isOfDisk(next)) return undefined;
    return this.diverged(`${name(next)} was recorded at poll ${next.poll}, exit ${next.exits}`);
  }

  sleep(deadline: number): number {
    const { next } = this.#reader;
    if (this.isCut) return this.#life.machine.clock.now;
    if (next.kind !== EventKind.WAKE || next.poll !== this.#polls + 1) return deadline;
    if (next.now > deadline) this.diverged(`a timer is due at ${deadline} ns, which was not then`);
    return next.now;
  }

  #isInput({ kind, poll }: RecordedEvent): boolean {
    return poll === this.#polls && kind >= EventKind.WAKE && kind <= EventKind.FRAME;
  }

  #apply({ kind, device, value, data }: RecordedEvent): void {
    const { machine } = this.#life;
    switch (kind) {
      case EventKind.CONSOLE:
        machine.console.input(data);
        return;
      case EventKind.VIRTIO:
        machine.virtioConsole?.input(data);
        return;
      case EventKind.REQUEST:
        machine.vmmci.request(value);
        return;
      case EventKind.BALLOON:
        machine.balloon?.target(value);
        return;
      case EventKind.FRAME:
        this.#interfaces.at(device)?.deliver(data);
    }
  }

  #check(): void {
    const { vcpu, machine } = this.#life;
    this.#nextCheck = machine.clock.now + this.#reader.config.check;
    this.#checkedExits = vcpu.exits;
    const event = this.#reader.next;
    if (event.kind !== EventKind.CHECK || event.poll !== this.#polls || event.data.length !== 8) {
      return this.diverged(`${name(event)} was recorded where all registers are compared`);
    }
    this.#compare(event);
    this.#reader.take();
    // What the state says is how it goes on from here.
    this.deadline = machine.clock.now + this.#reader.config.poll;
    let hash: bigint;
    try {
      hash = checkpoint(this.#life, (dirty) => this.onCheckpoint?.(dirty));
    } catch (error) {
      if (!(error instanceof SnapshotError)) throw error;
      return this.diverged(error.message);
    }
    const { buffer, byteOffset } = event.data;
    if (new DataView(buffer, byteOffset).getBigUint64(0, true) !== hash) {
      this.diverged("the registers differ from those that were recorded");
    }
  }

  // --- DiskEvents

  take(device: number, request: number): RecordedEvent | undefined {
    const { next } = this.#reader;
    if (next.kind === EventKind.CUT) throw this.#reader.cut;
    if (!isOfDisk(next) || next.device !== device || next.value !== request) return undefined;
    this.#compare(next);
    return this.#reader.take();
  }

  diverged(what: string): never {
    const { vcpu, machine } = this.#life;
    throw new Divergence(`exit ${vcpu.exits}, guest time ${machine.clock.now} ns: ${what}`);
  }

  /** The host stopped the run here, or nothing is recorded from here on. */
  get isOver(): boolean {
    const { kind, value, poll } = this.#reader.next;
    return this.isCut || (kind === EventKind.END && value === 1 && poll === this.#polls);
  }

  /** The recording ends here, without an end. */
  get isCut(): boolean {
    const { kind, poll } = this.#reader.next;
    return kind === EventKind.CUT && poll <= this.#polls;
  }

  /** The run ended by itself, or has come to its end. @returns the END event */
  end(): RecordedEvent {
    const { next } = this.#reader;
    if (next.kind !== EventKind.END) {
      this.diverged(`the guest ended; ${name(next)} was recorded at exit ${next.exits}`);
    }
    this.#compare(next);
    return next;
  }

  #compare(event: RecordedEvent): void {
    const { vcpu, machine } = this.#life;
    if (event.exits === vcpu.exits && event.now === Math.ceil(machine.clock.now)) return;
    this.diverged(`${name(event)} was recorded at exit ${event.exits}, ${event.now} ns`);
  }
}

const NAMES = {
  [EventKind.CUT]: "nothing",
  [EventKind.WAKE]: "a wake-up",
  [EventKind.CONSOLE]: "input",
  [EventKind.VIRTIO]: "input of the virtio console",
  [EventKind.REQUEST]: "a request",
  [EventKind.BALLOON]: "a target of the balloon",
  [EventKind.FRAME]: "a frame",
  [EventKind.READ]: "a disk's read",
  [EventKind.FAILED]: "a disk's failure",
  [EventKind.CHECK]: "a checkpoint",
  [EventKind.END]: "the end",
  [EventKind.RESET]: "a reset",
} as const;

function name({ kind }: RecordedEvent): string {
  return NAMES[kind];
}
