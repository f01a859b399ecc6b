/** The parts of the snapshot format: what older versions wrote, runs of pages, frames. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { MachineImage } from "../image.ts";
import { declareRegisters, f64, u16, u32, u8 } from "../registers.ts";
import { applyBlocks, decodeBlocks, encodeBlocks, imageBlocks } from "./blocks.ts";
import { PAGE, SnapshotError } from "./format.ts";
import { PageSet } from "./page-set.ts";
import { isFrameOf } from "./zstd-frame.ts";

const RAM = [{ base: 0, size: 0x10000, readonly: false }];

describe("register blocks", () => {
  const older = declareRegisters("chip", { a: u8(1), list: u16.array(2, 7), when: f64(5) });
  // A later version of the same chip: a register more, one wider, an array longer.
  const newer = declareRegisters("chip", {
    when: f64(5),
    fresh: u32(9),
    a: u16(1),
    list: u16.array(4, 7),
  });

  test("an older version's are read: what it hadn't got keeps its reset value", () => {
    using from = new MachineImage(RAM);
    const was = from.registers(older);
    was.resetAll();
    Object.assign(was, { a: 200, when: 1.5 });
    was.list.set([300, 400]);
    const payload = encodeBlocks(imageBlocks(from));
    using to = new MachineImage(RAM);
    const now = to.registers(newer);
    const other = to.registers(declareRegisters("added", { x: u8(3) }));
    now.resetAll();
    other.resetAll();
    applyBlocks(to, decodeBlocks(payload));
    expect([now.a, now.fresh, now.when, [...now.list], other.x]).toEqual([
      200,
      9,
      1.5,
      [300, 400, 7, 7],
      3,
    ]);
  });

  test("a newer version's are refused, and name what isn't known", () => {
    using from = new MachineImage(RAM);
    from.registers(newer).resetAll();
    const payload = encodeBlocks(imageBlocks(from));
    using to = new MachineImage(RAM);
    to.registers(older).resetAll();
    const before = to.state.slice();
    expect(() => applyBlocks(to, decodeBlocks(payload))).toThrow(
      new SnapshotError('it has a register "fresh" of "chip", which this program doesn\'t know'),
    );
    expect(to.state).toEqual(before);
    using none = new MachineImage(RAM);
    expect(() => applyBlocks(none, decodeBlocks(payload))).toThrow(
      'it has a "chip" that this machine hasn\'t got',
    );
  });

  test("a register that begins with Infinity may hold it", () => {
    const never = declareRegisters("never", { due: f64(Infinity), at: f64(0) });
    using from = new MachineImage(RAM);
    from.registers(never).resetAll();
    using to = new MachineImage(RAM);
    const r = to.registers(never);
    applyBlocks(to, decodeBlocks(encodeBlocks(imageBlocks(from))));
    expect([r.due, r.at]).toEqual([Infinity, 0]);
  });

  test("a register that isn't a number, or has become narrower, is refused", () => {
    using from = new MachineImage(RAM);
    const r = from.registers(older);
    r.resetAll();
    r.when = Number.NaN;
    const bad = encodeBlocks(imageBlocks(from));
    expect(() => applyBlocks(from, decodeBlocks(bad))).toThrow(
      'its register "when" of "chip" is no number',
    );
    // What follows from it would be no number.
    for (const value of [Infinity, -Infinity, 1e300]) {
      r.when = value;
      const infinite = encodeBlocks(imageBlocks(from));
      expect(() => applyBlocks(from, decodeBlocks(infinite))).toThrow("is no number");
    }
    using narrow = new MachineImage(RAM);
    narrow.registers(declareRegisters("chip", { a: u8(1), list: u16.array(1), when: f64(0) }));
    r.when = 0;
    const wide = encodeBlocks(imageBlocks(from));
    expect(() => applyBlocks(narrow, decodeBlocks(wide))).toThrow('"list" of "chip" doesn\'t fit');
  });

  test("any bytes are blocks, or refused in a sentence", () => {
    using from = new MachineImage(RAM);
    from.registers(older).resetAll();
    const good = encodeBlocks(imageBlocks(from));
    const change = fc.record({
      at: fc.nat(good.length - 1),
      to: fc.nat(255),
      cut: fc.nat(good.length),
    });
    fc.assert(
      fc.property(change, fc.boolean(), ({ at, to, cut }, short) => {
        const bytes = good.slice(0, short ? cut : good.length);
        if (at < bytes.length) bytes[at] = to;
        try {
          decodeBlocks(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(SnapshotError);
        }
      }),
      { numRuns: 2000, seed: 1 },
    );
  });
});

describe("sets of pages", () => {
  const ranges = [
    { base: 0, size: 100 * PAGE, readonly: false, host: 0 },
    { base: 200 * PAGE, size: 70 * PAGE, readonly: false, host: 0 },
  ];

  test("runs are what was added", () => {
    const pages = fc.array(
      fc.record({ page: fc.nat(300), count: fc.integer({ min: 1, max: 90 }) }),
    );
    fc.assert(
      fc.property(pages, (added) => {
        const set = new PageSet(ranges);
        const model = new Set<number>();
        for (const { page, count } of added) {
          set.add(page * PAGE + 1, count * PAGE - 1);
          for (let i = page; i < page + count; i++)
            if (i < 100 || (i >= 200 && i < 270)) model.add(i);
        }
        const listed = [...set.runs()].flatMap(({ page, count }) =>
          Array.from({ length: count }, (_, i) => page + i),
        );
        expect(listed).toEqual([...model].sort((a, b) => a - b));
        expect(set.count).toBe(model.size);
      }),
      { seed: 3 },
    );
  });
});

describe("zstd frames", () => {
  test("what the compressor makes is a frame of its size, and of no other", () => {
    for (const size of [1, 255, 4096, 70_000, 4 * 2 ** 20]) {
      for (const fill of [0, 1]) {
        const bytes = new Uint8Array(size);
        if (fill === 1) crypto.getRandomValues(bytes.subarray(0, Math.min(size, 65_536)));
        const frame = Bun.zstdCompressSync(bytes, { level: 1 });
        expect(isFrameOf(frame, size)).toBe(true);
        expect(isFrameOf(frame, size + 1)).toBe(false);
        expect(isFrameOf(frame.subarray(0, frame.length - 1), size)).toBe(false);
        expect(isFrameOf(Buffer.concat([frame, frame]), size)).toBe(false);
      }
    }
  });

  test("one that says little and holds much is none", () => {
    // A single segment of 4096 bytes, and then blocks of one byte repeated 131,072 times.
    const head = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f];
    const block = (last: boolean) => {
      const header = (131_072 << 3) | (1 << 1) | (last ? 1 : 0);
      return [header & 0xff, (header >> 8) & 0xff, (header >> 16) & 0xff, 0];
    };
    const blocks = Array.from({ length: 1000 }, (_, i) => block(i === 999)).flat();
    expect(isFrameOf(Uint8Array.from([...head, ...blocks]), 4096)).toBe(false);
  });
});
