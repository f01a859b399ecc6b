/**
 * A guest that drives one virtio device of a whole machine: the input is its program. It keeps to
 * the rules or breaks them, and may be ahead of what the device reads, so that rings and buffers say
 * something else each time.
 */
import { BarDriver, MockQueue, type Part } from "../../src/vmd/virtio/mock-driver.ts";
import { Region, Status } from "../../src/vmd/virtio/transport.ts";
import type { Size } from "../../src/vmd/device.ts";
import { Choices } from "../own/choices.ts";
import { must, Wrong } from "../own/target.ts";
import type { FuzzBackend } from "./backends.ts";
import { DRIVER_BASE, DRIVER_SIZE, RAM, Rig } from "./rig.ts";

const SIZES = [1, 2, 4] as const;
const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;
const BAR0 = 0x10;
const COMMAND = 4;
const IO_AND_BUS_MASTER = 5;
/** Seconds of guest time within which every request of a good driver is answered. */
const PATIENCE = 60;
/** Steps of one input. */
const STEPS_MAX = 200;

/** What a virtio device's target adds to the guest. */
export interface Subject {
  /** Its number on the bus: 1 is the first. */
  readonly device: number;
  readonly rig: Rig;
  readonly backend?: FuzzBackend;
  /** A request as a good driver makes it, of several kinds. */
  good(choices: Choices): { queue: number; parts: Part[] };
  /** Something happens on the host's side. */
  event?(choices: Choices): void;
  /** A request to a device that was just started, and whether it was served. */
  probe(guest: Guest): boolean;
  /** Queues whose requests all come back by themselves. */
  readonly prompt?: readonly number[];
  /** Devices that may say that they can't be quiesced now. */
  readonly mayBeStuck?: boolean;
}

export class Guest extends BarDriver {
  readonly rig: Rig;
  readonly device: number;
  readonly #base: number;

  constructor(rig: Rig, device: number) {
    super(rig.memory, DRIVER_BASE, DRIVER_SIZE);
    this.rig = rig;
    this.device = device;
    this.#base = 0x1000 + 0x1000 * device;
    rig.machine.reset();
    const queues = this.read(0x12, 2);
    must(queues > 0 && queues <= 8, `device ${device} has ${queues} queues`);
    for (let index = 0; index < queues; index++) this.queues.push(new MockQueue(this, index));
  }

