import { describe, expect, test } from "bun:test";
import { formatMac, hostMacOf, isFrom, isInterfaceMac, parseMac, randomMac } from "./mac.ts";

test("an address is what its text says", () => {
  expect(parseMac("fe:E1:bb:d1:2:0")).toEqual(Uint8Array.of(0xfe, 0xe1, 0xbb, 0xd1, 2, 0));
  expect(formatMac(parseMac("fe:E1:bb:d1:2:0")!)).toBe("fe:e1:bb:d1:02:00");
  for (const wrong of [
    "",
    "fe:e1:bb:d1:2",
    "fe:e1:bb:d1:2:0:1",
    "fe:e1:bb:d1:2:100",
    "fe-e1-bb-d1-2-0",
  ]) {
    expect(parseMac(wrong)).toBeUndefined();
  }
});

test("an interface has no group's address, and not none", () => {
  expect(isInterfaceMac(parseMac("fe:e1:bb:d1:00:00")!)).toBe(true);
  expect(isInterfaceMac(parseMac("ff:ff:ff:ff:ff:ff")!)).toBe(false);
  expect(isInterfaceMac(parseMac("01:00:5e:00:00:01")!)).toBe(false);
  expect(isInterfaceMac(new Uint8Array(6))).toBe(false);
});

describe("made-up addresses", () => {
  test("are vmd's", () => {
    for (const place of [0, 1, 2, 3]) {
      expect(formatMac(randomMac(place))).toMatch(new RegExp(`^fe:e1:bb:d${place + 1}:`));
    }
    const made = new Set(Array.from({ length: 50 }, () => formatMac(randomMac(0))));
    expect(made.size).toBeGreaterThan(40);
  });

  test("of the host's end differ from the guest's", () => {
    expect(formatMac(hostMacOf(parseMac("fe:e1:bb:d2:12:34")!))).toBe("fe:e1:ba:d2:12:34");
    const same = parseMac("fe:e1:ba:d2:12:34")!;
    expect(formatMac(hostMacOf(same))).toBe("fe:e1:bb:d2:12:34");
  });
});

test("a locked address lets its own frames through alone", () => {
  const mac = parseMac("fe:e1:bb:d1:12:34")!;
  const frame = new Uint8Array(60).fill(0xff);
  frame.set(mac, 6);
  expect(isFrom(frame, mac)).toBe(true);
  expect(isFrom(frame.subarray(0, 11), mac)).toBe(false);
  for (let i = 6; i < 12; i++) {
    const other = frame.slice();
    other[i] ^= 1;
    expect(isFrom(other, mac)).toBe(false);
  }
});
