/**
 * Virtio over PCI without legacy parts: virtio 1.2, § 4.1, in vmd's layout. Everything lies in one
 * I/O BAR of 4 KiB:
 *
 *   0x000  common configuration, 0x38 bytes, § 4.1.4.3
 *   0x100  notifications: one register for all queues, which takes the queue's index, § 4.1.4.4
 *   0x200  ISR status; reading clears it and lowers INTA#, § 4.1.4.5
 *   0x300  device-specific configuration, § 4.1.4.6
 *
 * Interrupts are INTA#. Fields are written in their own width only (64-bit ones by halves); other
 * writes are ignored. Reads take any width.
 */
import type { GuestMemory } from "../../vmm/memory.ts";
import type { PortDevice, Resettable, Size } from "../device.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { Feature, HighFeature } from "./features.ts";
import { Queue } from "./queue.ts";
import type { VirtioRegisterSet } from "./registers.ts";

/** Where each structure lies in the BAR. */
export const Region = { COMMON: 0, NOTIFY: 0x100, ISR: 0x200, DEVICE: 0x300, END: 0x1000 } as const;
export const COMMON_SIZE = 0x38;

/** Device status, § 2.1. */
export const Status = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  NEEDS_RESET: 64,
  FAILED: 128,
} as const;

const ISR_QUEUE = 1;
const ISR_CONFIG = 2;
const NO_VECTOR = 0xffff;

// Common configuration
const DEVICE_FEATURE_SELECT = 0x00;
const DEVICE_FEATURE = 0x04;
const DRIVER_FEATURE_SELECT = 0x08;
const DRIVER_FEATURE = 0x0c;
const CONFIG_MSIX_VECTOR = 0x10;
const NUM_QUEUES = 0x12;
const DEVICE_STATUS = 0x14;
const CONFIG_GENERATION = 0x15;
const QUEUE_SELECT = 0x16;
const QUEUE_SIZE = 0x18;
const QUEUE_MSIX_VECTOR = 0x1a;
const QUEUE_ENABLE = 0x1c;
const QUEUE_NOTIFY_OFF = 0x1e;
const QUEUE_DESC = 0x20;
const QUEUE_DRIVER = 0x28;
const QUEUE_DEVICE = 0x30;

/** What leaves through it. */
export interface TransportHost {
  /** Drives INTA#. */
  interrupt(level: boolean): void;
  /** The driver broke a rule, and what it was. */
  broke?(why: string): void;
}

export class Transport implements PortDevice, Resettable, VirtioTransport {
  readonly #r: VirtioRegisterSet;
  readonly #host: TransportHost;
  readonly #queues: Queue[] = [];
  readonly #memory: GuestMemory;
  #device!: VirtioDevice;
  #features: readonly [number, number] = [0, 0];
  /** Where the BAR decodes. */
  base = 0;

  constructor(registers: VirtioRegisterSet, memory: GuestMemory, host: TransportHost) {
    this.#r = registers;
    this.#memory = memory;
    this.#host = host;
  }

