/** Where a machine's virtio devices go: device numbers, ports and interrupt lines, in their order. */
import type { MachineImage } from "../../vmm/image.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import type { PortBus } from "../bus.ts";
import { type Pci, PciFunctionRegisters } from "../chips/index.ts";
import type { InterruptLine } from "../device.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { VirtioFunction, virtioFunction } from "./pci-device.ts";
import { VirtioRegisters } from "./registers.ts";
import { Region, Transport } from "./transport.ts";

/** The lines that PCI functions get, in vmd's order; with more functions they are shared. */
const LINES = [3, 5, 6, 7, 9, 10, 11, 12, 14, 15];
const FIRST_PORT = 0x1000;
const FUNCTIONS_MAX = 15;

/** Class codes, as vmd has them. */
export const PciClass = {
  MISCELLANEOUS: 0x088000,
  SCSI: 0x010000,
  COMMUNICATION: 0x078000,
} as const;

export interface VirtioBusHost {
  readonly image: MachineImage;
  readonly pci: Pci;
  readonly ports: PortBus;
  readonly line: (irq: number) => InterruptLine;
  /** A driver broke a rule of its device, which needs a reset now. */
  readonly broke?: (device: string, why: string) => void;
}

export class VirtioBus {
  readonly #host: VirtioBusHost;
  readonly #transports: Transport[] = [];
  readonly #names: string[] = [];
  readonly #numbers = new Map<string, number>();
  #functions = 0;

  constructor(host: VirtioBusHost) {
    this.#host = host;
  }

  get memory(): GuestMemory {
    return this.#host.image.memory;
  }

  /** ELCR bits of the lines that were given away. */
  get lines(): number {
    return LINES.slice(0, this.#functions).reduce((mask, irq) => mask | (1 << irq), 0);
  }

  /**
   * The next function's line and port. @throws RangeError when there is no room for another.
   */
  next(): { irq: number; port: number } {
    if (this.#functions === FUNCTIONS_MAX) throw new RangeError("too many PCI devices");
    const index = this.#functions++;
    return { irq: LINES[index % LINES.length], port: FIRST_PORT + Region.END * index };
  }

  /**
   * Puts a device on the bus.
   * @param name for the log.
   * @param make makes it; its registers come from the machine image.
   */
  add<D extends VirtioDevice>(
    name: string,
    classCode: number,
    make: (transport: VirtioTransport) => D,
  ): D {
    const { image, pci, ports, line, broke } = this.#host;
    const { irq, port } = this.next();
    const transport = new Transport(image.registers(VirtioRegisters), image.memory, {
      interrupt: (level) => pciFunction.interrupt(level),
      broke: (why) => broke?.(name, why),
    });
    const device = make(transport);
    const pciFunction = new VirtioFunction(
      image.registers(PciFunctionRegisters),
      virtioFunction(device.type, classCode, device.configSize, irq, port),
      line(irq),
      transport,
      (bar, from, to) => {
        if (from >= 0) ports.remove(from, bar.size, transport);
        if (to >= 0) ports.add(to, bar.size, transport, 4);
      },
    );
    transport.attach(device);
    this.#numbers.set(name, pci.add(pciFunction));
    this.#transports.push(transport);
    this.#names.push(name);
    return device;
  }

  /** A device's number on the bus; undefined when there is none of that name. */
  numberOf(name: string): number | undefined {
    return this.#numbers.get(name);
  }

  /** What is in the way of a snapshot, where that can be known without having the guest stand still. */
  obstacles(): string[] {
    return this.#transports.flatMap((transport, index) => {
      const why = transport.obstacle();
      return why === undefined ? [] : [`${this.#names[index]}: ${why}`];
    });
  }

  /**
   * Before a snapshot: nothing is out of any queue afterwards.
   * @returns where that can't be had, and why
   */
  quiesce(): string[] {
    return this.#transports.flatMap((transport, index) => {
      const why = transport.quiesce();
      return why === undefined ? [] : [`${this.#names[index]}: ${why}`];
    });
  }

  /** After that, when the machine goes on. */
  proceed(): void {
    for (const transport of this.#transports) transport.proceed();
  }

  /** Which device's registers, of a snapshot, can't be, and why. */
  impossible(): string | undefined {
    for (const [index, transport] of this.#transports.entries()) {
      const why = transport.impossible();
      if (why !== undefined) return `${this.#names[index]}: ${why}`;
    }
    return undefined;
  }

  /** After a restore, once the BARs decode. */
  reattach(): void {
    for (const transport of this.#transports) transport.reattach();
  }

  /** Looks for what backends have for their devices. */
  poll(): void {
    const transports = this.#transports;
    for (let i = 0; i < transports.length; i++) transports[i].poll();
  }
}