  read(at: number, size: Size): number {
    return this.rig.read(this.#base + at, size);
  }

  write(at: number, size: Size, value: number): void {
    this.rig.write(this.#base + at, size, value);
  }

  config(offset: number): void {
    this.rig.write(CONFIG_ADDRESS, 4, (0x80000000 + this.device * 0x800 + (offset & 0xfc)) >>> 0);
  }

  /** Puts the BAR where it was, whatever was done to it. */
  claim(): void {
    this.config(BAR0);
    this.rig.write(CONFIG_DATA, 4, this.#base);
    this.config(COMMAND);
    this.rig.write(CONFIG_DATA, 2, IO_AND_BUS_MASTER);
  }
}

/** Runs an input on a device, and judges it. */
export class GuestRun {
  readonly #subject: Subject;
  readonly #guest: Guest;
  /** The guest broke no rule so far: what comes back is looked at. */
  #clean = true;
  #started = false;

  constructor(subject: Subject) {
    this.#subject = subject;
    this.#guest = new Guest(subject.rig, subject.device);
  }

  run(input: Uint8Array): void {
    const { rig, backend } = this.#subject;
    const choices = new Choices(input);
    backend?.reset();
    rig.reset(choices);
    this.#clean = true;
    this.#started = false;
    for (let step = 0; step < STEPS_MAX && !choices.ended; step++) {
      rig.begin();
      this.#step(choices);
      rig.checkQueues();
      if (this.#clean) this.#collect();
    }
    rig.ahead(0);
    this.#finish();
  }

  #collect(): void {
    if (!this.#started) return;
    // Throws for a chain that was not out, or that came back twice.
    for (const queue of this.#guest.queues) queue.used();
  }

  #step(choices: Choices): void {
    const { rig, backend, event } = this.#subject;
    const guest = this.#guest;
    switch (choices.below(20)) {
      case 0:
        this.#start(choices);
        return;
      case 1:
      case 2:
      case 3:
      case 4:
      case 5:
        this.#good(choices);
        return;
      case 6:
        this.#wild(choices);
        return;
      case 7:
        this.#scribble(choices);
        return;
      case 8:
        if (this.#started) guest.queues[choices.below(guest.queues.length)].kick(true);
        return;
      case 9:
        event?.call(this.#subject, choices);
        return;
      case 10:
        rig.machine.idle();
        return;
      case 11:
        rig.pass(choices.u16() * 1000);
        return;
      case 12:
        backend?.finish?.(choices.u8());
        rig.machine.idle();
        return;
      case 13:
        backend?.mode?.(choices.u8());
        return;
      case 14:
        this.#clean = false;
        this.#ahead(choices.u8(), choices.u8());
        return;
      case 15: {
        const at = this.#offset(choices);
        guest.read(at, choices.of(SIZES));
        // Reading may touch what a device is asked by; the ISR, say.
        return;
      }
      case 16:
        this.#clean = false;
        guest.write(this.#offset(choices), choices.of(SIZES), choices.u32());
        return;
      case 17: {
        guest.config(choices.u8());
        const size = choices.of(SIZES);
        const port = CONFIG_DATA + (choices.u8() & 3 & ~(size - 1));
        if ((choices.u8() & 1) === 0) rig.read(port, size);
        else {
          this.#clean = false;
          rig.write(port, size, choices.u32());
        }
        return;
      }
      case 18:
        guest.status = 0;
        this.#started = false;
        return;
      default:
        this.#roundTrip();
    }
  }

  #offset(choices: Choices): number {
    const at = choices.u8();
    if (at < 0x80) return at & 0x3f;
    if (at < 0xa0) return Region.NOTIFY + (at & 3);
    if (at < 0xa8) return Region.ISR;
    if (at < 0xf0) return Region.DEVICE + (at & 0x3f);
    return choices.u16() & 0xfff;
  }

  #start(choices: Choices): void {
    const guest = this.#guest;
    this.#subject.rig.ahead(0);
    guest.claim();
    const bits = choices.u8();
    const [low, high] = guest.offered;
    // Which of the device's own features are not taken: by one byte, spread over all of them.
    const refused = Array.from({ length: 31 }, (_, bit) => bit).filter((bit) => {
      return ((bits >> (bit & 7)) & 1) !== 0 && (low & (1 << bit)) !== 0;
    });
    const kept = refused.reduce((all, bit) => (all & ~(1 << bit)) >>> 0, low);
    must(guest.negotiate(kept, high), "the device doesn't agree to its own features");
    guest.status = 0;
    const how = choices.u8();
    if ((how & 0x40) !== 0) this.#oddSize(choices.u16());
    guest.start({ without: refused, size: [undefined, undefined, 4, 16][how & 3] });
    this.#started = true;
    this.#clean = true;
    if ((how & 0x80) === 0) return;
    // Again, but it isn't ready: whatever it does then, it is not served.
    const { queues } = guest;
    guest.negotiate(kept, high);
    for (const queue of queues) queue.setUp(queue.size);
  }

  /** § 2.7, § 4.1.4.3.2: whatever it is told, a queue's size stays a power of two, and what was offered. */
  #oddSize(size: number): void {
    const guest = this.#guest;
    guest.status = 0;
    guest.write(0x16, 2, 0);
    const offered = guest.read(0x18, 2);
    guest.write(0x18, 2, size);
    const taken = guest.read(0x18, 2);
    const possible = taken > 0 && taken <= offered && (taken & (taken - 1)) === 0;
    must(possible, `a queue of ${offered} descriptors takes ${taken}`);
  }

  #good(choices: Choices): void {
    const { queue: index, parts } = this.#subject.good(choices);
    const queue = this.#guest.queues[index % this.#guest.queues.length];
    if (!this.#started || queue.room < Math.max(1, parts.length)) return;
    const how = choices.u8();
    const indirect = (how & 1) !== 0 && parts.length > 0 && this.#guest.has(28);
    if (this.#add(queue, parts, indirect) && (how & 2) === 0) queue.kick((how & 4) !== 0);
  }

  /** Whether the guest has memory of its own for it. */
  #add(queue: MockQueue, parts: Part[], indirect: boolean): boolean {
    try {
      queue.add(parts, { indirect });
      return true;
    } catch (error) {
      if ((error as Error).message.endsWith("are full")) return false;
      throw error;
    }
  }

  /** A chain whose segments lie anywhere. */
  #wild(choices: Choices): void {
    const queue = this.#guest.queues[choices.below(this.#guest.queues.length)];
    this.#clean = false;
    const count = 1 + choices.below(4);
    if (!this.#started || queue.room < count) return;
    const parts = Array.from({ length: count }, (): Part => {
      const how = choices.u8();
      if (how >= 0xe0) {
        return { address: DRIVER_BASE, length: DRIVER_SIZE, writable: (how & 1) !== 0 };
      }
      return {
        address: place(how, choices),
        length: [choices.u8(), choices.u16(), 4096 * choices.u8(), choices.u32()][(how >> 2) & 3],
        writable: (how & 1) !== 0,
      };
    });
    if (this.#add(queue, parts, (choices.u8() & 1) !== 0)) queue.kick(true);
  }

  /** Other bytes in a queue's rings or table. */
  #scribble(choices: Choices): void {
    const { queues, memory } = this.#guest;
    const queue = queues[choices.below(queues.length)];
    this.#clean = false;
    if (!this.#started) return;
    const how = choices.u8();
    if ((how & 3) === 3) {
      const index = choices.below(queue.size);
      const length = (how & 4) === 0 ? choices.u8() : choices.u32();
      // It goes on at itself, near by, or anywhere.
      const next = (how & 8) === 0 ? (index + choices.below(4)) % queue.size : choices.u16();
      queue.descriptor(index, place(how, choices), length, choices.u8() & 7, next);
      queue.offer(index);
    } else {
      const ring = [queue.descriptors, queue.available, queue.usedRing][how & 3];
      const at = (how & 4) === 0 ? choices.below(16) : choices.u16() % 1024;
      memory.write(ring + at, choices.take(1 + (how >> 5)));
    }
    queue.kick(true);
  }

  /** Of all that the device reads, or of buffers only. */
  #ahead(reads: number, how: number): void {
    const from = (how & 1) === 0 ? 0 : DRIVER_BASE + DRIVER_SIZE / 2;
    this.#subject.rig.ahead(1 + (reads & 15), { from, skip: how >> 4 });
  }

  #roundTrip(): void {
    const { rig, mayBeStuck = false } = this.#subject;
    const stuck = rig.roundTrip();
    must(stuck.length === 0 || mayBeStuck, `can't be quiesced: ${stuck.join("; ")}`);
  }

  /** A driver that kept to the rules waits for its requests: none is forgotten. */
  #awaitAll(): void {
    const { rig, backend, prompt = [] } = this.#subject;
    const guest = this.#guest;
    if ((guest.status & (Status.DRIVER_OK | Status.NEEDS_RESET)) !== Status.DRIVER_OK) return;
    const waiting = prompt.map((index) => guest.queues[index]);
    for (const queue of waiting) queue.kick();
    // Where there is a limit, it takes time.
    for (let seconds = 0; seconds < PATIENCE; seconds++) {
      rig.begin();
      backend?.settleAll?.();
      rig.machine.idle();
      for (const queue of waiting) queue.used();
      if (guest.needsReset || waiting.every(({ out }) => out === 0)) return;
      rig.pass(1e9);
    }
    must(false, `${waiting.map(({ out }) => out).join(" and ")} chains never come back`);
  }

  /** With a good driver, and without devices that the guest moved over this one. */
  #restart(): void {
    this.#subject.rig.machine.reset();
    this.#guest.claim();
    this.#guest.start();
  }

  /** Everything comes to its end, and after a reset the device serves a good driver. */
  #finish(): void {
    const { rig, backend, probe } = this.#subject;
    const guest = this.#guest;
    backend?.settleAll?.();
    rig.machine.idle();
    if (this.#clean && this.#started) this.#awaitAll();
    rig.begin();
    this.#roundTrip();
    if (this.#clean) this.#collect();
    rig.check();
    rig.begin();
    // What the round trip began, too.
    backend?.settleAll?.();
    if (backend?.owes === true) {
      this.#restart();
      rig.machine.idle();
    }
    backend?.reset();
    this.#restart();
    let served: boolean;
    try {
      served = probe.call(this.#subject, guest);
    } catch (error) {
      throw new Wrong(`after a reset: ${(error as Error).message}`);
    }
    must(served && !guest.needsReset, "after a reset the device serves no request");
  }
}

/** An address: in the driver's part, in RAM, at its end, or anywhere. */
function place(how: number, choices: Choices): number {
  switch ((how >> 5) & 3) {
    case 0:
      return DRIVER_BASE + (choices.u32() % DRIVER_SIZE);
    case 1:
      return RAM - choices.u8();
    case 2:
      return choices.u32();
    default:
      return choices.u32() + choices.u16() * 2 ** 32;
  }
}
