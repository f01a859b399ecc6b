import { expect, test } from "bun:test";
import fc from "fast-check";
import { formatSize, parseSize, SizeError } from "./size.ts";

test.each([
  ["512M", 512 * 2 ** 20],
  ["1G", 2 ** 30],
  ["4.5G", 4.5 * 2 ** 30],
  ["64k", 65536],
  ["1048576", 1048576],
  ["12b", 12],
  ["2T", 2 ** 41],
  [" 1G ", 2 ** 30],
  ["0", 0],
  ["1.0001K", 1024],
])("%s is %d bytes", (text, bytes) => {
  expect(parseSize(text)).toBe(bytes);
});

test.each([
  "",
  "M",
  "-1",
  "1.5.2G",
  "1 G",
  "1GB",
  "0x10",
  "1e9",
  ".5G",
  "1.G",
  "9007199254740993T",
])("'%s' is no size", (text) => {
  expect(() => parseSize(text)).toThrow(new SizeError(`invalid size: ${text}`));
});

test.each([
  [0, "0B"],
  [1023, "1023B"],
  [1024, "1.0K"],
  [512 * 2 ** 20, "512M"],
  [2 ** 30, "1.0G"],
  [1.5 * 2 ** 30, "1.5G"],
  [12 * 2 ** 30, "12G"],
  [3 * 2 ** 40, "3.0T"],
])("%d bytes are written %s", (bytes, text) => {
  expect(formatSize(bytes)).toBe(text);
});

test("what is written is read as nearly the same", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 45 }), (bytes) => {
      const again = parseSize(formatSize(bytes));
      expect(Math.abs(again - bytes)).toBeLessThanOrEqual(bytes * 0.06);
    }),
    { seed: 1 },
  );
});

test("any text is a size or a SizeError", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        expect(Number.isSafeInteger(parseSize(text))).toBe(true);
      } catch (error) {
        expect(error).toBeInstanceOf(SizeError);
      }
    }),
    { seed: 2, numRuns: 1000 },
  );
});
