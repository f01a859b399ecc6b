import { beforeEach, describe, expect, test } from "bun:test";
import { HOST_BRIDGE, Pci, PciRegisters } from "./pci.ts";
import {
  type BarDefinition,
  type PciDefinition,
  PciFunction,
  PciFunctionRegisters,
} from "./pci-function.ts";

const BLK: PciDefinition = {
  vendor: 0x1af4,
  device: 0x1042,
  revision: 1,
  class: 0x010000,
  subsystemVendor: 0x0b5d,
  subsystem: 2,
  irq: 5,
  bars: [
    { index: 0, space: "io", size: 0x1000 },
    { index: 1, space: "memory", size: 0x10000 },
    { index: 2, space: "memory", size: 2 ** 33, wide: true, prefetchable: true },
  ],
  capabilities: [
    { id: 9, data: new Uint8Array([16, 1, 0]) },
    { id: 5, data: new Uint8Array([0, 0]), writable: new Uint8Array([0x01, 0]) },
  ],
};

let pci: Pci;
let blk: PciFunction;
let line: boolean;
let changes: [number, number, number][];

function select(device: number, register: number): void {
  pci.write(0xcf8, 4, 0x80000000 + (device << 11) + (register & 0xfc));
}

function get(device: number, register: number, size: 1 | 2 | 4 = 4): number {
  select(device, register);
  return pci.read(0xcfc + (register & 3), size);
}

function put(device: number, register: number, value: number, size: 1 | 2 | 4 = 4): void {
  select(device, register);
  pci.write(0xcfc + (register & 3), size, value);
}

beforeEach(() => {
  line = false;
  changes = [];
  pci = new Pci(PciRegisters.standalone());
  pci.add(new PciFunction(PciFunctionRegisters.standalone(), HOST_BRIDGE));
  blk = new PciFunction(
    PciFunctionRegisters.standalone(),
    BLK,
    { set: (level) => (line = level) },
    (bar: BarDefinition, from, to) => changes.push([bar.index, from, to]),
  );
  expect(pci.add(blk)).toBe(1);
  pci.reset();
});

describe("mechanism 1", () => {
  test("the address register is a doubleword or nothing", () => {
    pci.write(0xcf8, 4, 0xffffffff);
    expect(pci.read(0xcf8, 4)).toBe(0x80fffffc);
    pci.write(0xcf8, 1, 0);
    pci.write(0xcf8, 2, 0);
    expect(pci.read(0xcf8, 4)).toBe(0x80fffffc);
    expect(pci.read(0xcf8, 2)).toBe(0xffff);
  });

  test("data in bytes, words and doublewords", () => {
    expect(get(0, 0)).toBe(0x06660b5d);
    expect(get(1, 0)).toBe(0x10421af4);
    expect(get(1, 2, 2)).toBe(0x1042);
    expect(get(1, 1, 1)).toBe(0x1a);
    expect(get(1, 8)).toBe(0x01000001);
    expect(get(0, 8)).toBe(0x06000000);
    expect(get(1, 0x2c)).toBe(0x00020b5d);
    expect(get(1, 0x3c, 2)).toBe(0x0105);
  });

  test("all ones where nothing is: devices, functions, buses, the disabled register", () => {
    expect(get(2, 0)).toBe(0xffffffff);
    expect(get(31, 0, 2)).toBe(0xffff);
    pci.write(0xcf8, 4, 0x80000900);
    expect(pci.read(0xcfc, 4)).toBe(0xffffffff);
    pci.write(0xcf8, 4, 0x80010800);
    expect(pci.read(0xcfc, 4)).toBe(0xffffffff);
    pci.write(0xcf8, 4, 0x00000800);
    expect(pci.read(0xcfc, 4)).toBe(0xffffffff);
    pci.write(0xcf8, 4, 0x80000800);
    expect(pci.read(0xcfe, 4)).toBe(0xffffffff); // over the doubleword's end
  });

  test("a bus has 32 devices", () => {
    const f = (): PciFunction => new PciFunction(PciFunctionRegisters.standalone(), HOST_BRIDGE);
    expect(() => pci.add(f(), 1)).toThrow(RangeError);
    for (let i = 2; i < 32; i++) expect(pci.add(f())).toBe(i);
    expect(() => pci.add(f())).toThrow(RangeError);
  });
});

