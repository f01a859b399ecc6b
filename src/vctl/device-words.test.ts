import { describe, expect, test } from "bun:test";
import { parseDisk, parseNetwork } from "./device-words.ts";

describe("-d", () => {
  test("takes what vmctl's takes", () => {
    expect(parseDisk("disk.img")).toEqual({ path: "disk.img" });
    expect(parseDisk("qcow2:a.img")).toEqual({ path: "a.img", format: "qcow2" });
    expect(parseDisk("raw:a,b")).toEqual({ path: "a,b", format: "raw" });
  });

  test("takes options behind the path", () => {
    expect(parseDisk("raw:a,b,ro,rate=10M,burst=20M,operations=500")).toEqual({
      path: "a,b",
      format: "raw",
      readOnly: true,
      limits: { bytes: 10 * 2 ** 20, burst: 20 * 2 ** 20, operations: 500 },
    });
    expect(parseDisk("a,rw")).toEqual({ path: "a" });
    // A file may be called so.
    expect(parseDisk("ro")).toEqual({ path: "ro" });
  });

  test("says what is wrong with an option", () => {
    expect(() => parseDisk("a,rate=fast")).toThrow("fast is no size such as 10M");
    expect(() => parseDisk("a,rate=")).toThrow(" is no size such as 10M");
    expect(() => parseDisk("a,operations=0")).toThrow("operations: 0 is no number from 1 on");
  });
});

test("-n takes a switch and limits", () => {
  expect(parseNetwork("lan")).toEqual({ switch: "lan" });
  expect(parseNetwork("lan,rate=1M,operations=9")).toEqual({
    switch: "lan",
    limits: { bytes: 2 ** 20, operations: 9 },
  });
  expect(() => parseNetwork("lan,burst=x")).toThrow("x is no size such as 10M");
});
