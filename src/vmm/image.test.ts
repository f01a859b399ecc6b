import { describe, expect, test } from "bun:test";
import { closeSync, readdirSync, readFileSync, writeSync } from "node:fs";
import { CPU_LAYOUT } from "./cpu-codec.ts";
import { MachineImage } from "./image.ts";
import { hostLibrary } from "./native.ts";
import { declareRegisters, f64, type RegisterLayout, u8 } from "./registers.ts";

const A = declareRegisters("a", { x: u8(1), y: f64(2) });
const B = declareRegisters("b", { z: u8.array(5, 7) });
const PAGE = 4096;
const RAM = [{ base: 0, size: 0x10000, readonly: false }];

const header = (image: MachineImage) => Buffer.from(image.state.subarray(0, 0x100)).toString("hex");
/** Address space of this process, bytes. */
const addressSpace = () =>
  Number(/^VmSize:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
const descriptors = () => readdirSync("/proc/self/fd").length;

describe("layout", () => {
  test("clock, CPU and registers don't overlap, nor do the ranges of memory", () => {
    using image = new MachineImage([...RAM, { base: 0x100000, size: 0x3000, readonly: true }]);
    expect(image.clockAddress - image.address).toBe(0x100);
    expect(image.cpuAddress - image.address).toBe(0x1000);
    expect(image.cpu.byteLength).toBeGreaterThanOrEqual(CPU_LAYOUT.size);
    const [ram, rom] = image.memory.ranges;
    expect(ram.host - image.address).toBe(0x200000);
    // Equal to the guest's address below 2 MiB, for huge pages.
    expect(rom.host - image.address).toBe(0x200000 + 0x100000);
    expect(image.address % 0x200000).toBe(0);
    expect(image.size).toBe(0x200000 + 0x100000 + 0x3000);
    expect(image.memory.size).toBe(0x10000);
  });

  test("a chip's registers are where the order of declaration puts them, in the state", () => {
    using one = new MachineImage(RAM);
    using two = new MachineImage(RAM);
    const before = one.state.length;
    const a = one.registers(A);
    one.registers(B);
    expect(one.state.length).toBe(before + A.size + B.size);
    a.x = 0x42;
    expect(one.state[before]).toBe(0x42);
    two.registers(A);
    const b = two.registers(B);
    two.state.set(one.state);
    expect(two.state[before]).toBe(0x42);
    expect(b.z.length).toBe(5);
  });

  test("two of the same layout are two", () => {
    using image = new MachineImage(RAM);
    const [first, second] = [image.registers(A), image.registers(A)];
    first.resetAll();
    second.resetAll();
    first.x = 9;
    expect(second.x).toBe(1);
  });

  test("the header tells layouts apart", () => {
    const orders = [[A, B], [B, A], [A], [A, A]] as unknown as RegisterLayout[][];
    const headers = orders.map((layouts) => {
      using image = new MachineImage(RAM);
      for (const layout of layouts) image.registers(layout);
      return header(image);
    });
    expect(new Set(headers).size).toBe(4);
    using again = new MachineImage(RAM);
    again.registers(A);
    again.registers(B);
    expect(header(again)).toBe(headers[0]);
  });

  test("registers that don't fit are refused", () => {
    using image = new MachineImage(RAM);
    const large = declareRegisters("large", { bytes: u8.array(0x1fe000) });
    expect(() => image.registers(large)).toThrow(RangeError);
    expect(image.registers(A).x).toBe(0);
  });
});

describe("memory", () => {
  test("is zero, and costs nothing until it is touched", () => {
    using image = new MachineImage([{ base: 0, size: 2 ** 32, readonly: false }]);
    expect(image.memory.read32(2 ** 32 - 4)).toBe(0);
    const before = image.resident;
    expect(before).toBeLessThan(2 ** 22);
    image.memory.write8(2 ** 31 + 5, 1);
    image.memory.write8(12345, 1);
    expect(image.resident - before).toBeLessThanOrEqual(2 * 2 ** 21);
    expect(image.memory.read8(2 ** 31 + 5)).toBe(1);
  });

  test("pages that are there for writing hold what they held, of a file too", () => {
    using image = new MachineImage([{ base: 0, size: 64 * PAGE, readonly: false }]);
    const file = hostLibrary().vmm_memory_file(0);
    writeSync(file, new Uint8Array(8 * PAGE).fill(7));
    image.overlay(0, 8 * PAGE, file, 0);
    image.populate(2 * PAGE, 4 * PAGE);
    const at = (page: number) => image.memory.read8(page * PAGE);
    expect([1, 2, 5, 6].map(at)).toEqual([7, 7, 7, 7]);
    // They are the image's own.
    writeSync(file, new Uint8Array(8 * PAGE).fill(9), 0, 8 * PAGE, 0);
    expect([1, 2, 5, 6].map(at)).toEqual([9, 7, 7, 9]);
    closeSync(file);
  });

  test("a pointer is where the bytes are", () => {
    using image = new MachineImage(RAM);
    expect(image.memory.pointer(0x1234, 4)).toBe(image.address + 0x200000 + 0x1234);
    expect(() => image.memory.pointer(0xfffe, 4)).toThrow();
  });

  test("more than the host can map is refused in a sentence", () => {
    const huge = [{ base: 0, size: 2 ** 52, readonly: false }];
    expect(() => new MachineImage(huge)).toThrow(/MiB for a machine: E[A-Z]+/);
  });
});

test("disposing unmaps and closes, once", () => {
  const large = [{ base: 0, size: 2 ** 30, readonly: false }];
  new MachineImage(large)[Symbol.dispose]();
  const before = addressSpace();
  const open = descriptors();
  const images = Array.from({ length: 50 }, () => new MachineImage(large));
  expect(addressSpace() - before).toBeGreaterThanOrEqual(50 * 2 ** 30);
  for (const image of images) image[Symbol.dispose]();
  for (const image of images) image[Symbol.dispose]();
  expect(addressSpace() - before).toBeLessThan(2 ** 30);
  expect(descriptors()).toBeLessThanOrEqual(open);
});
