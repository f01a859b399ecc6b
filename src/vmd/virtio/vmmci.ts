/**
 * vmmci: the channel by which vmd asks a guest to shut down, and tells it the time; vmmci(4).
 *
 * A PCI function with a legacy virtio header and no queue (Virtio PCI Card Specification 0.9.5,
 * § 2.2.2), at the ports of its BAR 0:
 *
 *   0x00  device features   32, R       0x10  queue notify    16
 *   0x04  guest features    32          0x12  device status    8; 0 resets
 *   0x08  queue address     32          0x13  ISR status       8, R; reading clears it
 *   0x0c  queue size        16, R: 0    0x14  command         32
 *   0x0e  queue select      16          0x18  host time: seconds 64, R; 0x20 microseconds 64, R
 *                                       0x28  generation, 16 bytes, R
 *
 * The generation is no part of vmd's: it is zero until the machine is copied, and then of each copy
 * another, which whoever draws random numbers in it should heed; as the VM generation ID of other
 * hypervisors does.
 *
 * The host writes a command and raises a configuration interrupt; the guest writes it back when it
 * has seen it. A guest that is about to halt, power off or reset by itself writes SHUTDOWN: OpenBSD's
 * driver does so at each of them, so that a host can end one that halts and waits for a key.
 */
import { declareRegisters, u32, u8, type Registers } from "../../vmm/registers.ts";
import type { PciDefinition } from "../chips/index.ts";
import type { PortDevice, Resettable, Size } from "../device.ts";

export const VmmciCommand = { NONE: 0, SHUTDOWN: 1, REBOOT: 2, SYNC_RTC: 3 } as const;

const FEATURE = { TIMESYNC: 1, ACK: 2, SYNC_RTC: 4 } as const;
const FEATURES = FEATURE.TIMESYNC | FEATURE.ACK | FEATURE.SYNC_RTC;
const DRIVER_OK = 4;
const ISR_CONFIG = 2;
/** Ports of the BAR; the header is at their beginning. */
const PORTS = 0x1000;

// Registers by their ports.
const DEVICE_FEATURES = 0x00;
const GUEST_FEATURES = 0x04;
const QUEUE_ADDRESS = 0x08;
const QUEUE_SELECT = 0x0e;
const STATUS = 0x12;
const ISR = 0x13;
const COMMAND = 0x14;
const SECONDS = 0x18;
const MICROSECONDS = 0x20;
const GENERATION = 0x28;
const END = 0x38;

/** What it is on the bus. @param irq what INTA# is wired to. @param port where its BAR lies. */
export function vmmciFunction(irq: number, port: number): PciDefinition {
  return {
    vendor: 0x0b5d,
    device: 0x0777,
    class: 0x078000,
    subsystemVendor: 0x0b5d,
    subsystem: 0xffff,
    irq,
    // Without firmware nobody else would.
    command: 1,
    bars: [{ index: 0, space: "io", size: PORTS, address: port }],
  };
}

const declaration = {
  guestFeatures: u32(0),
  queueAddress: u32(0),
  queueSelect: u32(0),
  status: u8(0),
  isr: u8(0),
  command: u32(0),
  /** Host time when its first byte was read: the others belong to it. */
  secondsLow: u32(0),
  secondsHigh: u32(0),
  microseconds: u32(0),
  /** Of this copy of the machine. */
  generation: u8.array(16),
};

export const VmmciRegisters = declareRegisters("vmmci", declaration);

/** What leaves through it. */
export interface VmmciHost {
  /** Drives INTA#. */
  interrupt(level: boolean): void;
  /** The guest has seen a command. */
  acknowledged(command: number): void;
  /** The guest is about to halt, power off or reset, of its own accord. It may say so again. */
  shuttingDown(): void;
  /** Host time, ms since 1970. */
  time(): number;
  /** The driver's status or features changed, or the chip was reset. */
  driverChanged?(): void;
}

export class Vmmci implements PortDevice, Resettable {
  readonly #r: Registers<typeof declaration>;
  readonly #host: VmmciHost;
  /** Where its BAR decodes; the ports are told from it. */
  base = 0;

  constructor(registers: Registers<typeof declaration>, host: VmmciHost) {
    this.#r = registers;
    this.#host = host;
  }

  reset(): void {
    const { generation } = this.#r;
    const kept = generation.slice();
    this.#r.resetAll();
    generation.set(kept);
    this.#host.interrupt(false);
    this.#host.driverChanged?.();
  }