describe("configuration space", () => {
  test("identity can't be written", () => {
    for (const at of [0x00, 0x08, 0x2c, 0x30, 0x34]) {
      const before = get(1, at);
      put(1, at, 0xffffffff);
      expect(get(1, at)).toBe(before);
    }
    put(1, 0x3c, 0xffffffff);
    expect(get(1, 0x3c)).toBe(0x000001ff);
    put(1, 0x04, 0xffffffff);
    expect(get(1, 0x04)).toBe(0x00100547);
  });

  test("capabilities form a list, with writable bits where defined", () => {
    expect(get(1, 0x34, 1)).toBe(0x40);
    expect(get(1, 0x40)).toBe(0x01104809);
    expect(get(1, 0x48)).toBe(0x00000005);
    put(1, 0x48, 0xffffffff);
    expect(get(1, 0x48)).toBe(0x00010005);
    expect(get(0, 0x34)).toBe(0);
    expect(get(0, 0x04)).toBe(0);
  });

  test("a definition that doesn't fit is refused", () => {
    const make = (definition: Partial<PciDefinition>): PciFunction =>
      new PciFunction(PciFunctionRegisters.standalone(), { ...HOST_BRIDGE, ...definition });
    expect(() => make({ bars: [{ index: 0, space: "io", size: 6 }] })).toThrow(RangeError);
    expect(() => make({ bars: [{ index: 6, space: "io", size: 4 }] })).toThrow(RangeError);
    expect(() => make({ bars: [{ index: 5, space: "memory", size: 16, wide: true }] })).toThrow();
    expect(() => make({ capabilities: [{ id: 9, data: new Uint8Array(200) }] })).toThrow();
  });
});

describe("base address registers", () => {
  test("say their size to who writes all ones", () => {
    for (const bar of [0x10, 0x14, 0x18, 0x1c, 0x20]) put(1, bar, 0xffffffff);
    expect(get(1, 0x10)).toBe(0xfffff001);
    expect(get(1, 0x14)).toBe(0xffff0000);
    expect(get(1, 0x18)).toBe(0x0000000c);
    expect(get(1, 0x1c)).toBe(0xfffffffe);
    expect(get(1, 0x20)).toBe(0);
    expect(changes).toEqual([]);
  });

  test("decode when enabled, move, and cease", () => {
    put(1, 0x10, 0x1001);
    put(1, 0x14, 0xf0000000);
    put(1, 0x18, 0);
    put(1, 0x1c, 0x2);
    put(1, 0x04, 0x1, 2);
    expect(changes).toEqual([[0, -1, 0x1000]]);
    put(1, 0x04, 0x3, 2);
    expect(changes.slice(1)).toEqual([
      [1, -1, 0xf0000000],
      [2, -1, 2 ** 33],
    ]);
    changes = [];
    put(1, 0x10, 0x2001);
    put(1, 0x10, 0xffffffff); // sizing under way
    put(1, 0x10, 0x2000);
    put(1, 0x04, 0x2, 2);
    expect(changes).toEqual([
      [0, 0x1000, 0x2000],
      [0, 0x2000, -1],
      [0, -1, 0x2000],
      [0, 0x2000, -1],
    ]);
    put(1, 0x05, 0x04, 1);
    expect(changes.length).toBe(4);
  });

  test("reset takes them away, a restore brings them back", () => {
    put(1, 0x10, 0x1001);
    put(1, 0x14, 0xf0000000);
    put(1, 0x04, 0x3, 2);
    changes = [];
    pci.reattach();
    expect(changes).toEqual([
      [0, -1, 0x1000],
      [1, -1, 0xf0000000],
    ]);
    changes = [];
    pci.reset();
    expect(changes).toEqual([
      [0, 0x1000, -1],
      [1, 0xf0000000, -1],
    ]);
    expect(get(1, 0x10)).toBe(1);
    pci.reset();
    expect(changes.length).toBe(2);
  });

  test("no I/O BAR hides the chips of the board", () => {
    put(1, 0x04, 0x1, 2);
    put(1, 0x10, 0x0001);
    expect(changes).toEqual([]);
  });

  test("a machine without firmware has them assigned by reset", () => {
    const bars: BarDefinition[] = [
      { index: 0, space: "io", size: 0x1000, address: 0x3000 },
      { index: 2, space: "memory", size: 0x1000, wide: true, address: 0x8_c000_0000 },
    ];
    const f = new PciFunction(
      PciFunctionRegisters.standalone(),
      { ...BLK, bars, command: 0x7 },
      undefined,
      (bar, from, to) => changes.push([bar.index, from, to]),
    );
    f.reset();
    expect(changes).toEqual([
      [0, -1, 0x3000],
      [2, -1, 0x8_c000_0000],
    ]);
    expect([f.readConfig(0x10, 4), f.readConfig(0x18, 4), f.readConfig(0x1c, 4)]).toEqual([
      0x3001, 0xc0000004, 0x8,
    ]);
  });
});

test("INTA# shows in the status register and obeys INTx disable", () => {
  blk.interrupt(true);
  expect(line).toBe(true);
  expect(get(1, 0x06, 2)).toBe(0x0018);
  put(1, 0x04, 0x400, 2);
  expect(line).toBe(false);
  expect(get(1, 0x06, 2)).toBe(0x0018);
  put(1, 0x04, 0, 2);
  expect(line).toBe(true);
  blk.interrupt(false);
  expect(line).toBe(false);
  expect(get(1, 0x06, 2)).toBe(0x0010);
});
