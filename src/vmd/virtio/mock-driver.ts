/**
 * A driver for tests: it owns guest memory and a transport with a device behind it, and does what a
 * driver does, through the ports. It can also do what a driver must not.
 *
 * ```ts
 * const driver = new MockDriver((transport, memory) => new Rng(transport, random));
 * driver.start();                        // takes every feature, sets up every queue
 * driver.queues[0].add([header, 512]);   // bytes: the device reads them; a number: it writes so many
 * driver.queues[0].kick();
 * driver.queues[0].used();               // [{ head, written, data }]
 * ```
 */
import { GuestMemory } from "../../vmm/memory.ts";
import type { Size } from "../device.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { Feature } from "./features.ts";
import { VirtioRegisters } from "./registers.ts";
import { Region, Status, Transport } from "./transport.ts";

export const DescriptorFlag = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const;

/**
 * Of a chain: bytes that the device reads, how many it writes, or a segment of the caller's own,
 * wherever it lies.
 */
export type Part = Uint8Array | number | { address: number; length: number; writable: boolean };

/** A chain that was given back. */
export interface Used {
  head: number;
  written: number;
  /** The whole device-writable part of the chain, in the order of its segments. */
  data: Uint8Array;
}

const PAGE = 4096;

/** A driver's end of a queue. */
export class MockQueue {
  readonly #driver: BarDriver;
  readonly index: number;
  size = 0;
  descriptors = 0;
  available = 0;
  usedRing = 0;
  #free: number[] = [];
  readonly #out = new Map<number, { taken: number[]; writable: [number, number][] }>();
  /** Index of the next entry: of the available ring, as it will be told, and of the used ring. */
  next = 0;
  seen = 0;
  #kicked = 0;

  constructor(driver: BarDriver, index: number) {
    this.#driver = driver;
    this.index = index;
  }

  /** Lays out rings of `size` descriptors in memory of its own, and tells the device of them. */
  setUp(size?: number, enable = true): void {
    const driver = this.#driver;
    driver.write(0x16, 2, this.index);
    this.size = size ?? driver.read(0x18, 2);
    this.descriptors = driver.allocate(16 * this.size, PAGE);
    this.available = driver.allocate(6 + 2 * this.size, PAGE);
    this.usedRing = driver.allocate(6 + 8 * this.size, PAGE);
    this.#free = Array.from({ length: this.size }, (_, i) => this.size - 1 - i);
    this.#out.clear();
    this.next = this.seen = this.#kicked = 0;
    if (size !== undefined) driver.write(0x18, 2, size);
    for (const [at, address] of [
      [0x20, this.descriptors],
      [0x28, this.available],
      [0x30, this.usedRing],
    ]) {
      driver.write(at, 4, address % 2 ** 32);
      driver.write(at + 4, 4, Math.floor(address / 2 ** 32));
    }
    if (enable) driver.write(0x1c, 2, 1);
  }

  /** Chains that the device has. */
  get out(): number {
    return this.#out.size;
  }

  /** Descriptors that a chain could take. */
  get room(): number {
    return this.#free.length;
  }

  /**
   * Makes a chain available; the device isn't told.
   * @returns its head. Throws when there are too few descriptors.
   */
  add(parts: readonly Part[], { indirect = false } = {}): number {
    const taken = this.#take(indirect ? 1 : Math.max(1, parts.length));
    const head = taken[0];
    const table = indirect ? this.#driver.buffer(16 * parts.length, 16) : this.descriptors;
    const index = (i: number) => (indirect ? i : taken[i]);
    const writable: [number, number][] = [];
    parts.forEach((part, i) => {
      const segment = this.#segment(part);
      if (segment.writable) writable.push([segment.address, segment.length]);
      const last = i === parts.length - 1;
      const flags =
        (segment.writable ? DescriptorFlag.WRITE : 0) | (last ? 0 : DescriptorFlag.NEXT);
      const next = last ? 0 : index(i + 1);
      this.#describe(table + 16 * index(i), segment.address, segment.length, flags, next);
    });
    if (indirect) this.descriptor(head, table, 16 * parts.length, DescriptorFlag.INDIRECT);
    else if (parts.length === 0) this.descriptor(head, 0, 0, 0);
    this.#out.set(head, { taken, writable });
    this.offer(head);
    return head;
  }

