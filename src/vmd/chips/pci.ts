/**
 * The PCI host: bus 0 with its host bridge, reached by configuration mechanism 1.
 *
 *   0xcf8          address: enable 31, bus 23–16, device 15–11, function 10–8, register 7–2;
 *                  it takes and gives doublewords only (0xcf9 is the reset control register)
 *   0xcfc–0xcff    data: bytes, words or doublewords within the addressed doubleword
 *
 * Source: PCI Local Bus Specification 3.0, § 3.2.2.3.2. There is one bus with up to 32 devices of
 * one function each. What isn't there reads all ones.
 */
import { declareRegisters, u32, type Registers } from "../../vmm/registers.ts";
import type { PortDevice, Resettable, Size } from "../device.ts";
import type { PciDefinition, PciFunction } from "./pci-function.ts";

/** OpenBSD's identity for the host bridge of vmd's machines. */
export const HOST_BRIDGE: PciDefinition = { vendor: 0x0b5d, device: 0x0666, class: 0x060000 };

/** Devices on the bus. */
const DEVICES = 32;
const ENABLE = 0x80000000;
/** Bits of the address register that exist. */
const ADDRESS = 0x80fffffc;

const declaration = {
  address: u32(0),
};

export const PciRegisters = declareRegisters("pci", declaration);

export class Pci implements PortDevice, Resettable {
  readonly #r: Registers<typeof declaration>;
  readonly #functions: (PciFunction | undefined)[] = Array.from({ length: DEVICES });

  constructor(registers: Registers<typeof declaration>) {
    this.#r = registers;
  }

  /** Resets the bus, with all that is on it. */
  reset(): void {
    this.#r.resetAll();
    for (const f of this.#functions) f?.reset();
  }

  /** Before a restore: see PciFunction.detach. */
  detach(): void {
    for (const f of this.#functions) f?.detach();
  }

  /** After a restore: see PciFunction.reattach. */
  reattach(): void {
    for (const f of this.#functions) f?.reattach();
  }

  /**
   * Puts a function at a device number, 0–31, or at the next after the highest taken.
   * @returns the device number.
   * @throws RangeError when it is taken or the bus is full.
   */
  add(f: PciFunction, device = this.#functions.findLastIndex((x) => x !== undefined) + 1): number {
    if (device < 0 || device >= DEVICES || this.#functions[device] !== undefined) {
      throw new RangeError(`PCI device ${device} is taken or doesn't exist`);
    }
    this.#functions[device] = f;
    return device;
  }

  read(port: number, size: Size): number {
    const n = port & 7;
    if (n === 0 && size === 4) return this.#r.address;
    const f = this.#selected(n, size);
    if (f === undefined) return size === 4 ? 0xffffffff : size === 2 ? 0xffff : 0xff;
    return f.readConfig((this.#r.address & 0xfc) + n - 4, size);
  }

  write(port: number, size: Size, value: number): void {
    const n = port & 7;
    if (n === 0 && size === 4) {
      this.#r.address = value & ADDRESS;
      return;
    }
    this.#selected(n, size)?.writeConfig((this.#r.address & 0xfc) + n - 4, size, value);
  }

  /** The function that a data access goes to. */
  #selected(n: number, size: Size): PciFunction | undefined {
    const address = this.#r.address;
    if (n < 4 || n + size > 8 || address < ENABLE) return undefined;
    if ((address & 0xff0700) !== 0) return undefined; // another bus or function
    return this.#functions[(address >> 11) & 31];
  }
}