  /** Whether a driver is there that hears commands. */
  get hasDriver(): boolean {
    return (this.#r.status & DRIVER_OK) !== 0;
  }

  /** Whether the driver sets the guest's clock when it is asked to. */
  get syncsRtc(): boolean {
    return this.hasDriver && (this.#r.guestFeatures & FEATURE.SYNC_RTC) !== 0;
  }

  /** The machine is a copy: 16 bytes that no other has. A driver is told to look at the time, too. */
  set generation(bytes: Uint8Array) {
    this.#r.generation.set(bytes);
    this.request(VmmciCommand.SYNC_RTC);
  }

  /**
   * Gives the guest a command, in place of one that it has not acknowledged; but a guest that is to
   * go needs no new time.
   * @returns false when the guest isn't asked: no driver is there for that, or it is to go.
   */
  request(command: number): boolean {
    const pending = this.#r.command;
    if (!this.hasDriver) return false;
    if (command === VmmciCommand.SYNC_RTC) {
      const leaving = pending === VmmciCommand.SHUTDOWN || pending === VmmciCommand.REBOOT;
      if (!this.syncsRtc || leaving) return false;
    }
    this.#r.command = command;
    this.#r.isr |= ISR_CONFIG;
    this.#host.interrupt(true);
    return true;
  }

  read(port: number, size: Size): number {
    const at = port - this.base;
    if (at === ISR && size === 1) {
      const { isr } = this.#r;
      this.#r.isr = 0;
      this.#host.interrupt(false);
      return isr;
    }
    let value = 0;
    for (let i = 0; i < size; i++) value |= this.#byte(at + i) << (8 * i);
    return value >>> 0;
  }

  // The registers as bytes: drivers read configuration in any size.
  #byte(at: number): number {
    const r = this.#r;
    if (at < 0 || at >= END) return 0xff;
    if (at >= GENERATION) return r.generation[at - GENERATION];
    if (at >= SECONDS) return this.#timeByte(at);
    const part = (value: number, from: number) => (value >>> (8 * (at - from))) & 0xff;
    if (at >= COMMAND) return part(r.command, COMMAND);
    if (at === ISR) return 0;
    if (at === STATUS) return r.status;
    if (at >= QUEUE_SELECT) return at < QUEUE_SELECT + 2 ? part(r.queueSelect, QUEUE_SELECT) : 0;
    if (at >= QUEUE_ADDRESS)
      return at < QUEUE_ADDRESS + 4 ? part(r.queueAddress, QUEUE_ADDRESS) : 0;
    if (at >= GUEST_FEATURES) return part(r.guestFeatures, GUEST_FEATURES);
    return part(FEATURES, DEVICE_FEATURES);
  }

  #timeByte(at: number): number {
    const r = this.#r;
    if (at === SECONDS) {
      const time = this.#host.time();
      const seconds = Math.floor(time / 1000);
      r.secondsLow = seconds % 2 ** 32;
      r.secondsHigh = Math.floor(seconds / 2 ** 32);
      r.microseconds = Math.floor((time - seconds * 1000) * 1000);
    }
    const index = (at - SECONDS) & 7;
    if (at >= MICROSECONDS) return index < 4 ? (r.microseconds >>> (8 * index)) & 0xff : 0;
    const word = index < 4 ? r.secondsLow : r.secondsHigh;
    return (word >>> (8 * (index & 3))) & 0xff;
  }

  write(port: number, size: Size, value: number): void {
    const r = this.#r;
    const at = port - this.base;
    if (at === STATUS && size === 1) {
      if (value === 0) this.reset();
      else {
        r.status = value;
        this.#host.driverChanged?.();
      }
    } else if (at === GUEST_FEATURES && size === 4) {
      r.guestFeatures = (value & FEATURES) >>> 0;
      this.#host.driverChanged?.();
    } else if (at === QUEUE_ADDRESS && size === 4) {
      // No queue is there, whatever is selected: it stays unused.
      r.queueAddress = 0;
    } else if (at === QUEUE_SELECT && size === 2) {
      r.queueSelect = value;
    } else if (at === COMMAND) {
      // Configuration may be written in any size; commands fit into a byte.
      this.#command(value);
    }
  }

  #command(value: number): void {
    const { command } = this.#r;
    if (value === VmmciCommand.NONE) return;
    if (value === command) {
      this.#r.command = VmmciCommand.NONE;
      this.#host.acknowledged(value);
    } else if (value === VmmciCommand.SHUTDOWN) {
      this.#host.shuttingDown();
    }
  }
}