  #take(count: number): number[] {
    if (count > this.#free.length) throw new Error(`queue ${this.index} has too few descriptors`);
    return Array.from({ length: count }, () => this.#free.pop()!);
  }

  #segment(part: Part): { address: number; length: number; writable: boolean } {
    if (typeof part === "number") {
      return { address: this.#driver.buffer(part), length: part, writable: true };
    }
    if (!(part instanceof Uint8Array)) return part;
    const address = this.#driver.buffer(part.length);
    this.#driver.memory.write(address, part);
    return { address, length: part.length, writable: false };
  }

  /** Writes any descriptor of the table. */
  descriptor(index: number, address: number, length: number, flags: number, next = 0): void {
    this.#describe(this.descriptors + 16 * index, address, length, flags, next);
  }

  #describe(at: number, address: number, length: number, flags: number, next: number): void {
    const { memory } = this.#driver;
    memory.write64(at, address);
    memory.write32(at + 8, length);
    memory.write16(at + 12, flags);
    memory.write16(at + 14, next);
  }

  /** Puts any number into the available ring as a head. */
  offer(head: number): void {
    const { memory } = this.#driver;
    memory.write16(this.available + 4 + 2 * (this.next & (this.size - 1)), head);
    this.next = (this.next + 1) & 0xffff;
    memory.write16(this.available + 2, this.next);
  }

