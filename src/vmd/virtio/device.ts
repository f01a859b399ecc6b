/** What a virtio device is to its transport, and the transport to it. */
import type { Queue } from "./queue.ts";

/** A device type's part: everything but the transport. Whatever the guest does, it must not throw. */
export interface VirtioDevice {
  /** Device ID: virtio 1.2, chapter 5. */
  readonly type: number;
  /** Low and high 32 bits of what it offers, without what its transport adds. */
  readonly features: readonly [low: number, high: number];
  /** Descriptors of each queue; powers of two. */
  readonly queueSizes: readonly number[];
  /** Bytes of device-specific configuration. */
  readonly configSize: number;
  /** One byte of it. */
  readConfig(offset: number): number;
  /** The driver writes to it. Default: nothing is writable. */
  writeConfig?(offset: number, size: number, value: number): void;
  /** Chains may be there. Called with the driver at DRIVER_OK only. */
  notify(queue: number): void;
  /** Looks for what its backends have for the guest; called often. */
  poll?(): void;
  /** The driver has accepted features and is ready. */
  start?(): void;
  /** Why no snapshot can be taken of it as it is now, as a sentence's second half. Changes nothing. */
  obstacle?(): string | undefined;
  /**
   * Brings everything that is out of the queues to its end or back into them, so that the registers
   * and guest memory are all there is of the device. Default: nothing ever is out.
   * @returns why that can't be had, as a sentence's second half
   */
  quiesce?(): string | undefined;
  /** It was quiesced, and goes on as before. */
  proceed?(): void;
  /** It begins with the registers of a snapshot, its driver at DRIVER_OK. */
  restored?(): void;
  /** As after power-on: what is out of the queues is forgotten. */
  reset(): void;
}

/** What a device has of its transport. */
export interface VirtioTransport {
  queue(index: number): Queue;
  /** Whether the driver accepted a feature, by its bit number. */
  negotiated(bit: number): boolean;
  /** Whether the driver is at DRIVER_OK, and the device needs no reset. */
  readonly live: boolean;
  /** Tells the driver of what was given back in a queue, if it wants to know. */
  notifyUsed(queue: Queue): void;
  /** Tells the driver that the configuration changed. */
  configChanged(): void;
  /** The device can't go on: § 2.1.2. */
  needsReset(why: string): void;
}
