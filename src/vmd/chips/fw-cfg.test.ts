import { beforeEach, describe, expect, test } from "bun:test";
import { GuestMemory } from "../../vmm/memory.ts";
import { FwCfg, FwCfgRegisters } from "./fw-cfg.ts";

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

let memory: GuestMemory;
let fw: FwCfg;

function bytes(count: number): number[] {
  return Array.from({ length: count }, () => fw.read(0x511, 1));
}

function item(key: number, count: number): number[] {
  fw.write(0x510, 2, key);
  return bytes(count);
}

const swap = (value: number): number => {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value);
  return view.getUint32(0, true);
};

/** Runs a descriptor at 0x100; its control word afterwards. */
function dma(control: number, length: number, address: number): number {
  memory.write32(0x100, swap(control));
  memory.write32(0x104, swap(length));
  memory.write32(0x108, swap(Math.floor(address / 2 ** 32)));
  memory.write32(0x10c, swap(address >>> 0));
  fw.write(0x514, 4, 0);
  fw.write(0x518, 4, swap(0x100));
  return swap(memory.read32(0x100));
}

function ram(address: number, length: number): number[] {
  const into = new Uint8Array(length);
  memory.read(address, into);
  return [...into];
}

beforeEach(() => {
  memory = GuestMemory.standalone(0x200000);
  fw = new FwCfg(FwCfgRegisters.standalone(), memory, {
    cpus: 3,
    files: [
      { name: "etc/e820", data: text("map") },
      { name: "bootorder", data: text("disk\nHALT") },
    ],
  });
});

describe("ports", () => {
  test("signature, interface, and the counts", () => {
    expect(item(0x00, 6)).toEqual([...text("QEMU"), 0, 0]);
    expect(item(0x01, 4)).toEqual([3, 0, 0, 0]);
    expect(item(0x04, 2)).toEqual([1, 0]);
    expect(item(0x05, 2)).toEqual([3, 0]);
    expect(item(0x0f, 2)).toEqual([3, 0]);
  });

  test("the directory lists the files by name", () => {
    const directory = item(0x19, 4 + 128);
    expect(directory.slice(0, 4)).toEqual([0, 0, 0, 2]);
    expect(directory.slice(4, 12)).toEqual([0, 0, 0, 9, 0, 0x20, 0, 0]);
    expect(directory.slice(12, 22)).toEqual([...text("bootorder"), 0]);
    expect(directory.slice(68, 76)).toEqual([0, 0, 0, 3, 0, 0x21, 0, 0]);
    expect(item(0x20, 4)).toEqual([...text("disk")]);
    expect(bytes(3)).toEqual([...text("\nHA")]);
    expect(item(0x21, 5)).toEqual([...text("map"), 0, 0]);
  });

  test("absent items are empty, and the selector takes words only", () => {
    expect(item(0x02, 2)).toEqual([0, 0]);
    expect(item(0x22, 2)).toEqual([0, 0]);
    expect(item(0x8000, 2)).toEqual([0, 0]);
    expect(item(0xffff, 2)).toEqual([0, 0]);
    item(0x00, 1);
    fw.write(0x510, 1, 0x19);
    expect(bytes(1)).toEqual([0x45]);
    expect(fw.read(0x510, 2)).toBe(0);
  });

  test("the DMA registers read the signature", () => {
    expect(fw.read(0x514, 4)).toBe(0x554d4551);
    expect(fw.read(0x518, 4)).toBe(0x47464320);
    expect(fw.read(0x515, 1)).toBe(0x45);
  });

  test("names that the directory can't hold are refused", () => {
    const make = (...names: string[]): FwCfg =>
      new FwCfg(FwCfgRegisters.standalone(), memory, {
        cpus: 1,
        files: names.map((name) => ({ name, data: text("") })),
      });
    expect(() => make("a".repeat(56))).toThrow(RangeError);
    expect(() => make("")).toThrow(RangeError);
    expect(() => make("a", "a")).toThrow(RangeError);
    make("a".repeat(55));
  });
});

describe("DMA", () => {
  test("select and read in one go, with zeroes beyond the end", () => {
    memory.fill(0x1000, 16, 0xff);
    expect(dma(0x21_000a, 5, 0x1000)).toBe(0);
    expect(ram(0x1000, 6)).toEqual([...text("map"), 0, 0, 0xff]);
  });

  test("skip and read on", () => {
    expect(dma(0x20_000c, 5, 0)).toBe(0);
    expect(dma(0x02, 4, 0x1000)).toBe(0);
    expect(ram(0x1000, 4)).toEqual([...text("HALT")]);
    expect(dma(0x04, 0xffffffff, 0)).toBe(0);
    expect(dma(0x04, 0xffffffff, 0)).toBe(0);
    expect(bytes(1)).toEqual([0]);
  });

  test("writes fail, and change nothing", () => {
    expect(dma(0x21_0018, 3, 0x1000)).toBe(1);
    expect(item(0x21, 3)).toEqual([...text("map")]);
  });

  test("memory that isn't there fails the operation, not the host", () => {
    expect(dma(0x21_000a, 3, 0x200000)).toBe(1);
    expect(dma(0x21_000a, 3, 0x1fffff)).toBe(1);
    expect(dma(0x21_000a, 3, 2 ** 63)).toBe(1);
    expect(dma(0x21_000a, 0x180000, 0x1000)).toBe(1);
    fw.write(0x514, 4, 0xffffffff);
    fw.write(0x518, 4, 0xffffffff);
    fw.write(0x518, 4, swap(0x1ffff8));
    expect(dma(0x21_000a, 3, 0x1000)).toBe(0);
  });
});
