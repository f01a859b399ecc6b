import { expect, test } from "bun:test";
import { gzipSync } from "node:zlib";
import { BootError, Bytes } from "./bytes.ts";
import { gunzip, isGzip } from "./gzip.ts";
import { ascii, concat, counting } from "./testing.ts";

const data = counting(5000);
const packed = new Uint8Array(gzipSync(data));
const unpack = (bytes: Uint8Array, limit = 10000) => gunzip(new Bytes("bsd.gz", bytes), limit);

test("a gzip file unpacks, up to the limit exactly", () => {
  expect(isGzip(new Bytes("bsd.gz", packed))).toBe(true);
  expect(unpack(packed)).toEqual(data);
  expect(unpack(packed, 5000)).toEqual(data);
  expect(() => unpack(packed, 4999)).toThrow(
    new BootError(
      "bsd.gz: gzip: unpacks to more than 4.9 KiB, which is the limit for this machine",
    ),
  );
});

test("a file that unpacks to a thousand times its size stops at the limit", () => {
  const bomb = new Uint8Array(gzipSync(new Uint8Array(2 ** 26)));
  expect(() => unpack(bomb, 2 ** 20)).toThrow("unpacks to more than 1 MiB");
});

test("optional header fields are skipped", () => {
  const header = concat(
    Uint8Array.of(0x1f, 0x8b, 8, 4 | 8 | 16 | 2, 0, 0, 0, 0, 0, 3),
    Uint8Array.of(3, 0, 9, 9, 9),
    ascii("name\0comment\0"),
    Uint8Array.of(0, 0),
  );
  expect(unpack(concat(header, packed.subarray(10)))).toEqual(data);
});

test("several members unpack one after the other, each within what is left", () => {
  const empty = new Uint8Array(gzipSync(new Uint8Array(0)));
  expect(unpack(concat(packed, packed))).toEqual(concat(data, data));
  expect(unpack(concat(packed, empty), 5000)).toEqual(data);
  expect(() => unpack(concat(packed, packed), 9999)).toThrow("unpacks to more than 9.8 KiB");
  const many = concat(...Array.from({ length: 17 }, () => empty));
  expect(() => unpack(many)).toThrow("bsd.gz: gzip: more than 16 members");
});

test("zeroes after the data are padding, anything else is refused", () => {
  expect(unpack(concat(packed, new Uint8Array(512)))).toEqual(data);
  expect(() => unpack(concat(packed, ascii("garbage")))).toThrow(
    new BootError("bsd.gz: gzip: 7 bytes after the compressed data are not gzip"),
  );
});

test("damage is a sentence", () => {
  const changed = (at: number, value: number) => {
    const copy = packed.slice();
    copy[at < 0 ? copy.length + at : at] = value;
    return copy;
  };
  const cases: [Uint8Array, string][] = [
    [packed.subarray(0, packed.length - 20), "gzip: the file is cut off"],
    [packed.subarray(0, packed.length - 6), "gzip CRC32: "],
    [packed.subarray(0, 5), "gzip data: "],
    [changed(-8, packed[packed.length - 8] ^ 1), "gzip: wrong checksum: the file is damaged"],
    [changed(-4, 0), "gzip: wrong length: the file is damaged"],
    [changed(2, 7), "gzip: compression method 7 is not deflate"],
    [changed(3, 0xff), "gzip: reserved flags are set: 0xff"],
    [changed(10, 0xff), "gzip: the file is damaged ("],
    [
      concat(Uint8Array.of(0x1f, 0x8b, 8, 8), counting(20)),
      "gzip: the file ends within its header",
    ],
  ];
  for (const [bytes, sentence] of cases) {
    let message = "";
    try {
      unpack(bytes);
    } catch (error) {
      expect(error).toBeInstanceOf(BootError);
      message = (error as Error).message;
    }
    expect(message).toStartWith(`bsd.gz: ${sentence}`);
  }
});
