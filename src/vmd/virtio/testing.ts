/**
 * For tests: a driver, as one in a guest does it. It speaks to a device by its ports and by guest
 * memory only, and can do wrong whatever a driver can do wrong.
 */
import { GuestMemory } from "../../vmm/memory.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { VirtioRegisters } from "./registers.ts";
import { Region, Status, Transport } from "./transport.ts";

/** Ports of the BAR, as a BIOS would place it. */
const BASE = 0x2000;
/** Each queue's rings lie in a window of their own; buffers come behind. */
const RINGS = 0x10000;
const RING_WINDOW = 0x10000;
const DESC = 0;
const AVAIL = 0x5000;
const USED = 0x8000;
const HEAP = 0x100000;

export const Flags = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const;
/** Feature bits of every device. */
export const VERSION_1 = 32;
export const INDIRECT_DESC = 28;
export const EVENT_IDX = 29;

/** A buffer of a chain: bytes for the device to read, or a length for it to fill. */
export type Part = Uint8Array | number;

export interface UsedElement {
  head: number;
  length: number;
}

interface DriverQueue {
  size: number;
  nextDescriptor: number;
  available: number;
  seen: number;
}

export class Driver<D extends VirtioDevice> {
  readonly memory: GuestMemory;
  readonly transport: Transport;
  readonly device: D;
  /** INTA#. */
  interrupt = false;
  /** What the device says the driver did wrong. */
  readonly broken: string[] = [];
  readonly queues: DriverQueue[] = [];
  #heap = HEAP;

  constructor(
    make: (transport: VirtioTransport, memory: GuestMemory) => D,
    memory = GuestMemory.standalone(4 * 2 ** 20),
  ) {
    this.memory = memory;
    this.transport = new Transport(VirtioRegisters.standalone(), memory, {
      interrupt: (level) => {
        this.interrupt = level;
      },
      broke: (why) => void this.broken.push(why),
    });
    this.transport.base = BASE;
    this.device = make(this.transport, memory);
    this.transport.attach(this.device);
    this.transport.reset();
  }

  // --- ports

  read(offset: number, size: 1 | 2 | 4): number {
    return this.transport.read(BASE + offset, size);
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    this.transport.write(BASE + offset, size, value);
  }

  get status(): number {
    return this.read(0x14, 1);
  }

  set status(value: number) {
    this.write(0x14, 1, value);
  }

  get isr(): number {
    return this.read(Region.ISR, 1);
  }

  get needsReset(): boolean {
    return (this.status & Status.NEEDS_RESET) !== 0;
  }

  offers(bit: number): boolean {
    this.write(0x00, 4, bit >> 5);
    return ((this.read(0x04, 4) >>> (bit & 31)) & 1) !== 0;
  }

  config(offset: number, size: 1 | 2 | 4): number {
    return this.read(Region.DEVICE + offset, size);
  }

  notify(queue = 0): void {
    this.write(Region.NOTIFY, 2, queue);
  }

  // --- initialisation, § 3.1.1

  /** Negotiates these features and VERSION_1, sets up all queues, and is ready. */
  start(features: readonly number[] = [], sizes: readonly number[] = []): this {
    this.negotiate([...features, VERSION_1]);
    this.setUpQueues(sizes);
    this.status = this.status | Status.DRIVER_OK;
    return this;
  }

  negotiate(features: readonly number[]): void {
    this.status = 0;
    this.queues.length = 0;
    this.#heap = HEAP;
    this.status = Status.ACKNOWLEDGE;
    this.status = Status.ACKNOWLEDGE | Status.DRIVER;
    for (const half of [0, 1]) {
      this.write(0x08, 4, half);
      const bits = features.filter((bit) => bit >> 5 === half);
      this.write(0x0c, 4, bits.reduce((mask, bit) => mask | (1 << (bit & 31)), 0) >>> 0);
    }
    this.status = this.status | Status.FEATURES_OK;
  }

  setUpQueues(sizes: readonly number[] = []): void {
    const count = this.read(0x12, 2);
    for (let index = 0; index < count; index++) this.setUpQueue(index, sizes[index]);
  }

  /** @param parts where its parts lie, if not where they usually do. */
  setUpQueue(
    index: number,
    size?: number,
    parts: { desc?: number; avail?: number; used?: number } = {},
  ): void {
    const window = RINGS + index * RING_WINDOW;
    const { desc = window + DESC, avail = window + AVAIL, used = window + USED } = parts;
    this.write(0x16, 2, index);
    if (size !== undefined) this.write(0x18, 2, size);
    const actual = this.read(0x18, 2);
    this.#address(0x20, desc);
    this.#address(0x28, avail);
    this.#address(0x30, used);
    this.write(0x1c, 2, 1);
    this.queues[index] = { size: actual, nextDescriptor: 0, available: 0, seen: 0 };
    if (this.memory.contains(window, RING_WINDOW)) this.memory.fill(window, RING_WINDOW, 0);
  }

