/**
 * One PCI function: its 256 bytes of configuration space, with a type 0 header, its BARs, its
 * capability list and its INTA# pin.
 *
 * Source: PCI Local Bus Specification 3.0, chapter 6 (header, § 6.2.5.1 for BAR sizing, § 6.7 for
 * capabilities). What bytes read after reset and which of their bits can be written follows from
 * the definition; what the guest wrote lies in the registers.
 */
import { declareRegisters, u8, type Registers } from "../../vmm/registers.ts";
import type { InterruptLine, Resettable, Size } from "../device.ts";

// Header
const COMMAND = 0x04;
const STATUS = 0x06;
const BAR0 = 0x10;
const CAPABILITIES = 0x34;
const INTERRUPT_LINE = 0x3c;
const INTERRUPT_PIN = 0x3d;
const FIRST_CAPABILITY = 0x40;
/** I/O ports below are the board's: a BAR there decodes nothing, so that no chip is hidden. */
const FIRST_BAR_PORT = 0x1000;
// Command
const IO_ENABLE = 0x01;
const MEMORY_ENABLE = 0x02;
const INTX_DISABLE = 0x400;
/** I/O, memory, bus master, parity response, SERR, INTx disable. */
const COMMAND_WRITABLE = 0x547;
// Status
const INTERRUPT_STATUS = 0x08;
const CAPABILITY_LIST = 0x10;
/** A BAR's low bits. */
const BAR_IO = 0x1;
const BAR_64 = 0x4;
const BAR_PREFETCHABLE = 0x8;

/** What a base address register decodes. */
export interface BarDefinition {
  /** 0–5; a 64-bit BAR takes the next one too. */
  readonly index: number;
  readonly space: "io" | "memory";
  /** Bytes, a power of two: at least 4 for I/O, 16 for memory. */
  readonly size: number;
  readonly wide?: boolean;
  readonly prefetchable?: boolean;
  /** Where it lies after reset, for guests that no firmware prepares; 0 by default. */
  readonly address?: number;
}

/** An entry of the capability list. */
export interface CapabilityDefinition {
  readonly id: number;
  /** What follows the identifier and the pointer to the next. */
  readonly data: Uint8Array;
  /** Which bits of `data` the guest can write; none by default. */
  readonly writable?: Uint8Array;
}

/** Identity and resources of a function. */
export interface PciDefinition {
  readonly vendor: number;
  readonly device: number;
  readonly revision?: number;
  /** Base class, subclass, programming interface: 24 bits. */
  readonly class: number;
  readonly subsystemVendor?: number;
  readonly subsystem?: number;
  /** The IRQ that INTA# is wired to; absent when the function has no interrupt. */
  readonly irq?: number;
  /** The command register after reset: a machine without firmware enables decoding here. */
  readonly command?: number;
  readonly bars?: readonly BarDefinition[];
  readonly capabilities?: readonly CapabilityDefinition[];
}

/**
 * A BAR began or ceased to decode, or moved. `from` and `to` are addresses in its space, −1 for
 * not decoding; they differ.
 */
export type BarChange = (bar: BarDefinition, from: number, to: number) => void;

const declaration = {
  config: u8.array(256),
  /** INTA# as the device drives it, before the command register's INTx disable. */
  interrupt: u8(0),
};

export const PciFunctionRegisters = declareRegisters("pci-function", declaration);

export type PciFunctionRegisterSet = Registers<typeof declaration>;

export class PciFunction implements Resettable {
  protected readonly config: Uint8Array;
  readonly #r: PciFunctionRegisterSet;
  readonly #bars: readonly BarDefinition[];
  readonly #barChange: BarChange | undefined;
  readonly #line: InterruptLine | undefined;
  /** Configuration space after reset. */
  readonly #initial = new Uint8Array(256);
  /** Bits that the guest can write. */
  readonly #writable = new Uint8Array(256);
  /** Scratch: where the BARs were before a change. */
  readonly #before = new Float64Array(6);

