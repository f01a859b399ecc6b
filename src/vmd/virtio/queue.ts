/**
 * A split virtqueue, seen from the device: virtio 1.2, § 2.7. The one place where what a driver
 * says about descriptors is checked.
 *
 * A driver that breaks a rule breaks its queue: nothing more is taken from it, its device needs a
 * reset (§ 2.1.1), and the chain in question is not given back. Each rule below names its section.
 */
import type { GuestMemory } from "../../vmm/memory.ts";
import { Chain } from "./chain.ts";
import { Feature } from "./features.ts";
import type { VirtioRegisterSet } from "./registers.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const DESCRIPTOR = 16;
/** Of the available ring's flags. */
const NO_INTERRUPT = 1;
/** Of the used ring's flags. */
const NO_NOTIFY = 1;
/** Drivers must not add a longer chain: § 2.7.5.2. */
const CHAIN_BYTES_MAX = 2 ** 32;
const ALIGNMENT = { descriptors: 16, available: 2, used: 4 } as const;

export class Queue {
  readonly index: number;
  readonly #r: VirtioRegisterSet;
  readonly #memory: GuestMemory;
  readonly #broke: (why: string) => void;
  readonly #free: Chain[] = [];
  // The registers, read once when the queue starts.
  #size = 0;
  #descriptors = 0;
  #available = 0;
  #used = 0;
  #indirect = false;
  #eventIndex = false;
  /** What was read last of a descriptor: its words, and what they say. */
  readonly #words = new Uint32Array(DESCRIPTOR / 4);
  #address = 0;
  #length = 0;
  #flags = 0;
  #next = 0;
  /** Chains taken and not given back. */
  taken = 0;

  /** @param broke told once, with the rule that the driver broke. */
  constructor(
    registers: VirtioRegisterSet,
    index: number,
    memory: GuestMemory,
    broke: (why: string) => void,
  ) {
    this.#r = registers;
    this.index = index;
    this.#memory = memory;
    this.#broke = broke;
  }

  /** Whether chains can be taken. */
  get running(): boolean {
    return this.#size !== 0;
  }

  /** Descriptors; 0 while it doesn't run. No more chains are served in one go. */
  get size(): number {
    return this.#size;
  }

  /**
   * Reads the registers of an enabled queue and checks where its parts lie: § 2.7 (alignment),
   * § 2.7.1. Also after a restore.
   */
  start(): void {
    this.stop();
    const r = this.#r;
    const i = this.index;
    if (r.queueEnable[i] === 0 || r.queueBroken[i] !== 0) return;
    const why = this.misplaced();
    if (why !== undefined) {
      this.#break(why);
      return;
    }
    const size = r.queueSize[i];
    const features = r.driverFeatures[0];
    this.#descriptors = r.descriptors[2 * i] + r.descriptors[2 * i + 1] * 2 ** 32;
    this.#available = r.available[2 * i] + r.available[2 * i + 1] * 2 ** 32;
    this.#used = r.used[2 * i] + r.used[2 * i + 1] * 2 ** 32;
    this.#indirect = (features & Feature.INDIRECT_DESC) !== 0;
    this.#eventIndex = (features & Feature.EVENT_IDX) !== 0;
    this.#size = size;
  }

  /** Which of its parts lies where it can't, if one does. */
  misplaced(): string | undefined {
    const r = this.#r;
    const i = this.index;
    const size = r.queueSize[i];
    const eventBytes = (r.driverFeatures[0] & Feature.EVENT_IDX) !== 0 ? 2 : 0;
    const parts = [
      ["descriptors", DESCRIPTOR * size],
      ["available", 4 + 2 * size + eventBytes],
      ["used", 4 + 8 * size + eventBytes],
    ] as const;
    for (const [part, length] of parts) {
      const address = r[part][2 * i] + r[part][2 * i + 1] * 2 ** 32;
      if (address % ALIGNMENT[part] !== 0 || !this.#memory.contains(address, length)) {
        return `its ${part} ring or table lies at 0x${address.toString(16)}`;
      }
    }
    return undefined;
  }

  /** Forgets the rings: at a reset. Chains that are out must not be given back any more. */
  stop(): void {
    this.#size = 0;
    this.taken = 0;
  }

  /**
   * The next chain, if the driver has made one available. It must be given back by `push`, or by
   * `putBack` unless another was taken since.
   */
  pop(): Chain | undefined {
    const size = this.#size;
    if (size === 0) return undefined;
    const r = this.#r;
    const next = r.nextAvailable[this.index];
    const available = this.#memory.read16(this.#available + 2);
    const waiting = (available - next) & 0xffff;
    if (waiting === 0) return undefined;
    // The index only counts up, by one for each chain, and no more chains than descriptors can be
    // out: § 2.7.6.1, § 2.7.13.
    if (waiting > size) return this.#break(`its available index jumped by ${waiting}`);
    const out = (available - r.nextUsed[this.index]) & 0xffff;
    if (out > size) return this.#break(`${out} chains of ${size} descriptors are available or out`);
    const head = this.#memory.read16(this.#available + 4 + 2 * (next & (size - 1)));
    if (head >= size) return this.#break(`descriptor ${head} of ${size} is available`);
    const chain = this.#free.pop() ?? new Chain(this.#memory);
    chain.clear(head);
    if (!this.#walk(chain)) {
      this.#free.push(chain);
      return undefined;
    }
    r.nextAvailable[this.index] = (next + 1) & 0xffff;
    this.taken++;
    return chain;
  }

