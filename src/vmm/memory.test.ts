import { expect, test } from "bun:test";
import { GuestAddressError, GuestMemory } from "./memory.ts";

test("values of every width come back little-endian", () => {
  const memory = GuestMemory.standalone(0x1000);
  memory.write32(0x10, 0x89abcdef);
  expect(memory.read8(0x10)).toBe(0xef);
  expect(memory.read16(0x11)).toBe(0xabcd);
  memory.write64(0x20, 0x1234_5678_9abc);
  expect(memory.read64(0x20)).toBe(0x1234_5678_9abc);
});

test("an access outside the memory is refused, at its edges too", () => {
  const memory = GuestMemory.standalone(0x1000, 0x10000);
  expect(() => memory.read8(0xffff)).toThrow(GuestAddressError);
  expect(() => memory.read32(0x10ffd)).toThrow(GuestAddressError);
  expect(memory.read32(0x10ffc)).toBe(0);
  expect(memory.contains(0x10000, 0x1000)).toBe(true);
  expect(memory.contains(0x10000, 0x1001)).toBe(false);
  expect(memory.contains(2 ** 64 - 8, 16)).toBe(false);
  expect(() => memory.write(0x10ff0, new Uint8Array(17))).toThrow(GuestAddressError);
});

test("nothing may straddle the hole between two ranges", () => {
  const memory = new GuestMemory(
    [
      { base: 0, size: 0x1000, readonly: false, host: 0 },
      { base: 0x2000, size: 0x1000, readonly: false, host: 0 },
    ],
    (_, __, length) => new ArrayBuffer(length),
  );
  expect(memory.contains(0xff0, 0x1020)).toBe(false);
  expect(memory.size).toBe(0x2000);
});

test("an observer hears of every write", () => {
  const memory = GuestMemory.standalone(0x1000);
  const heard: [number, number][] = [];
  memory.observeWrites((address, length) => heard.push([address, length]));
  memory.write16(2, 1);
  memory.write(8, new Uint8Array(3));
  memory.fill(16, 4, 0xff);
  expect(heard).toEqual([
    [2, 2],
    [8, 3],
    [16, 4],
  ]);
});

test("ROM is read as it was placed, and neither written nor offered to devices", () => {
  const memory = new GuestMemory(
    [
      { base: 0, size: 0x1000, readonly: false, host: 0 },
      { base: 0xf000, size: 0x1000, readonly: true, host: 0 },
    ],
    (_, __, length) => new ArrayBuffer(length),
  );
  memory.placeRom(0xfff0, Uint8Array.of(0xea, 0x5b));
  expect(memory.read16(0xfff0)).toBe(0x5bea);
  expect(memory.contains(0xf000, 4)).toBe(false);
  expect(() => memory.write8(0xf000, 1)).toThrow(GuestAddressError);
  expect(() => memory.write(0xf000, new Uint8Array(4))).toThrow(GuestAddressError);
  expect(() => memory.placeRom(0, Uint8Array.of(1))).toThrow(GuestAddressError);
});

test("RAM has a host address, and nothing else does", () => {
  const ranges = [
    { base: 0x1000, size: 0x1000, readonly: false, host: 0x70000 },
    { base: 0x2000, size: 0x1000, readonly: true, host: 0x90000 },
  ];
  const memory = new GuestMemory(ranges, (_, __, length) => new ArrayBuffer(length));
  expect(memory.locate(0x1010, 0xff0)).toBe(0x70010);
  expect(memory.locate(0x1010, 0xff1)).toBe(-1);
  expect(memory.locate(0x2000, 4)).toBe(-1);
  expect(memory.locate(0x1010, NaN)).toBe(-1);
  expect(memory.locate(2 ** 64, 2 ** 64)).toBe(-1);
});

test("words are read at any alignment, inside RAM, and the recorder is told once", () => {
  const memory = GuestMemory.standalone(0x1000);
  memory.write32(0x103, 0x80000001);
  memory.write32(0x107, 7);
  const seen: number[][] = [];
  memory.observeReads((address, length) => void seen.push([address, length]));
  const words = new Uint32Array(2);
  memory.readWords(0x103, words);
  expect([...words]).toEqual([0x80000001, 7]);
  expect(seen).toEqual([[0x103, 8]]);
  expect(() => memory.readWords(0xffc, words)).toThrow(GuestAddressError);
});

test("words that lie across 2 GiB, where windows meet, are read too", () => {
  const memory = GuestMemory.standalone(2 ** 31 + 0x1000);
  memory.write32(2 ** 31 - 4, 5);
  memory.write32(2 ** 31, 6);
  const words = new Uint32Array(2);
  memory.readWords(2 ** 31 - 4, words);
  expect([...words]).toEqual([5, 6]);
});