  /**
   * Tells the device of new chains if it wants to know (§ 2.7.10), or anyway.
   * @returns whether it was told.
   */
  kick(anyway = false): boolean {
    const before = this.#kicked;
    this.#kicked = this.next;
    if (!anyway && !this.#wanted(before)) return false;
    this.#driver.write(Region.NOTIFY, 2, this.index);
    return true;
  }

  #wanted(before: number): boolean {
    const { memory } = this.#driver;
    if (!this.#driver.has(29)) return (memory.read16(this.usedRing) & 1) === 0;
    const event = memory.read16(this.usedRing + 4 + 8 * this.size);
    return ((this.next - event - 1) & 0xffff) < ((this.next - before) & 0xffff);
  }

  /** What was given back since the last call. Throws when that can't be: not out, or twice. */
  used(): Used[] {
    const { memory } = this.#driver;
    const result: Used[] = [];
    while (this.seen !== memory.read16(this.usedRing + 2)) {
      const at = this.usedRing + 4 + 8 * (this.seen & (this.size - 1));
      const head = memory.read32(at);
      const written = memory.read32(at + 4);
      const out = this.#out.get(head);
      if (out === undefined) throw new Error(`chain ${head} was given back, and was not out`);
      this.#out.delete(head);
      this.#free.push(...out.taken.reverse());
      const total = out.writable.reduce((sum, [, length]) => sum + length, 0);
      if (written > total) throw new Error(`${written} bytes written to ${total}`);
      const data = new Uint8Array(total);
      let offset = 0;
      for (const [address, length] of out.writable) {
        memory.read(address, data.subarray(offset, offset + length));
        offset += length;
      }
      result.push({ head, written, data });
      this.seen = (this.seen + 1) & 0xffff;
    }
    // § 2.7.7.1: the next one that it wants to hear of.
    if (this.#driver.has(29)) memory.write16(this.available + 4 + 2 * this.size, this.seen);
    return result;
  }

  /** One chain there and back. Throws unless it, and only it, comes back at once. */
  request(parts: readonly Part[], { indirect = false } = {}): Used {
    const head = this.add(parts, { indirect });
    this.kick();
    const used = this.used();
    if (used.length !== 1 || used[0].head !== head) {
      throw new Error(`${used.length} chains came back instead of one`);
    }
    return used[0];
  }

  /** Interrupts are not wanted, or are: only heard without EVENT_IDX (§ 2.7.7.1). */
  set silent(silent: boolean) {
    this.#driver.memory.write16(this.available, silent ? 1 : 0);
  }
}

/** A driver, however it reaches its device's BAR. */
export abstract class BarDriver {
  readonly memory: GuestMemory;
  readonly queues: MockQueue[] = [];
  /** Its own part of memory: rings in the first half, buffers in the second. */
  readonly #base: number;
  readonly #size: number;
  #accepted: readonly [number, number] = [0, 0];
  #allocated: number;
  #buffers: number;

  constructor(memory: GuestMemory, base: number, size: number) {
    this.memory = memory;
    this.#base = base;
    this.#size = size;
    this.#allocated = base;
    this.#buffers = this.#middle;
  }

  get #middle(): number {
    return this.#base + this.#size / 2;
  }

  /** Of the BAR. */
  abstract read(at: number, size: Size): number;
  abstract write(at: number, size: Size, value: number): void;

  /** Of the device-specific configuration. */
  readConfig(at: number, size: Size): number {
    return this.read(Region.DEVICE + at, size);
  }

  writeConfig(at: number, size: Size, value: number): void {
    this.write(Region.DEVICE + at, size, value);
  }

  get status(): number {
    return this.read(0x14, 1);
  }

  set status(value: number) {
    this.write(0x14, 1, value);
  }

  /** Whether the device says that it can't go on. */
  get needsReset(): boolean {
    return (this.status & Status.NEEDS_RESET) !== 0;
  }

  /** Whether the driver accepted a feature, by its bit number. */
  has(bit: number): boolean {
    return (this.#accepted[bit >> 5] & (1 << (bit & 31))) !== 0;
  }

  /** What the device offers, low and high. */
  get offered(): [number, number] {
    const half = (select: number) => {
      this.write(0x00, 4, select);
      return this.read(0x04, 4);
    };
    return [half(0), half(1)];
  }

  /** § 3.1.1, up to FEATURES_OK. @returns whether the device agrees. */
  negotiate(low: number, high = 1): boolean {
    this.#accepted = [low, high];
    this.status = 0;
    this.status = Status.ACKNOWLEDGE;
    this.status = Status.ACKNOWLEDGE | Status.DRIVER;
    [low, high].forEach((half, select) => {
      this.write(0x08, 4, select);
      this.write(0x0c, 4, half);
    });
    this.status |= Status.FEATURES_OK;
    return (this.status & Status.FEATURES_OK) !== 0;
  }

  /**
   * § 3.1.1 to its end. By default every feature is taken; `without` are bit numbers (of the low
   * half) that aren't. @param queues those to set up; default: all.
   */
  start({
    without = [],
    queues = this.queues.map((_, i) => i),
    size,
  }: { without?: number[]; queues?: number[]; size?: number } = {}): void {
    const [low, high] = this.offered;
    const kept = without.reduce((bits, bit) => (bits & ~(1 << bit)) >>> 0, low);
    if (!this.negotiate(kept, high)) throw new Error("the device doesn't agree to its features");
    this.#allocated = this.#base;
    this.#buffers = this.#middle;
    this.memory.fill(this.#base, this.#size / 2, 0);
    for (const index of queues) this.queues[index].setUp(size);
    this.status |= Status.DRIVER_OK;
  }

  /** Without the transport's own: EVENT_IDX and indirect descriptors. */
  startPlain(): void {
    this.start({ without: [Math.log2(Feature.INDIRECT_DESC), Math.log2(Feature.EVENT_IDX)] });
  }

  /** Reads the ISR status, which clears it. */
  interrupted(): { queue: boolean; config: boolean } {
    const isr = this.read(Region.ISR, 1);
    return { queue: (isr & 1) !== 0, config: (isr & 2) !== 0 };
  }

  /** Memory that stays allocated until the next start. */
  allocate(length: number, alignment = 16): number {
    const address = Math.ceil(this.#allocated / alignment) * alignment;
    if (address + length > this.#middle) throw new Error("the driver's memory is full");
    this.#allocated = address + length;
    return address;
  }

  /** Memory of a chain: taken again once the device has none. */
  buffer(length: number, alignment = 1): number {
    // Not at once: parts of the chain that is being made aren't out yet.
    const late = this.#buffers > this.#middle + this.#size / 4;
    if (late && this.queues.every((queue) => queue.out === 0)) this.#buffers = this.#middle;
    const address = Math.ceil(this.#buffers / alignment) * alignment;
    if (address + length > this.#base + this.#size) {
      throw new Error("the driver's buffers are full");
    }
    this.#buffers = address + length;
    return address;
  }
}

/** A driver with a device and its transport, in memory of their own. */
export class MockDriver<D extends VirtioDevice = VirtioDevice> extends BarDriver {
  readonly registers = VirtioRegisters.standalone();
  readonly transport: Transport;
  readonly device: D;
  /** INTA#. */
  line = false;
  /** Rules that the device says were broken. */
  readonly broke: string[] = [];

  constructor(
    create: (transport: VirtioTransport, memory: GuestMemory) => D,
    size: number = 2 ** 22,
    memory: GuestMemory = GuestMemory.standalone(size),
  ) {
    super(memory, 0, memory.size);
    this.transport = new Transport(this.registers, memory, {
      interrupt: (level) => {
        this.line = level;
      },
      broke: (why) => void this.broke.push(why),
    });
    this.device = create(this.transport, memory);
    this.transport.attach(this.device);
    this.transport.reset();
    this.device.queueSizes.forEach((_, index) => this.queues.push(new MockQueue(this, index)));
  }

  read(at: number, size: Size): number {
    return this.transport.read(this.transport.base + at, size);
  }

  write(at: number, size: Size, value: number): void {
    this.transport.write(this.transport.base + at, size, value);
  }
}