  /** Whether a chain is available, for devices that serve one at a time. */
  get waiting(): boolean {
    if (this.#size === 0) return false;
    return this.#memory.read16(this.#available + 2) !== this.#r.nextAvailable[this.index];
  }

  /** As if the chain, the last that was taken, had not been. */
  putBack(chain: Chain): void {
    if (this.#size === 0) return;
    const r = this.#r;
    r.nextAvailable[this.index] = (r.nextAvailable[this.index] - 1) & 0xffff;
    this.taken--;
    this.#free.push(chain);
  }

  /**
   * Gives a chain back: § 2.7.8. The driver sees it at once, but isn't told before `notify`.
   * @param written bytes of its device-writable part that the device wrote, from its start.
   */
  push(chain: Chain, written: number): void {
    if (this.#size === 0) return;
    this.fill(chain, written, 0);
    this.publish(1);
  }

  /**
   * Puts a chain into the used ring, `ahead` entries from the next, without making it visible:
   * `publish` does that, for several that belong together.
   */
  fill(chain: Chain, written: number, ahead: number): void {
    if (this.#size === 0) return;
    const used = (this.#r.nextUsed[this.index] + ahead) & (this.#size - 1);
    const at = this.#used + 4 + 8 * used;
    this.#memory.write32(at, chain.head);
    this.#memory.write32(at + 4, written);
    this.#free.push(chain);
  }

  publish(count: number): void {
    if (this.#size === 0) return;
    const used = (this.#r.nextUsed[this.index] + count) & 0xffff;
    this.#r.nextUsed[this.index] = used;
    this.taken -= count;
    this.#memory.write16(this.#used + 2, used);
  }

  /** Whether the driver wants to be told of what was given back since it was last told: § 2.7.7.2. */
  wantsInterrupt(): boolean {
    if (this.#size === 0) return false;
    const r = this.#r;
    const now = r.nextUsed[this.index];
    const before = r.notifiedUsed[this.index];
    if (now === before) return false;
    r.notifiedUsed[this.index] = now;
    if (!this.#eventIndex) return (this.#memory.read16(this.#available) & NO_INTERRUPT) === 0;
    const event = this.#memory.read16(this.#available + 4 + 2 * this.#size);
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  /**
   * Whether the driver is to notify the device of new chains: § 2.7.10. When it is, a chain may
   * have come before the driver saw that: the caller looks again.
   */
  wantNotifications(want: boolean): void {
    if (this.#size === 0) return;
    if (this.#eventIndex) {
      if (!want) return;
      this.#memory.write16(this.#used + 4 + 8 * this.#size, this.#r.nextAvailable[this.index]);
    } else {
      this.#memory.write16(this.#used, want ? 0 : NO_NOTIFY);
    }
  }

  /** The driver broke a rule of the device: as with one of the queue's. */
  fail(why: string): void {
    this.#break(why);
  }

  /** Collects the segments of a chain. */
  #walk(chain: Chain): boolean {
    let table = this.#descriptors;
    let entries = this.#size;
    let index = chain.head;
    let inTable = false;
    let writable = false;
    // § 2.7.5.3.1: a chain has no more descriptors than the queue; one that has goes in circles.
    for (let seen = 0; ; seen++) {
      if (seen === this.#size) return this.#reject("a chain has more descriptors than the queue");
      this.#fetch(table + DESCRIPTOR * index);
      if ((this.#flags & INDIRECT) !== 0) {
        if (!this.#indirect) return this.#reject("an indirect descriptor was not negotiated");
        if (inTable) return this.#reject("an indirect table refers to another");
        if ((this.#flags & NEXT) !== 0)
          return this.#reject("an indirect descriptor has a next one");
        if (this.#length === 0 || this.#length % DESCRIPTOR !== 0) {
          return this.#reject(`an indirect table has ${this.#length} bytes`);
        }
        if (!this.#memory.contains(this.#address, this.#length)) {
          return this.#reject(`an indirect table lies at 0x${this.#address.toString(16)}`);
        }
        table = this.#address;
        entries = this.#length / DESCRIPTOR;
        index = 0;
        inTable = true;
        // The descriptor that refers to the table isn't one of the chain's.
        seen--;
        continue;
      }
      const write = (this.#flags & WRITE) !== 0;
      if (writable && !write)
        return this.#reject("a device-readable segment follows a writable one");
      writable = write;
      if (!this.#segment(chain, write)) return false;
      if ((this.#flags & NEXT) === 0) return true;
      index = this.#next;
      if (index >= entries) return this.#reject(`descriptor ${index} of ${entries} comes next`);
    }
  }

  #segment(chain: Chain, write: boolean): boolean {
    const length = this.#length;
    if (length === 0) return true;
    const host = this.#memory.locate(this.#address, length);
    if (host < 0) {
      return this.#reject(`a segment lies at 0x${this.#address.toString(16)}, ${length} bytes`);
    }
    if (chain.readableBytes + chain.writableBytes + length > CHAIN_BYTES_MAX) {
      return this.#reject("a chain is longer than 4 GiB");
    }
    chain.add(this.#address, length, write, host);
    return true;
  }

  /** Each field once: the driver may be writing it. */
  #fetch(at: number): void {
    const words = this.#words;
    this.#memory.readWords(at, words);
    // Addresses beyond 2^53 become another number there, which is no guest address either.
    this.#address = words[0] + words[1] * 2 ** 32;
    this.#length = words[2];
    this.#flags = words[3] & 0xffff;
    this.#next = words[3] >>> 16;
  }

  #reject(why: string): false {
    this.#break(why);
    return false;
  }

  #break(why: string): undefined {
    if (this.#r.queueBroken[this.index] !== 0) return undefined;
    this.#r.queueBroken[this.index] = 1;
    this.stop();
    this.#broke(`queue ${this.index}: ${why}`);
    return undefined;
  }
}
