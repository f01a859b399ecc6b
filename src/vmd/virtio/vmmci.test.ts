/** vmmci against its header's specification, and whatever else a guest may do to it. */
import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Size } from "../device.ts";
import { Vmmci, VmmciCommand, VmmciRegisters } from "./vmmci.ts";

const BASE = 0x1000;
let line = false;
let events: string[] = [];
let time = 0;
let vmmci: Vmmci;
let driverChanged = () => {};

beforeEach(() => {
  driverChanged = () => {};
  line = false;
  events = [];
  time = 1_700_000_000_123;
  vmmci = new Vmmci(VmmciRegisters.standalone(), {
    interrupt: (level) => {
      line = level;
    },
    acknowledged: (command) => void events.push(`acknowledged ${command}`),
    shuttingDown: () => void events.push("shutting down"),
    time: () => time,
    driverChanged: () => driverChanged(),
  });
  vmmci.base = BASE;
  vmmci.reset();
});

const read = (at: number, size: Size = 4) => vmmci.read(BASE + at, size);
const write = (at: number, value: number, size: Size = 4) => vmmci.write(BASE + at, size, value);
const driver = () => {
  write(0x12, 1, 1);
  write(0x12, 3, 1);
  write(0x04, 7);
  write(0x12, 7, 1);
};

describe("the header", () => {
  test("features are offered, and only these are taken", () => {
    expect(read(0x00)).toBe(7);
    write(0x04, 0xffffffff);
    expect(read(0x04)).toBe(7);
  });

  test("no queue is there, whichever is selected", () => {
    write(0x0e, 1, 2);
    expect(read(0x0c, 2)).toBe(0);
    write(0x08, 0x1234);
    expect(read(0x08)).toBe(0);
  });

  test("writing 0 to the status resets", () => {
    driver();
    vmmci.request(VmmciCommand.REBOOT);
    write(0x12, 0, 1);
    expect([read(0x12, 1), read(0x04), read(0x14), line]).toEqual([0, 0, 0, false]);
  });

  test("beyond the header all ones are read", () => {
    expect(read(0x38)).toBe(0xffffffff);
    expect(read(0xffc)).toBe(0xffffffff);
  });
});

describe("the generation", () => {
  test("is zero until the machine is a copy, and stays over a reset", () => {
    expect(read(0x28)).toBe(0);
    const mine = Uint8Array.from({ length: 16 }, (_, i) => i + 1);
    vmmci.generation = mine;
    vmmci.reset();
    expect([read(0x28), read(0x34)]).toEqual([0x04030201, 0x100f0e0d]);
    write(0x28, 0, 4);
    expect(read(0x28)).toBe(0x04030201);
  });
});

describe("commands", () => {
  test("are heard only by a driver that is there", () => {
    expect(vmmci.request(VmmciCommand.REBOOT)).toBe(false);
    write(0x12, 3, 1);
    expect(vmmci.request(VmmciCommand.REBOOT)).toBe(false);
    expect(line).toBe(false);
  });

  test("interrupt, are read, and acknowledged", () => {
    driver();
    expect(vmmci.request(VmmciCommand.REBOOT)).toBe(true);
    expect(line).toBe(true);
    expect(read(0x13, 1)).toBe(2);
    expect(line).toBe(false);
    expect(read(0x13, 1)).toBe(0);
    expect(read(0x14)).toBe(2);
    write(0x14, 2);
    expect(events).toEqual(["acknowledged 2"]);
    expect(read(0x14)).toBe(0);
  });

  test("a guest's own shutdown is told; other values are nothing", () => {
    driver();
    write(0x14, 0);
    write(0x14, 77);
    write(0x14, 2);
    expect(events).toEqual([]);
    write(0x14, 1);
    expect(events).toEqual(["shutting down"]);
    write(0x14, 1, 1);
    expect(events).toEqual(["shutting down", "shutting down"]);
  });

  test("the time is only synchronised with who asked for that", () => {
    driver();
    write(0x04, 2);
    expect(vmmci.request(VmmciCommand.SYNC_RTC)).toBe(false);
    write(0x04, 7);
    expect(vmmci.request(VmmciCommand.SYNC_RTC)).toBe(true);
  });

  test("a guest that is to go is not asked for the time instead", () => {
    driver();
    vmmci.request(VmmciCommand.SYNC_RTC);
    expect(vmmci.request(VmmciCommand.REBOOT)).toBe(true);
    expect(vmmci.request(VmmciCommand.SYNC_RTC)).toBe(false);
    expect(read(0x14)).toBe(VmmciCommand.REBOOT);
    // It had read the first command before the second came.
    write(0x14, VmmciCommand.SYNC_RTC);
    expect(events).toEqual([]);
    expect(read(0x14)).toBe(VmmciCommand.REBOOT);
    write(0x14, VmmciCommand.REBOOT);
    expect(events).toEqual(["acknowledged 2"]);
    expect(vmmci.request(VmmciCommand.SYNC_RTC)).toBe(true);
  });

  test("a driver that comes or goes is told", () => {
    const seen: boolean[] = [];
    driverChanged = () => void seen.push(vmmci.syncsRtc);
    driver();
    write(0x12, 0, 1);
    expect(seen).toEqual([false, false, false, true, false]);
  });
});

test("the host's time holds together, however it is read", () => {
  expect(read(0x18)).toBe(1_700_000_000);
  time += 5000;
  expect([read(0x1c), read(0x20), read(0x24)]).toEqual([0, 123_000, 0]);
  expect(read(0x18, 2)).toBe((1_700_000_005 & 0xffff) >>> 0);
  expect(read(0x1a, 2)).toBe(1_700_000_005 >>> 16);
});

test("10,000 accesses of any kind: nothing throws, answers fit their size", () => {
  const access = fc.record({
    at: fc.oneof(fc.nat(0x30), fc.nat(0xfff)),
    size: fc.constantFrom<Size>(1, 2, 4),
    value: fc.option(fc.integer({ min: 0, max: 2 ** 32 - 1 })),
    request: fc.option(fc.nat(4)),
  });
  fc.assert(
    fc.property(fc.array(access, { maxLength: 20 }), (accesses) => {
      for (const { at, size, value, request } of accesses) {
        if (request !== null) vmmci.request(request);
        if (value !== null) {
          vmmci.write(BASE + at, size, size === 4 ? value : value % 2 ** (8 * size));
          continue;
        }
        const answer = vmmci.read(BASE + at, size);
        expect(answer).toBeGreaterThanOrEqual(0);
        expect(answer).toBeLessThan(2 ** (8 * size));
      }
    }),
    { seed: 20261128, numRuns: 1000 },
  );
});
