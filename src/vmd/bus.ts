/**
 * The buses: who answers an access to an I/O port, or to guest-physical memory that isn't RAM.
 *
 * Nothing there: reads give all ones, writes are ignored, as on a PC.
 */
import type { MmioDevice, PortDevice, Size } from "./device.ts";

const PORTS = 0x10000;

/** All ones of an access size. */
function ones(size: number): number {
  return size === 4 ? 0xffffffff : size === 2 ? 0xffff : 0xff;
}

interface PortRange {
  readonly first: number;
  readonly end: number;
  readonly slot: number;
}

/** I/O ports 0 to 0xffff. Where ranges lie over each other, the device that was the first to have any ports answers last. */
export class PortBus {
  /** Who answers. */
  readonly #slot = new Uint16Array(PORTS);
  // Slot 0 is nobody. A slot is never reused, so a freed one costs a few bytes.
  readonly #devices: (PortDevice | undefined)[] = [undefined];
  readonly #widths: Size[] = [4];
  /** In the order of their slots, whoever moved last: a restored machine's are as they were. */
  readonly #ranges: PortRange[] = [];

  /**
   * Gives `count` ports from `first` on to a device. A wider access than `width` bytes is split
   * into accesses of `width`, as the ISA bus does for 8-bit devices.
   */
  add(first: number, count: number, device: PortDevice, width: Size = 1): void {
    if (first < 0 || count < 1 || first + count > PORTS) {
      throw new RangeError(`I/O ports 0x${first.toString(16)}+${count} don't exist`);
    }
    let slot = this.#devices.findIndex((d, i) => d === device && this.#widths[i] === width);
    if (slot < 0) {
      slot = this.#devices.length;
      this.#devices.push(device);
      this.#widths.push(width);
    }
    const range = { first, end: first + count, slot };
    const behind = this.#ranges.findIndex((other) => other.slot > slot);
    this.#ranges.splice(behind < 0 ? this.#ranges.length : behind, 0, range);
    this.#fill(range);
  }

  /** Takes ports away from a device, if it was given them: whoever it hid is there again. */
  remove(first: number, count: number, device: PortDevice): void {
    const place = this.#ranges.findIndex((range) => {
      const { first: from, end, slot } = range;
      return from === first && end === first + count && this.#devices[slot] === device;
    });
    if (place < 0) return;
    const [range] = this.#ranges.splice(place, 1);
    this.#fill(range);
  }

  #fill({ first, end }: PortRange): void {
    this.#slot.fill(0, first, end);
    for (const range of this.#ranges) {
      if (range.first < end && range.end > first) {
        this.#slot.fill(range.slot, Math.max(first, range.first), Math.min(end, range.end));
      }
    }
  }

  /** Whether some device has the port. */
  has(port: number): boolean {
    return this.#slot[port] !== 0;
  }

  read(port: number, size: Size): number {
    const slot = this.#slot[port];
    const device = this.#devices[slot];
    if (device === undefined) return ones(size);
    const width = this.#widths[slot];
    if (size <= width) return (device.read(port, size) & ones(size)) >>> 0;
    let value = 0;
    for (let i = 0; i < size; i += width) {
      value |= this.read((port + i) & 0xffff, width) << (8 * i);
    }
    return value >>> 0;
  }

  write(port: number, size: Size, value: number): void {
    const slot = this.#slot[port];
    const device = this.#devices[slot];
    if (device === undefined) return;
    const width = this.#widths[slot];
    if (size <= width) {
      device.write(port, size, value);
      return;
    }
    for (let i = 0; i < size; i += width) {
      this.write((port + i) & 0xffff, width, (value >>> (8 * i)) & ones(width));
    }
  }
}

interface MmioRegion {
  readonly base: number;
  readonly end: number;
  readonly device: MmioDevice;
}

/** Guest-physical memory outside RAM. */
export class MmioBus {
  #regions: MmioRegion[] = [];

  add(base: number, size: number, device: MmioDevice): void {
    if (this.#regions.some((r) => base < r.end && base + size > r.base)) {
      throw new RangeError(`MMIO at 0x${base.toString(16)} is taken`);
    }
    this.#regions.push({ base, end: base + size, device });
  }

  remove(base: number): void {
    this.#regions = this.#regions.filter((r) => r.base !== base);
  }

  /** `data` holds at least `size` bytes. */
  read(address: number, data: Uint8Array, size: number): void {
    const device = this.#find(address, size);
    if (device === undefined) data.fill(0xff, 0, size);
    else device.read(address, data, size);
  }

  write(address: number, data: Uint8Array, size: number): void {
    this.#find(address, size)?.write(address, data, size);
  }

  #find(address: number, size: number): MmioDevice | undefined {
    const regions = this.#regions;
    for (let i = 0; i < regions.length; i++) {
      if (address >= regions[i].base && address + size <= regions[i].end) return regions[i].device;
    }
    return undefined;
  }
}
