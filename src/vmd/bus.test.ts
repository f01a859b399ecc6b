import { expect, test } from "bun:test";
import { MmioBus, PortBus } from "./bus.ts";
import type { PortDevice, Size } from "./device.ts";

class Recorder implements PortDevice {
  log: string[] = [];
  read(port: number, size: Size): number {
    this.log.push(`in ${port.toString(16)}/${size}`);
    return 0x100 + (port & 0xff);
  }
  write(port: number, size: Size, value: number): void {
    this.log.push(`out ${port.toString(16)}/${size} ${value.toString(16)}`);
  }
}

test("a port without a device reads all ones of the access size and ignores writes", () => {
  const bus = new PortBus();
  expect(bus.read(0x99, 1)).toBe(0xff);
  expect(bus.read(0x99, 2)).toBe(0xffff);
  expect(bus.read(0xffff, 4)).toBe(0xffffffff);
  bus.write(0x99, 4, 1);
});

test("an access wider than the device is split, lowest port first", () => {
  const bus = new PortBus();
  const device = new Recorder();
  bus.add(0x40, 4, device);
  bus.write(0x40, 4, 0x04030201);
  expect(device.log).toEqual(["out 40/1 1", "out 41/1 2", "out 42/1 3", "out 43/1 4"]);
  expect(bus.read(0x42, 2)).toBe(0x4342);
});

test("a split access leaves the device at its last port", () => {
  const bus = new PortBus();
  bus.add(0xffff, 1, new Recorder());
  expect(bus.read(0xffff, 2)).toBe(0xffff);
});

test("what a device answers is cut to the access size", () => {
  const bus = new PortBus();
  bus.add(0x10, 1, new Recorder(), 4);
  expect(bus.read(0x10, 1)).toBe(0x10);
  expect(bus.read(0x10, 4)).toBe(0x110);
});

test("ports can be given up, and only by who has them", () => {
  const bus = new PortBus();
  const device = new Recorder();
  bus.add(0x10, 2, device);
  bus.add(0x12, 2, device);
  bus.remove(0x12, 2, device);
  expect(bus.has(0x11)).toBe(true);
  expect(bus.has(0x12)).toBe(false);
  bus.remove(0x12, 2, device);
  bus.remove(0x10, 2, new Recorder());
  expect(bus.has(0x11)).toBe(true);
  expect(() => bus.add(0xffff, 2, new Recorder())).toThrow("don't exist");
});

test("ports that one device hid are another's again when it leaves, whoever came last", () => {
  const of = (value: number): PortDevice => ({ read: () => value, write: () => {} });
  const devices = [of(1), of(2), of(3)];
  for (const order of [
    [0, 1, 2],
    [2, 1, 0],
    [1, 2, 0],
  ]) {
    const bus = new PortBus();
    devices.forEach((device, index) => bus.add(0x100 + 0x10 * index, 1, device));
    for (const index of order) bus.add(0x20 + index, 4, devices[index]);
    const all = () => Array.from({ length: 6 }, (_, port) => bus.read(0x20 + port, 1));
    expect(all()).toEqual([1, 2, 3, 3, 3, 3]);
    bus.remove(0x22, 4, devices[2]);
    expect(all()).toEqual([1, 2, 2, 2, 2, 0xff]);
    bus.remove(0x21, 4, devices[1]);
    expect(all()).toEqual([1, 1, 1, 1, 0xff, 0xff]);
  }
});

test("an MMIO access belongs to the device that holds all of it", () => {
  const bus = new MmioBus();
  bus.add(0x1000, 0x10, { read: (_, data, size) => void data.fill(7, 0, size), write() {} });
  const data = new Uint8Array(8);
  bus.read(0x100c, data, 4);
  expect([...data]).toEqual([7, 7, 7, 7, 0, 0, 0, 0]);
  bus.read(0x100c, data, 8);
  expect([...data]).toEqual(Array(8).fill(0xff));
  expect(() => bus.add(0x100f, 1, { read() {}, write() {} })).toThrow("taken");
});
