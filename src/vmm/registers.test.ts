import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  type Declaration,
  declareRegisters,
  f64,
  type RegisterArray,
  type RegisterType,
  u16,
  u32,
  u8,
} from "./registers.ts";

const MAKE = { u8, u16, u32, f64 } as const;
const WIDTH: Record<RegisterType, number> = { u8: 1, u16: 2, u32: 4, f64: 8 };
const MAX = { u8: 0xff, u16: 0xffff, u32: 0xffffffff } as const;

describe("layout", () => {
  test("fields lie in order, naturally aligned, in a multiple of 8 bytes", () => {
    const layout = declareRegisters("chip", {
      a: u8(1),
      b: u32(2),
      c: u8.array(3, 4),
      d: u16(5),
      e: f64(6),
      f: u8(),
    });
    expect(layout.fields.map((field) => [field.name, field.offset])).toEqual([
      ["a", 0],
      ["b", 4],
      ["c", 8],
      ["d", 12],
      ["e", 16],
      ["f", 24],
    ]);
    expect(layout.size).toBe(32);
    expect(layout.fingerprint).toBe("chip{a:u8@0,b:u32@4,c:u8[3]@8,d:u16@12,e:f64@16,f:u8@24}");
  });

  test("the fingerprint follows names, types, counts and order, but no reset value", () => {
    const print = (declaration: Declaration, name = "chip") =>
      declareRegisters(name, declaration).fingerprint;
    const one = print({ a: u8(), b: u8() });
    expect(print({ a: u8(9), b: u8(9) })).toBe(one);
    const others = [
      print({ a: u8(), b: u8() }, "other"),
      print({ b: u8(), a: u8() }),
      print({ a: u8(), b: u16() }),
      print({ a: u8(), b: u8.array(1) }),
      print({ a: u8(), c: u8() }),
      print({ a: u8(), b: u8(), c: u8() }),
    ];
    expect(new Set([one, ...others]).size).toBe(7);
  });

  test("a place outside the buffer, or at an odd offset, is refused", () => {
    const layout = declareRegisters("chip", { a: f64(), b: f64() });
    const buffer = new ArrayBuffer(24);
    layout.bind(buffer, 8);
    expect(() => layout.bind(buffer, 16)).toThrow(RangeError);
    expect(() => layout.bind(buffer, 4)).toThrow(RangeError);
    expect(() => layout.bind(buffer, -8)).toThrow(RangeError);
  });
});

test("binding changes nothing; resetAll gives every register its reset value", () => {
  const layout = declareRegisters("chip", { a: u8(0x11), b: u16.array(3, 0x2222), c: f64(-1.5) });
  const buffer = new ArrayBuffer(layout.size);
  new Uint8Array(buffer).fill(0x5a);
  const r = layout.bind(buffer);
  expect([r.a, [...r.b]]).toEqual([0x5a, [0x5a5a, 0x5a5a, 0x5a5a]]);
  r.resetAll();
  expect([r.a, [...r.b], r.c]).toEqual([0x11, [0x2222, 0x2222, 0x2222], -1.5]);
  expect(layout.bind(buffer).c).toBe(-1.5);
});

test("the registers are the buffer's bytes", () => {
  const layout = declareRegisters("chip", { a: u8(), b: u16(), c: u32(), d: u8.array(4) });
  const buffer = new ArrayBuffer(layout.size + 8);
  const r = layout.bind(buffer, 8);
  r.a = 1;
  r.b = 0x0302;
  r.c = 0x07060504;
  r.d[2] = 8;
  expect([...new Uint8Array(buffer, 8)]).toEqual([1, 0, 2, 3, 4, 5, 6, 7, 0, 0, 8, 0, 0, 0, 0, 0]);
  const copy = layout.bind(buffer.slice(0), 8);
  expect([copy.a, copy.b, copy.c, copy.d[2]]).toEqual([1, 0x0302, 0x07060504, 8]);
});

// Random declarations: names, types and counts.
const declarations = fc
  .array(
    fc.record({
      type: fc.constantFrom<RegisterType>("u8", "u16", "u32", "f64"),
      count: fc.integer({ min: 0, max: 5 }),
    }),
    { minLength: 1, maxLength: 12 },
  )
  .map((fields) =>
    Object.fromEntries(
      fields.map(({ type, count }, i) => [
        `r${i}`,
        count === 0 ? MAKE[type](0) : MAKE[type].array(count),
      ]),
    ),
  );

test("fields never overlap and are aligned, whatever the declaration", () => {
  fc.assert(
    fc.property(declarations, (declaration) => {
      const layout = declareRegisters("random", declaration);
      let end = 0;
      for (const { offset, type, count } of layout.fields) {
        expect(offset % WIDTH[type]).toBe(0);
        expect(offset).toBeGreaterThanOrEqual(end);
        end = offset + WIDTH[type] * Math.max(1, count);
      }
      expect(layout.size % 8).toBe(0);
      expect(layout.size).toBeGreaterThanOrEqual(end);
      expect(layout.size - end).toBeLessThan(8);
    }),
    { seed: 1 },
  );
});

test("a write is cut to its register's width and changes no other register", () => {
  const writes = fc.array(
    fc.record({
      field: fc.nat(),
      element: fc.nat(),
      value: fc.oneof(fc.integer(), fc.maxSafeInteger(), fc.double({ noNaN: true })),
    }),
    { maxLength: 40 },
  );
  fc.assert(
    fc.property(declarations, writes, (declaration, list) => {
      const layout = declareRegisters("random", declaration);
      const r = layout.standalone() as unknown as Record<string, number | RegisterArray>;
      const model = new Map<string, number[]>(
        layout.fields.map((f) => [f.name, Array<number>(Math.max(1, f.count)).fill(0)]),
      );
      for (const { field, element, value } of list) {
        const { name, type, count } = layout.fields[field % layout.fields.length];
        const at = element % Math.max(1, count);
        if (count === 0) r[name] = value;
        else (r[name] as RegisterArray)[at] = value;
        // As the conversions of typed arrays: modulo 2^width.
        const cut = type === "f64" ? value : Number(BigInt.asUintN(WIDTH[type] * 8, whole(value)));
        (model.get(name) as number[])[at] = cut;
        if (type !== "f64") expect(cut).toBeLessThanOrEqual(MAX[type]);
      }
      for (const { name, count } of layout.fields) {
        const held = count === 0 ? [r[name]] : [...(r[name] as RegisterArray)];
        expect(held).toEqual(model.get(name) as number[]);
      }
    }),
    { seed: 2, numRuns: 300 },
  );
});

function whole(value: number): bigint {
  return Number.isFinite(value) ? BigInt(Math.trunc(value)) : 0n;
}
