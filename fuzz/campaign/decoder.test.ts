import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Decoder } from "./decoder.ts";

const SEED = 20261130;

const ring = fc.array(
  fc.record({
    address: fc.nat(0xffff),
    length: fc.nat(4096),
    kind: fc.constantFrom("in", "out", "indirect"),
  }),
  { maxLength: 8 },
);

describe("an arbitrary as decoder", () => {
  const decoder = new Decoder(ring);

  test("gives values of its own, the same for the same bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const value = decoder.decode(bytes);
        expect(value.length).toBeLessThanOrEqual(8);
        for (const { address, length } of value) {
          expect(address).toBeLessThanOrEqual(0xffff);
          expect(length).toBeLessThanOrEqual(4096);
        }
        expect(decoder.decode(bytes)).toEqual(value);
        // What lies behind the length isn't read.
        const longer = new Uint8Array(bytes.length + 9).fill(0xff);
        longer.set(bytes);
        expect(decoder.decode(longer, bytes.length)).toEqual(value);
      }),
      { seed: SEED },
    );
  });

  test("gives its smallest value for no bytes", () => {
    expect(decoder.decode(new Uint8Array(0))).toEqual([]);
    expect(new Decoder(fc.constantFrom("a", "b")).decode(new Uint8Array(0))).toBe("a");
  });

  test("changes a late part alone by a late byte", () => {
    const tuple = new Decoder(fc.tuple(fc.nat(1000), fc.nat(1000), fc.nat(1000)));
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 12, maxLength: 12 }), fc.nat(3), (bytes, at) => {
        const [a, b] = tuple.decode(bytes);
        bytes[8 + at] ^= 0x55;
        expect(tuple.decode(bytes).slice(0, 2)).toEqual([a, b]);
      }),
      { seed: SEED },
    );
  });

  test("reaches all that the arbitrary can give", () => {
    const seen = new Set<string>();
    const kinds = new Decoder(fc.constantFrom("a", "b", "c", "d"));
    for (let byte = 0; byte < 256; byte++) seen.add(kinds.decode(Uint8Array.of(byte)));
    expect([...seen].sort()).toEqual(["a", "b", "c", "d"]);
  });

  test("ends with an arbitrary that asks until it gets what it wants", () => {
    const picky = fc.nat(9).filter((value) => value === 7);
    expect(new Decoder(picky).decode(Uint8Array.of(1, 2, 3))).toBe(7);
    const set = fc.uniqueArray(fc.nat(50), { minLength: 12, maxLength: 12 });
    expect(new Set(new Decoder(set).decode(new Uint8Array(0))).size).toBe(12);
  });
});