  /** Puts the device behind it: once. */
  attach(device: VirtioDevice): void {
    this.#device = device;
    const [low, high] = device.features;
    this.#features = [
      (low | Feature.INDIRECT_DESC | Feature.EVENT_IDX) >>> 0,
      (high | HighFeature.VERSION_1) >>> 0,
    ];
    device.queueSizes.forEach((_, index) => {
      const broke = (why: string) => this.needsReset(why);
      this.#queues.push(new Queue(this.#r, index, this.#memory, broke));
    });
  }

  // --- for the machine

  reset(): void {
    const r = this.#r;
    for (const queue of this.#queues) queue.stop();
    this.#device.reset();
    // It counts on: § 2.5.2 asks only that a change be seen, and a driver may read across a reset.
    const { configGeneration } = r;
    r.resetAll();
    r.configGeneration = configGeneration;
    this.#device.queueSizes.forEach((size, index) => {
      r.queueSize[index] = size;
    });
    this.#host.interrupt(false);
  }

  /** See VirtioDevice.obstacle. */
  obstacle(): string | undefined {
    return this.live ? this.#device.obstacle?.() : undefined;
  }

  /**
   * Before a snapshot: see VirtioDevice.quiesce.
   * @returns why not, as a sentence's second half
   */
  quiesce(): string | undefined {
    if (!this.live) return undefined;
    const why = this.obstacle() ?? this.#device.quiesce?.();
    if (why !== undefined || this.#queues.every(({ taken }) => taken === 0)) return why;
    return "what is under way doesn't come to an end";
  }

  /** After that, when the machine goes on. */
  proceed(): void {
    if (this.live) this.#device.proceed?.();
  }

  /** Why the registers of a snapshot can't be a device's, as a sentence's second half. */
  impossible(): string | undefined {
    const r = this.#r;
    if (!this.live) return undefined;
    for (const [index, offered] of this.#device.queueSizes.entries()) {
      if (r.queueEnable[index] === 0 || r.queueBroken[index] !== 0) continue;
      const size = r.queueSize[index];
      if (size === 0 || size > offered || (size & (size - 1)) !== 0) {
        return `queue ${index} has ${size} descriptors`;
      }
      // Nothing is out of a queue in a snapshot.
      if (r.nextAvailable[index] !== r.nextUsed[index]) {
        return `queue ${index} has given back other chains than it took`;
      }
      const why = this.#queues[index].misplaced();
      if (why !== undefined) return `queue ${index}: ${why}`;
    }
    return undefined;
  }

  /** After a restore: the queues are read again from the registers, and what waits in them is served. */
  reattach(): void {
    if (!this.live) return;
    for (const queue of this.#queues) queue.start();
    this.#device.start?.();
    this.#device.restored?.();
    for (const queue of this.#queues) if (queue.running) this.#device.notify(queue.index);
  }

  poll(): void {
    if (this.live) this.#device.poll?.();
  }

  // --- for the device

  queue(index: number): Queue {
    return this.#queues[index];
  }

  negotiated(bit: number): boolean {
    return (this.#r.driverFeatures[bit >> 5] & (1 << (bit & 31))) !== 0;
  }

  get live(): boolean {
    const { DRIVER_OK, NEEDS_RESET } = Status;
    return (this.#r.status & (DRIVER_OK | NEEDS_RESET)) === DRIVER_OK;
  }

  notifyUsed(queue: Queue): void {
    if (queue.wantsInterrupt()) this.#interrupt(ISR_QUEUE);
  }

  configChanged(): void {
    this.#r.configGeneration++;
    if ((this.#r.status & Status.DRIVER_OK) !== 0) this.#interrupt(ISR_CONFIG);
  }

  needsReset(why: string): void {
    const r = this.#r;
    if ((r.status & Status.NEEDS_RESET) !== 0) return;
    r.status |= Status.NEEDS_RESET;
    this.#host.broke?.(why);
    // § 2.1.2: only a driver that is at DRIVER_OK is told.
    this.configChanged();
  }

  #interrupt(cause: number): void {
    this.#r.isr |= cause;
    this.#host.interrupt(true);
  }

  // --- for the driver

  read(port: number, size: Size): number {
    const at = port - this.base;
    if (at >= Region.ISR && at < Region.ISR + 0x100) return at === Region.ISR ? this.#readIsr() : 0;
    let value = 0;
    for (let i = 0; i < size; i++) value |= this.#byte(at + i) << (8 * i);
    return value >>> 0;
  }

  #readIsr(): number {
    const { isr } = this.#r;
    if (isr !== 0) {
      this.#r.isr = 0;
      this.#host.interrupt(false);
    }
    return isr;
  }

  #byte(at: number): number {
    if (at >= Region.DEVICE) {
      const offset = at - Region.DEVICE;
      return offset < this.#device.configSize ? this.#device.readConfig(offset) : 0;
    }
    if (at >= COMMON_SIZE) return 0;
    const field = FIELD_OF[at];
    return (this.#field(field) >>> (8 * (at - field))) & 0xff;
  }

  /** The common configuration's field at `at`; of 64-bit fields, a half. */
  #field(at: number): number {
    const r = this.#r;
    const q = r.queueSelect;
    const exists = q < this.#queues.length;
    switch (at) {
      case DEVICE_FEATURE_SELECT:
        return r.deviceFeatureSelect;
      case DEVICE_FEATURE:
        return r.deviceFeatureSelect < 2 ? this.#features[r.deviceFeatureSelect] : 0;
      case DRIVER_FEATURE_SELECT:
        return r.driverFeatureSelect;
      case DRIVER_FEATURE:
        return r.driverFeatureSelect < 2 ? r.driverFeatures[r.driverFeatureSelect] : 0;
      case CONFIG_MSIX_VECTOR:
      case QUEUE_MSIX_VECTOR:
        return NO_VECTOR;
      case NUM_QUEUES:
        return this.#queues.length;
      case DEVICE_STATUS:
        return r.status;
      case CONFIG_GENERATION:
        return r.configGeneration;
      case QUEUE_SELECT:
        return q;
      case QUEUE_SIZE:
        // § 4.1.4.3.1: 0 for a queue that isn't there.
        return exists ? r.queueSize[q] : 0;
      case QUEUE_ENABLE:
        return exists ? r.queueEnable[q] : 0;
      case QUEUE_NOTIFY_OFF:
        return 0;
    }
    if (!exists) return 0;
    const half = 2 * q + ((at >> 2) & 1);
    if (at >= QUEUE_DEVICE) return r.used[half];
    return at >= QUEUE_DRIVER ? r.available[half] : r.descriptors[half];
  }

  write(port: number, size: Size, value: number): void {
    const at = port - this.base;
    if (at >= Region.DEVICE) {
      const offset = at - Region.DEVICE;
      if (offset + size > this.#device.configSize) return;
      this.#device.writeConfig?.(offset, size, value);
    } else if (at === Region.NOTIFY) {
      // § 4.1.5.2: 16 bits. Linux writes no other; vmd's own layout allows 32.
      if (size !== 1) this.#notify(value & 0xffff);
    } else if (at < COMMON_SIZE && FIELD_OF[at] === at && WIDTH_OF[at] === size) {
      this.#setField(at, value);
    }
  }

  #notify(index: number): void {
    // § 2.9: nothing is consumed before DRIVER_OK; § 2.1.2: nor once a reset is needed.
    if (!this.live) return;
    const queue = this.#queues[index];
    if (queue?.running === true) this.#device.notify(index);
  }

  #setField(at: number, value: number): void {
    const r = this.#r;
    switch (at) {
      case DEVICE_FEATURE_SELECT:
        r.deviceFeatureSelect = value;
        return;
      case DRIVER_FEATURE_SELECT:
        r.driverFeatureSelect = value;
        return;
      case DRIVER_FEATURE:
        // § 3.1.1: fixed once FEATURES_OK is set.
        if (r.driverFeatureSelect < 2 && (r.status & Status.FEATURES_OK) === 0) {
          r.driverFeatures[r.driverFeatureSelect] = value;
        }
        return;
      case DEVICE_STATUS:
        this.#setStatus(value);
        return;
      case QUEUE_SELECT:
        r.queueSelect = value;
        return;
    }
    const q = r.queueSelect;
    if (q >= this.#queues.length) return;
    // § 4.1.4.3.2: an enabled queue isn't configured any more.
    if (r.queueEnable[q] !== 0) return;
    if (at === QUEUE_SIZE) {
      // A power of two (§ 2.7), no more than was offered.
      const offered = this.#device.queueSizes[q];
      if (value !== 0 && value <= offered && (value & (value - 1)) === 0) r.queueSize[q] = value;
      return;
    }
    if (at === QUEUE_ENABLE) {
      this.#enable(q, value);
      return;
    }
    const half = 2 * q + ((at >> 2) & 1);
    if (at >= QUEUE_DEVICE) r.used[half] = value;
    else if (at >= QUEUE_DRIVER) r.available[half] = value;
    else if (at >= QUEUE_DESC) r.descriptors[half] = value;
  }

  #enable(q: number, value: number): void {
    const r = this.#r;
    // § 4.1.4.3.2: nothing but 1 is written. § 3.1.1: features come first.
    if (value !== 1 || (r.status & Status.FEATURES_OK) === 0) return;
    r.queueEnable[q] = 1;
    if (this.live) this.#queues[q].start();
  }

  #setStatus(value: number): void {
    const r = this.#r;
    if (value === 0) {
      this.reset();
      return;
    }
    const { DRIVER_OK, FEATURES_OK, NEEDS_RESET } = Status;
    // § 2.1.1: the driver clears no bit; only a reset does. NEEDS_RESET is the device's.
    let status = r.status | (value & ~NEEDS_RESET);
    if ((status & FEATURES_OK) !== 0 && (r.status & FEATURES_OK) === 0 && !this.#acceptable()) {
      // § 2.2.2, § 3.1.1: the driver reads it back and sees.
      status &= ~FEATURES_OK;
    }
    // § 3.1.1: without features agreed upon there is no driver that is ready.
    if ((status & FEATURES_OK) === 0) status &= ~DRIVER_OK;
    const started = (status & DRIVER_OK) !== 0 && (r.status & DRIVER_OK) === 0;
    r.status = status;
    if (!started) return;
    for (const queue of this.#queues) queue.start();
    if (this.live) this.#device.start?.();
  }

  /** Whether what the driver accepted can be had. */
  #acceptable(): boolean {
    const [low, high] = this.#r.driverFeatures;
    const [offeredLow, offeredHigh] = this.#features;
    if ((low & ~offeredLow) !== 0 || (high & ~offeredHigh) !== 0) return false;
    // § 6.2: a device without a legacy interface may refuse a driver that doesn't know 1.0.
    return (high & HighFeature.VERSION_1) !== 0;
  }
}

/** For each byte of the common configuration, where its field begins, and how wide that is. */
const FIELD_OF = new Uint8Array(COMMON_SIZE);
const WIDTH_OF = new Uint8Array(COMMON_SIZE);
for (const [at, width] of [
  [DEVICE_FEATURE_SELECT, 4],
  [DEVICE_FEATURE, 4],
  [DRIVER_FEATURE_SELECT, 4],
  [DRIVER_FEATURE, 4],
  [CONFIG_MSIX_VECTOR, 2],
  [NUM_QUEUES, 2],
  [DEVICE_STATUS, 1],
  [CONFIG_GENERATION, 1],
  [QUEUE_SELECT, 2],
  [QUEUE_SIZE, 2],
  [QUEUE_MSIX_VECTOR, 2],
  [QUEUE_ENABLE, 2],
  [QUEUE_NOTIFY_OFF, 2],
  [QUEUE_DESC, 4],
  [QUEUE_DESC + 4, 4],
  [QUEUE_DRIVER, 4],
  [QUEUE_DRIVER + 4, 4],
  [QUEUE_DEVICE, 4],
  [QUEUE_DEVICE + 4, 4],
]) {
  FIELD_OF.fill(at, at, at + width);
  WIDTH_OF.fill(width, at, at + width);
}
