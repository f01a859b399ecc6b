import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Compare } from "../executor.ts";
import { substitutions, tokensOf } from "./compare-guided.ts";

const SEED = 20261130;
const bytes = (text: string) => new TextEncoder().encode(text);

function compare(left: Uint8Array | number[], right: Uint8Array | number[]): Compare {
  return { at: 1, size: left.length, left: Uint8Array.from(left), right: Uint8Array.from(right) };
}

/** The inputs that result. */
function tried(input: Uint8Array | number[], ...compares: Compare[]): string[] {
  const from = Uint8Array.from(input);
  return [...substitutions(from, compares)].map(({ at, width, bytes }) =>
    Uint8Array.from([...from.subarray(0, at), ...bytes, ...from.subarray(at + width)]).toHex(),
  );
}

describe("substitutions", () => {
  test("put the other operand in one's place, in both orders", () => {
    const little = tried([9, 1, 2, 3, 4, 9], compare([1, 2, 3, 4], [5, 6, 7, 8]));
    expect(little).toContain("090506070809");
    const big = tried([9, 4, 3, 2, 1, 9], compare([1, 2, 3, 4], [5, 6, 7, 8]));
    expect(big).toContain("090807060509");
  });

  test("work from the right operand as well", () => {
    expect(tried([1, 2, 9], compare([5, 6], [1, 2]))).toContain("050609");
  });

  test("try the values beside it, with their carry", () => {
    const inputs = tried([1, 2, 0x77], compare([1, 2], [0xff, 0x00]));
    expect(inputs).toEqual(expect.arrayContaining(["ff0077", "000177", "fe0077"]));
  });

  test("see numbers that were made wider", () => {
    expect(tried([7, 0x42, 7], compare([0x42, 0, 0, 0], [0x17, 0, 0, 0]))).toContain("071707");
    const signed = compare([0xfe, 0xff, 0xff, 0xff], [0x80, 0xff, 0xff, 0xff]);
    expect(tried([7, 0xfe], signed)).toContain("0780");
    const wide = compare([1, 2, 0, 0, 0, 0, 0, 0], [3, 4, 0, 0, 0, 0, 0, 0]);
    expect(tried([2, 1], wide)).toContain("0403");
  });

  test("don't where the other one is wider", () => {
    for (const input of tried([7, 0x42, 7], compare([0x42, 0], [0x17, 1])))
      expect(input).toBe("never");
  });

  test("see numbers written in digits", () => {
    const inputs = tried(bytes("n=17;"), compare([17, 0, 0, 0], [0x57, 0x30, 0, 0]));
    expect(inputs).toContain(bytes("n=12375;").toHex());
    const hex = tried(bytes("n=ff;"), compare([255, 0], [0x34, 0x12]));
    expect(hex).toContain(bytes("n=1234;").toHex());
  });

  test("see digits with zeros before them, in capitals, and try the values beside theirs", () => {
    const inputs = tried(bytes(":0A0010"), compare([0x10, 0], [0xff, 0x0f]));
    for (const text of [":0A0FFF", ":0A1000", ":0A0FFE"])
      expect(inputs).toContain(bytes(text).toHex());
    const capitals = tried(bytes("x00AB"), compare([0xab, 0], [0xcd, 0]));
    expect(capitals).toContain(bytes("x00CD").toHex());
  });

  test("replace byte strings", () => {
    const inputs = tried(bytes("..AAAAAAAAAA"), compare(bytes("AAAAAAAAAA"), bytes("passphrase")));
    expect(inputs).toEqual([bytes("..passphrase").toHex()]);
  });

  test("of equal operands there are none, and none twice", () => {
    expect(tried([1, 2], compare([1, 2], [1, 2]))).toEqual([]);
    const once = tried([1, 2], compare([1, 2], [3, 4]));
    expect(tried([1, 2], compare([1, 2], [3, 4]), compare([1, 2], [3, 4]))).toEqual(once);
  });

  test("of a loop's comparisons are few", () => {
    const loop = Array.from({ length: 5000 }, (_, i) => compare([i, i >> 8], [0xff, 0x7f]));
    const input = Uint8Array.from({ length: 256 }, (_, i) => i);
    expect([...substitutions(input, loop)].length).toBeLessThan(200);
    const elsewhere = { ...compare([0xaa], [0xbb]), at: 2 };
    expect(tried(input, ...loop, elsewhere)).toContain(input.toHex().replace("aaab", "bbab"));
  });

  test("stay within the input", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 20 }),
        fc
          .constantFrom(1, 2, 3, 4, 8, 12)
          .chain((size) =>
            fc.tuple(
              fc.uint8Array({ minLength: size, maxLength: size }),
              fc.uint8Array({ minLength: size, maxLength: size }),
            ),
          ),
        (input, [left, right]) => {
          for (const { at, width } of substitutions(input, [compare(left, right)])) {
            expect(at).toBeGreaterThanOrEqual(0);
            expect(at + width).toBeLessThanOrEqual(input.length);
          }
        },
      ),
      { seed: SEED },
    );
  });
});

test("tokens are operands in both orders, without small numbers", () => {
  const found = [
    ...tokensOf([
      compare([0xbe, 0xba, 0xfe, 0xca], [1, 0, 0, 0]),
      compare(bytes("0123456789"), bytes("passphrase")),
      compare([0xff, 0xff], [5, 5]),
      compare([8, 9], [8, 9]),
    ]),
  ].map((token) => token.toHex());
  expect(found).toEqual([
    "bebafeca",
    "cafebabe",
    bytes("0123456789").toHex(),
    bytes("passphrase").toHex(),
    "0505",
    "0505",
  ]);
});
