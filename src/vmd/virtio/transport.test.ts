/** The PCI transport against virtio 1.2, § 2.1 to § 2.4, § 3.1 and § 4.1. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { GuestMemory } from "../../vmm/memory.ts";
import { PciFunctionRegisters } from "../chips/index.ts";
import type { VirtioDevice } from "./device.ts";
import { VirtioFunction, virtioFunction } from "./pci-device.ts";
import { VirtioRegisters } from "./registers.ts";
import { Driver, EVENT_IDX, INDIRECT_DESC, VERSION_1 } from "./testing.ts";
import { COMMON_SIZE, Region, Status, Transport } from "./transport.ts";

const { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED } = Status;

class Plain implements VirtioDevice {
  readonly type = 42;
  readonly features: readonly [number, number] = [0x21, 0x10];
  readonly queueSizes = [64, 16];
  readonly configSize = 8;
  readonly config = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]);
  readonly notified: number[] = [];
  resets = 0;
  starts = 0;
  readConfig(offset: number): number {
    return this.config[offset];
  }
  writeConfig(offset: number, size: number, value: number): void {
    for (let i = 0; i < size; i++) this.config[offset + i] = value >>> (8 * i);
  }
  notify(queue: number): void {
    this.notified.push(queue);
  }
  start(): void {
    this.starts++;
  }
  reset(): void {
    this.resets++;
  }
}

const plain = () => new Driver(() => new Plain());

describe("features", () => {
  test("are the device's and the transport's, in windows of 32 bits: § 2.2", () => {
    const d = plain();
    const offered = Array.from({ length: 128 }, (_, bit) => bit).filter((bit) => d.offers(bit));
    expect(offered).toEqual([0, 5, INDIRECT_DESC, EVENT_IDX, VERSION_1, 36]);
  });

  test("that were not offered are refused: FEATURES_OK stays clear, § 2.2.2", () => {
    for (const bit of [1, 30, 33, 34, 63]) {
      const d = plain();
      d.negotiate([bit, VERSION_1]);
      expect(d.status).toBe(ACKNOWLEDGE | DRIVER);
    }
  });

  test("without VERSION_1 are refused: § 6.2", () => {
    const d = plain();
    d.negotiate([0]);
    expect(d.status & FEATURES_OK).toBe(0);
  });

  test("can't be changed once they are agreed upon: § 3.1.1", () => {
    const d = plain();
    d.negotiate([0, VERSION_1]);
    d.write(0x08, 4, 0);
    d.write(0x0c, 4, 0x20);
    expect(d.read(0x0c, 4)).toBe(1);
    expect(d.transport.negotiated(5)).toBe(false);
  });

  test("may be tried again after a refusal", () => {
    const d = plain();
    d.negotiate([1, VERSION_1]);
    d.write(0x08, 4, 0);
    d.write(0x0c, 4, 1);
    d.status = d.status | FEATURES_OK;
    expect(d.status & FEATURES_OK).toBe(FEATURES_OK);
  });
});

describe("device status", () => {
  test("a driver is not ready without features: § 3.1.1", () => {
    const d = plain();
    d.status = ACKNOWLEDGE | DRIVER | DRIVER_OK;
    expect(d.status).toBe(ACKNOWLEDGE | DRIVER);
    expect(d.device.starts).toBe(0);
  });

  test("bits are cleared by a reset alone: § 2.1.1", () => {
    const d = plain().start();
    d.status = ACKNOWLEDGE;
    expect(d.status).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    expect(d.device.starts).toBe(1);
    const { resets } = d.device;
    d.status = 0;
    expect(d.status).toBe(0);
    expect(d.device.resets).toBe(resets + 1);
    expect([d.read(0x1c, 2), d.read(0x18, 2), d.read(0x20, 4)]).toEqual([0, 64, 0]);
  });

  test("a driver can't say that the device needs a reset", () => {
    const d = plain().start();
    d.status = d.status | NEEDS_RESET | FAILED;
    expect(d.status & (NEEDS_RESET | FAILED)).toBe(FAILED);
  });

  test("notifications before DRIVER_OK, and after a mistake, mean nothing: § 2.9, § 2.1.2", () => {
    const d = plain();
    d.negotiate([VERSION_1]);
    d.setUpQueues();
    d.notify(0);
    d.status = d.status | DRIVER_OK;
    d.notify(1);
    d.notify(2);
    d.notify(0xffff);
    expect(d.device.notified).toEqual([1]);
    d.transport.needsReset("a test");
    d.notify(1);
    expect(d.device.notified).toEqual([1]);
    expect(d.isr).toBe(2);
  });
});

describe("queues", () => {
  test("are as many as the device has; others have no size: § 4.1.4.3.1", () => {
    const d = plain();
    expect(d.read(0x12, 2)).toBe(2);
    for (const queue of [2, 8, 0x8000, 0xffff]) {
      d.write(0x16, 2, queue);
      expect(d.read(0x18, 2)).toBe(0);
      d.write(0x18, 2, 8);
      d.write(0x20, 4, 0x1234);
      d.write(0x1c, 2, 1);
      expect([d.read(0x18, 2), d.read(0x1c, 2), d.read(0x20, 4)]).toEqual([0, 0, 0]);
    }
  });

  test("are not enabled before features, nor changed afterwards: § 4.1.4.3.2", () => {
    const d = plain();
    d.write(0x1c, 2, 1);
    expect(d.read(0x1c, 2)).toBe(0);
    d.negotiate([VERSION_1]);
    d.setUpQueue(0);
    d.write(0x18, 2, 8);
    d.write(0x20, 4, 0x4000);
    d.write(0x1c, 2, 0);
    expect([d.read(0x18, 2), d.read(0x20, 4), d.read(0x1c, 2)]).toEqual([64, 0x10000, 1]);
  });

  test("a queue that is not enabled is not served", () => {
    const d = plain();
    d.negotiate([VERSION_1]);
    d.setUpQueue(1);
    d.status = d.status | DRIVER_OK;
    d.notify(0);
    expect(d.device.notified).toEqual([]);
  });
});

describe("accesses", () => {
  test("in another width than the field's are not written: § 4.1.3.1", () => {
    const d = plain();
    d.write(0x08, 2, 1);
    d.write(0x16, 1, 1);
    d.write(0x14, 4, ACKNOWLEDGE);
    d.write(0x15, 1, 9);
    d.write(0x09, 1, 1);
    expect([d.read(0x08, 4), d.read(0x16, 2), d.status, d.read(0x15, 1)]).toEqual([0, 0, 0, 0]);
  });

  test("reads of any width and place agree with each other", () => {
    const d = plain().start();
    const bytes = Array.from({ length: COMMON_SIZE }, (_, i) => d.read(i, 1));
    for (let i = 0; i + 4 <= COMMON_SIZE; i++) {
      const word = bytes.slice(i, i + 4).reduce((sum, byte, n) => sum + byte * 256 ** n, 0);
      expect(d.read(i, 4)).toBe(word);
    }
  });

  test("the device's own configuration ends where it ends", () => {
    const d = plain();
    expect(d.config(0, 4)).toBe(0x04030201);
    expect(d.config(6, 4)).toBe(0x0807);
    expect(d.config(8, 1)).toBe(0);
    d.write(Region.DEVICE + 7, 2, 0xffff);
    expect(d.config(7, 1)).toBe(8);
    d.write(Region.DEVICE + 4, 4, 0xaabbccdd);
    expect(d.config(4, 4)).toBe(0xaabbccdd);
  });

  test("reading the ISR clears it and lowers the line; a change is told by generation: § 2.5.2", () => {
    const d = plain().start();
    const generation = d.read(0x15, 1);
    d.transport.configChanged();
    expect(d.interrupt).toBe(true);
    expect(d.read(0x15, 1)).toBe(generation + 1);
    expect([d.isr, d.isr]).toEqual([2, 0]);
    expect(d.interrupt).toBe(false);
  });

  test("whatever a driver writes where, nothing throws and a reset brings it back", () => {
    const access = fc.record({
      at: fc.oneof(fc.nat(0x3f), fc.nat(0xfff)),
      size: fc.constantFrom(1 as const, 2 as const, 4 as const),
      value: fc.oneof(fc.nat(0xff), fc.nat({ max: 0xffffffff })),
      write: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
        const d = plain();
        for (const { at, size, value, write } of accesses) {
          if (write) d.write(at, size, size === 4 ? value : value % 256 ** size);
          else expect(d.read(at, size)).toBeLessThan(256 ** size);
        }
        d.start();
        expect(d.status).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
      }),
      { numRuns: 1000 },
    );
  });
});

describe("as a PCI function", () => {
  const make = () => {
    const ports: [number, number][] = [];
    const transport = new Transport(VirtioRegisters.standalone(), GuestMemory.standalone(0x1000), {
      interrupt: () => {},
    });
    const f = new VirtioFunction(
      PciFunctionRegisters.standalone(),
      virtioFunction(2, 0x010000, 8, 5, 0x2000),
      { set: () => {} },
      transport,
      (_, from, to) => void ports.push([from, to]),
    );
    f.transport.attach(new Plain());
    f.reset();
    return { f, ports };
  };

  test("says what it is: § 4.1.2.1", () => {
    const { f, ports } = make();
    expect(f.readConfig(0x00, 4)).toBe(0x10421af4);
    expect(f.readConfig(0x08, 4)).toBe(0x01000001);
    expect(f.readConfig(0x2c, 4)).toBe(0x00020b5d);
    expect(f.readConfig(0x10, 4)).toBe(0x2001);
    expect(ports).toEqual([[-1, 0x2000]]);
  });

  test("lists its structures: § 4.1.4", () => {
    const { f } = make();
    const found: number[][] = [];
    for (let at = f.readConfig(0x34, 1); at !== 0; at = f.readConfig(at + 1, 1)) {
      expect(f.readConfig(at, 1)).toBe(9);
      const length = f.readConfig(at + 2, 1);
      found.push([
        f.readConfig(at + 3, 1),
        f.readConfig(at + 4, 1),
        f.readConfig(at + 8, 4),
        f.readConfig(at + 12, 4),
        length,
      ]);
    }
    expect(found).toEqual([
      [5, 0, 0, 0, 20],
      [1, 0, 0x000, 0x38, 16],
      [2, 0, 0x100, 4, 20],
      [3, 0, 0x200, 1, 16],
      [4, 0, 0x300, 8, 16],
    ]);
  });

  test("has a window into its BAR: § 4.1.4.9", () => {
    const { f } = make();
    const access = (offset: number, length: number) => {
      f.writeConfig(0x48, 4, offset);
      f.writeConfig(0x4c, 4, length);
    };
    access(0x14, 1);
    f.writeConfig(0x50, 1, 3);
    expect(f.readConfig(0x50, 1)).toBe(3);
    access(0x300, 4);
    expect(f.readConfig(0x50, 4)).toBe(0x04030201);
    // § 4.1.4.9.2: what isn't an access is none.
    for (const [offset, length] of [
      [0x15, 2],
      [0x0ffe, 4],
      [0x1000, 4],
      [0, 3],
      [0, 8],
      [0xfffffffc, 4],
    ]) {
      access(offset, length);
      f.writeConfig(0x50, 4, 0x04040404);
      f.readConfig(0x50, 4);
    }
    f.writeConfig(0x44, 1, 1);
    access(0x14, 1);
    f.writeConfig(0x50, 1, 0);
    expect(f.transport.read(f.transport.base + 0x14, 1)).toBe(3);
  });
});