  /**
   * @param line what INTA# is wired to, when the definition has an `irq`.
   * @throws RangeError for a definition that doesn't fit configuration space.
   */
  constructor(
    registers: PciFunctionRegisterSet,
    definition: PciDefinition,
    line?: InterruptLine,
    barChange?: BarChange,
  ) {
    this.#r = registers;
    this.config = registers.config;
    this.#bars = definition.bars ?? [];
    this.#barChange = barChange;
    this.#line = line;
    this.#defineHeader(definition);
    for (const bar of this.#bars) this.#defineBar(bar);
    this.#defineCapabilities(definition.capabilities ?? []);
  }

  reset(): void {
    this.#noteBars();
    this.config.set(this.#initial);
    this.#r.interrupt = 0;
    this.#tellBars();
    this.#line?.set(false);
  }

  /** Before registers are put in place of these: tells `barChange` that no BAR decodes any more. */
  detach(): void {
    for (const bar of this.#bars) {
      const from = this.base(bar);
      if (from >= 0) this.#barChange?.(bar, from, -1);
    }
  }

  /** After that: tells `barChange` of every BAR that decodes. */
  reattach(): void {
    for (const bar of this.#bars) {
      const to = this.base(bar);
      if (to >= 0) this.#barChange?.(bar, -1, to);
    }
  }

  /** Drives INTA#. */
  interrupt(level: boolean): void {
    this.#r.interrupt = level ? 1 : 0;
    this.#driveLine();
  }

  /** Where a BAR decodes; −1 while it doesn't. */
  base(bar: BarDefinition): number {
    const io = bar.space === "io";
    if ((this.config[COMMAND] & (io ? IO_ENABLE : MEMORY_ENABLE)) === 0) return -1;
    const at = BAR0 + 4 * bar.index;
    const low = this.#dword(at);
    if (io) {
      const base = (low & ~3) >>> 0;
      return base >= FIRST_BAR_PORT && base + bar.size <= 0x10000 ? base : -1;
    }
    const high = bar.wide === true ? this.#dword(at + 4) : 0;
    const base = high * 2 ** 32 + ((low & ~15) >>> 0);
    // No address while software sizes the BAR by writing all ones.
    if (base === 0 || base + bar.size >= (bar.wide === true ? 2 ** 52 : 2 ** 32)) return -1;
    return base;
  }

  /** Reads `size` bytes at `offset`, which stay below 256. */
  readConfig(offset: number, size: Size): number {
    let value = 0;
    for (let i = 0; i < size; i++) value |= this.#byte(offset + i) << (8 * i);
    return value >>> 0;
  }

  writeConfig(offset: number, size: Size, value: number): void {
    if (offset >= BAR0 + 24 || offset + size <= COMMAND) {
      this.#store(offset, size, value);
      return;
    }
    // A write to the command register or a BAR: see what decodes differently.
    this.#noteBars();
    this.#store(offset, size, value);
    this.#tellBars();
    this.#driveLine();
  }

  #noteBars(): void {
    for (let i = 0; i < this.#bars.length; i++) this.#before[i] = this.base(this.#bars[i]);
  }

  #tellBars(): void {
    for (let i = 0; i < this.#bars.length; i++) {
      const to = this.base(this.#bars[i]);
      if (to !== this.#before[i]) this.#barChange?.(this.#bars[i], this.#before[i], to);
    }
  }

  #store(offset: number, size: Size, value: number): void {
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      const mask = this.#writable[at];
      this.config[at] = (this.config[at] & ~mask) | ((value >>> (8 * i)) & mask);
    }
  }

  #byte(at: number): number {
    const byte = this.config[at];
    return at === STATUS && this.#r.interrupt !== 0 ? byte | INTERRUPT_STATUS : byte;
  }

  #dword(at: number): number {
    const c = this.config;
    return (c[at] | (c[at + 1] << 8) | (c[at + 2] << 16) | (c[at + 3] << 24)) >>> 0;
  }

  #driveLine(): void {
    const disabled = (this.config[COMMAND + 1] & (INTX_DISABLE >> 8)) !== 0;
    this.#line?.set(this.#r.interrupt !== 0 && !disabled);
  }

  #defineHeader(d: PciDefinition): void {
    const put = (at: number, size: number, value: number): void => {
      for (let i = 0; i < size; i++) this.#initial[at + i] = value >>> (8 * i);
    };
    put(COMMAND, 2, (d.command ?? 0) & COMMAND_WRITABLE);
    put(0x00, 2, d.vendor);
    put(0x02, 2, d.device);
    put(0x08, 1, d.revision ?? 0);
    put(0x09, 3, d.class);
    put(0x2c, 2, d.subsystemVendor ?? 0);
    put(0x2e, 2, d.subsystem ?? 0);
    this.#writable[COMMAND] = COMMAND_WRITABLE & 0xff;
    this.#writable[COMMAND + 1] = COMMAND_WRITABLE >> 8;
    this.#writable[0x0c] = 0xff; // cache line size
    this.#writable[0x0d] = 0xff; // latency timer
    if (d.irq === undefined) return;
    this.#initial[INTERRUPT_LINE] = d.irq;
    this.#writable[INTERRUPT_LINE] = 0xff;
    this.#initial[INTERRUPT_PIN] = 1;
  }

  #defineBar(bar: BarDefinition): void {
    const io = bar.space === "io";
    const registers = bar.wide === true ? 2 : 1;
    if (bar.index < 0 || bar.index + registers > 6 || (io && bar.wide === true)) {
      throw new RangeError(`a function has no BAR ${bar.index} of that kind`);
    }
    if (bar.size < (io ? 4 : 16) || !Number.isInteger(Math.log2(bar.size))) {
      throw new RangeError(`BAR ${bar.index} can't decode ${bar.size} bytes`);
    }
    const at = BAR0 + 4 * bar.index;
    const address = bar.address ?? 0;
    if (io) this.#initial[at] = BAR_IO;
    else {
      this.#initial[at] =
        (bar.wide === true ? BAR_64 : 0) | (bar.prefetchable === true ? BAR_PREFETCHABLE : 0);
    }
    for (let i = 0; i < 4 * registers; i++) {
      // Address bits below the size read 0.
      const unit = 2 ** (8 * i);
      const below = Math.min(256, Math.ceil(bar.size / unit));
      this.#writable[at + i] = bar.size <= unit ? 0xff : 256 - below;
      this.#initial[at + i] |= Math.floor(address / unit) & this.#writable[at + i];
    }
  }

  #defineCapabilities(capabilities: readonly CapabilityDefinition[]): void {
    let at = FIRST_CAPABILITY;
    let pointer = CAPABILITIES;
    for (const { id, data, writable } of capabilities) {
      if (at + 2 + data.length > 256) throw new RangeError("capabilities need over 192 bytes");
      this.#initial[STATUS] |= CAPABILITY_LIST;
      this.#initial[pointer] = at;
      this.#initial[at] = id;
      this.#initial.set(data, at + 2);
      if (writable !== undefined) this.#writable.set(writable, at + 2);
      pointer = at + 1;
      at = (at + 2 + data.length + 3) & ~3;
    }
  }
}
