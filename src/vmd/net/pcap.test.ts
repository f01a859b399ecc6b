import { expect, test } from "bun:test";
import fc from "fast-check";
import { PcapWriter } from "./pcap.ts";

const SEED = 20261129;

function capture(
  frames: readonly { seconds: number; nanoseconds: number; frame: Uint8Array }[],
  snapLength?: number,
): Uint8Array {
  const parts: Uint8Array[] = [];
  const writer = new PcapWriter((bytes) => parts.push(bytes.slice()), { snapLength });
  for (const { seconds, nanoseconds, frame } of frames) writer.frame(seconds, nanoseconds, frame);
  writer.flush();
  return new Uint8Array(Buffer.concat(parts));
}

test("a file is what the format says, byte for byte", () => {
  const frame = Uint8Array.from({ length: 14 }, (_, i) => i);
  expect(capture([{ seconds: 0x01020304, nanoseconds: 999_999_999, frame }]).toHex()).toBe(
    [
      "4d3cb2a1 0200 0400 00000000 00000000 00000400 01000000",
      "04030201 ffc99a3b 0e000000 0e000000 000102030405060708090a0b0c0d",
    ]
      .join("")
      .replaceAll(" ", ""),
  );
});

test("what is read back is what was written, and cut where it is to be", () => {
  const frames = fc.array(
    fc.record({
      seconds: fc.nat(0xffffffff),
      nanoseconds: fc.nat(999_999_999),
      frame: fc.oneof(
        fc.uint8Array({ maxLength: 200 }),
        fc.nat(70_000).map((length) => Uint8Array.from({ length }, (_, i) => i % 251)),
      ),
    }),
    { maxLength: 8 },
  );
  fc.assert(
    fc.property(frames, fc.constantFrom(undefined, 1, 96, 65_535), (written, snapLength) => {
      const file = capture(written, snapLength);
      const view = new DataView(file.buffer);
      let at = 24;
      for (const { seconds, nanoseconds, frame } of written) {
        const kept = Math.min(frame.length, snapLength ?? frame.length);
        expect([0, 4, 8, 12].map((place) => view.getUint32(at + place, true))).toEqual([
          seconds,
          nanoseconds,
          kept,
          frame.length,
        ]);
        expect(
          Buffer.compare(file.subarray(at + 16, at + 16 + kept), frame.subarray(0, kept)),
        ).toBe(0);
        at += 16 + kept;
      }
      expect(at).toBe(file.length);
    }),
    { seed: SEED, numRuns: 200 },
  );
});