  #address(at: number, value: number): void {
    this.write(at, 4, value % 2 ** 32);
    this.write(at + 4, 4, Math.floor(value / 2 ** 32));
  }

  // --- chains

  /** Guest memory of the driver's own. */
  allocate(length: number, align = 16): number {
    const at = Math.ceil(this.#heap / align) * align;
    this.#heap = at + length;
    if (this.#heap > this.memory.size) {
      this.#heap = HEAP;
      return this.allocate(length, align);
    }
    return at;
  }

  descriptorAddress(queue: number, index: number): number {
    return RINGS + queue * RING_WINDOW + DESC + 16 * index;
  }

  putDescriptor(at: number, address: number, length: number, flags: number, next: number): void {
    this.memory.write64(at, address);
    this.memory.write32(at + 8, length);
    this.memory.write16(at + 12, flags);
    this.memory.write16(at + 14, next);
  }

  /**
   * Makes a chain of these parts, readable ones first, and makes it available.
   * @returns its head, and where its parts lie.
   */
  add(
    parts: readonly Part[],
    { queue = 0, indirect = false }: { queue?: number; indirect?: boolean } = {},
  ): { head: number; at: number[] } {
    const q = this.queues[queue];
    const at = parts.map((part) => {
      const length = typeof part === "number" ? part : part.length;
      const address = this.allocate(length);
      if (typeof part !== "number") this.memory.write(address, part);
      return address;
    });
    const head = q.nextDescriptor;
    const table = indirect ? this.allocate(16 * parts.length) : 0;
    parts.forEach((part, i) => {
      const write = typeof part === "number";
      const length = write ? part : part.length;
      const last = i === parts.length - 1;
      const index = indirect ? i : (head + i) % q.size;
      const next = indirect ? i + 1 : (index + 1) % q.size;
      const flags = (write ? Flags.WRITE : 0) | (last ? 0 : Flags.NEXT);
      const where = indirect ? table + 16 * i : this.descriptorAddress(queue, index);
      this.putDescriptor(where, at[i], length, flags, last ? 0 : next);
    });
    if (indirect) {
      const where = this.descriptorAddress(queue, head);
      this.putDescriptor(where, table, 16 * parts.length, Flags.INDIRECT, 0);
    }
    q.nextDescriptor = (head + (indirect ? 1 : parts.length)) % q.size;
    this.offer(head, queue);
    return { head, at };
  }

  /** Makes a head available, whatever it is. */
  offer(head: number, queue = 0): void {
    const q = this.queues[queue];
    const avail = RINGS + queue * RING_WINDOW + AVAIL;
    this.memory.write16(avail + 4 + 2 * (q.available % q.size), head);
    q.available = (q.available + 1) & 0xffff;
    this.memory.write16(avail + 2, q.available);
  }

  setAvailable(index: number, queue = 0): void {
    this.memory.write16(RINGS + queue * RING_WINDOW + AVAIL + 2, index);
  }

  setAvailableFlags(flags: number, queue = 0): void {
    this.memory.write16(RINGS + queue * RING_WINDOW + AVAIL, flags);
  }

  /** The driver's used_event, and the device's avail_event. */
  setUsedEvent(value: number, queue = 0): void {
    const { size } = this.queues[queue];
    this.memory.write16(RINGS + queue * RING_WINDOW + AVAIL + 4 + 2 * size, value);
  }

  availableEvent(queue = 0): number {
    return this.memory.read16(RINGS + queue * RING_WINDOW + USED + 4 + 8 * this.queues[queue].size);
  }

  usedFlags(queue = 0): number {
    return this.memory.read16(RINGS + queue * RING_WINDOW + USED);
  }

  /** What was given back since this was last asked. */
  used(queue = 0): UsedElement[] {
    const q = this.queues[queue];
    const ring = RINGS + queue * RING_WINDOW + USED;
    const end = this.memory.read16(ring + 2);
    const found: UsedElement[] = [];
    while (q.seen !== end) {
      const at = ring + 4 + 8 * (q.seen % q.size);
      found.push({ head: this.memory.read32(at), length: this.memory.read32(at + 4) });
      q.seen = (q.seen + 1) & 0xffff;
    }
    return found;
  }

  bytes(address: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.memory.read(address, bytes);
    return bytes;
  }
}
