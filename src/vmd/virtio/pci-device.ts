/**
 * A virtio device as a PCI function: its identity, its BAR, and the capabilities that say where in
 * the BAR the transport's structures lie (virtio 1.2, § 4.1.2, § 4.1.4).
 */
import {
  type CapabilityDefinition,
  type BarChange,
  type PciDefinition,
  PciFunction,
  type PciFunctionRegisterSet,
} from "../chips/index.ts";
import type { InterruptLine, Size } from "../device.ts";
import { COMMON_SIZE, Region, type Transport } from "./transport.ts";

const VENDOR = 0x1af4;
/** The PCI device ID is this plus the virtio device ID: § 4.1.2.1. */
const FIRST_DEVICE = 0x1040;
const SUBSYSTEM_VENDOR = 0x0b5d;

const VENDOR_SPECIFIC = 0x09;
const CapabilityType = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI: 5 } as const;

/** Of struct virtio_pci_cap, behind its identifier and link: cap_len is at 2. */
function capability(type: number, offset: number, length: number, more = 0): Uint8Array {
  const data = new Uint8Array(14 + more);
  const view = new DataView(data.buffer);
  data[0] = data.length + 2;
  data[1] = type;
  // data[2] is the BAR: 0.
  view.setUint32(6, offset, true);
  view.setUint32(10, length, true);
  return data;
}

/** § 4.1.4.9: bar, offset, length and data are the driver's. */
function windowCapability(): CapabilityDefinition {
  const data = capability(CapabilityType.PCI, 0, 0, 4);
  const writable = new Uint8Array(data.length);
  writable[2] = 0xff;
  writable.fill(0xff, 6);
  return { id: VENDOR_SPECIFIC, data, writable };
}

/** Where the window's capability lies: the first, since the list begins at 0x40. */
const WINDOW = 0x40;
const WINDOW_BAR = WINDOW + 4;
const WINDOW_OFFSET = WINDOW + 8;
const WINDOW_LENGTH = WINDOW + 12;
const WINDOW_DATA = WINDOW + 16;

/**
 * @param type virtio device ID.
 * @param port where the BAR lies until the guest moves it.
 */
export function virtioFunction(
  type: number,
  classCode: number,
  configSize: number,
  irq: number,
  port: number,
): PciDefinition {
  const plain = (kind: number, offset: number, length: number, more = 0) => ({
    id: VENDOR_SPECIFIC,
    data: capability(kind, offset, length, more),
  });
  const capabilities = [
    windowCapability(),
    plain(CapabilityType.COMMON, Region.COMMON, COMMON_SIZE),
    // The multiplier that follows is 0: one register for all queues.
    plain(CapabilityType.NOTIFY, Region.NOTIFY, 4, 4),
    plain(CapabilityType.ISR, Region.ISR, 1),
  ];
  if (configSize > 0) capabilities.push(plain(CapabilityType.DEVICE, Region.DEVICE, configSize));
  return {
    vendor: VENDOR,
    device: FIRST_DEVICE + type,
    // § 4.1.2.1: 1 or more without a legacy interface.
    revision: 1,
    class: classCode,
    subsystemVendor: SUBSYSTEM_VENDOR,
    subsystem: type,
    irq,
    // I/O and bus master: without firmware nobody else would.
    command: 5,
    bars: [{ index: 0, space: "io", size: Region.END, address: port }],
    capabilities,
  };
}

/** The function, with the window into its BAR that configuration space has. */
export class VirtioFunction extends PciFunction {
  readonly transport: Transport;

  constructor(
    registers: PciFunctionRegisterSet,
    definition: PciDefinition,
    line: InterruptLine,
    transport: Transport,
    barChange: BarChange,
  ) {
    super(registers, definition, line, (bar, from, to) => {
      if (to >= 0) transport.base = to;
      barChange(bar, from, to);
    });
    this.transport = transport;
  }

  override reset(): void {
    super.reset();
    this.transport.reset();
  }

  override readConfig(offset: number, size: Size): number {
    if (offset + size > WINDOW_DATA && offset < WINDOW_DATA + 4) {
      const width = this.#windowWidth();
      if (width !== 0 && offset === WINDOW_DATA) {
        const value = this.transport.read(this.#windowPort(), width);
        for (let i = 0; i < width; i++) this.config[WINDOW_DATA + i] = value >>> (8 * i);
      }
    }
    return super.readConfig(offset, size);
  }

  override writeConfig(offset: number, size: Size, value: number): void {
    super.writeConfig(offset, size, value);
    if (offset !== WINDOW_DATA) return;
    const width = this.#windowWidth();
    if (width === 0 || width > size) return;
    const mask = 2 ** (8 * width);
    this.transport.write(this.#windowPort(), width, value % mask);
  }

  /** 1, 2 or 4; 0 when the driver set up no access that can be: § 4.1.4.9.2. */
  #windowWidth(): Size | 0 {
    const length = this.#word(WINDOW_LENGTH);
    const offset = this.#word(WINDOW_OFFSET);
    if (this.config[WINDOW_BAR] !== 0) return 0;
    if (length !== 1 && length !== 2 && length !== 4) return 0;
    return offset % length === 0 && offset + length <= Region.END ? length : 0;
  }

  #windowPort(): number {
    return this.transport.base + this.#word(WINDOW_OFFSET);
  }

  #word(at: number): number {
    const c = this.config;
    return (c[at] | (c[at + 1] << 8) | (c[at + 2] << 16) | (c[at + 3] << 24)) >>> 0;
  }
}
