import { expect, test } from "bun:test";
import fc from "fast-check";
import { readCpio, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG, writeCpio } from "./cpio.ts";
import type { CpioEntry } from "./cpio.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (data: Uint8Array) => new TextDecoder().decode(data);

test("the bytes of a small archive", () => {
  const archive = writeCpio([{ path: "init", mode: S_IFREG | 0o755, data: bytes("abc") }]);
  const zeros = (count: number) => "00000000".repeat(count);
  expect(text(archive)).toBe(
    // inode 1, mode 0100755, one link, three bytes, path of five bytes
    `070701${"00000001"}${"000081ed"}${zeros(2)}${"00000001"}${zeros(1)}${"00000003"}${zeros(4)}${"00000005"}${zeros(1)}` +
      "init\0\0" + // 116 bytes so far
      "abc\0" +
      `070701${zeros(4)}${"00000001"}${zeros(6)}${"0000000b"}${zeros(1)}TRAILER!!!\0\0\0\0`,
  );
  expect(archive.length % 4).toBe(0);
});

test("folders come before what lies in them, once", () => {
  const archive = writeCpio([
    { path: "a/b/one", mode: S_IFREG | 0o644 },
    { path: "a/b/two", mode: S_IFLNK | 0o777, data: bytes("one") },
    { path: "a", mode: S_IFDIR | 0o755 },
    { path: "dev/console", mode: S_IFCHR | 0o600, device: [5, 1] },
  ]);
  const entries = [...readCpio(archive)];
  expect(entries.map(({ path }) => path)).toEqual([
    "a",
    "a/b",
    "a/b/one",
    "a/b/two",
    "dev",
    "dev/console",
  ]);
  expect(text(entries[3].data!)).toBe("one");
  expect(entries[5].device).toEqual([5, 1]);
});

test("what was written is read again", () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9._é-]{0,20}$/);
  const file = fc.record({
    mode: fc.integer({ min: 0, max: 0o7777 }).map((bits) => bits | S_IFREG),
    data: fc.uint8Array({ maxLength: 100 }),
  });
  fc.assert(
    fc.property(fc.dictionary(name, file, { maxKeys: 8 }), (files) => {
      const entries: CpioEntry[] = Object.entries(files).map(([path, rest]) => ({ path, ...rest }));
      expect([...readCpio(writeCpio(entries))]).toEqual(entries);
    }),
  );
});

test("a malformed archive gives a sentence, never a hang", () => {
  const good = writeCpio([{ path: "a/file", mode: S_IFREG | 0o644, data: bytes("some data") }]);
  const spoilt = fc.record({
    length: fc.integer({ min: 0, max: good.length }),
    changes: fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 4 }),
  });
  fc.assert(
    fc.property(spoilt, ({ length, changes }) => {
      const bad = good.slice();
      for (const [at, value] of changes) bad[at] = value;
      try {
        for (const entry of readCpio(bad.subarray(0, length))) void entry;
      } catch (error) {
        expect(String(error)).toMatch(/^Error: cpio: .* offset \d+$/s);
      }
    }),
    { numRuns: 2000, seed: 1 },
  );
});
