/** Messages of 9P2000.L against the protocol's bytes. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  decodeReply,
  decodeRequest,
  encodeReply,
  encodeRequest,
  type RequestKind,
  type RequestOf,
  tagOf,
} from "./messages.ts";

const buffer = new Uint8Array(4096);
const hex = (bytes: Uint8Array) => bytes.toHex();

describe("bytes", () => {
  test("Tversion, as intro(5) has it", () => {
    const bytes = encodeRequest(buffer, "version", 0xffff, { msize: 8192, version: "9P2000.L" });
    expect(hex(bytes)).toBe("15000000" + "64" + "ffff" + "00200000" + "0800" + "3950323030302e4c");
  });

  test("Twalk", () => {
    const bytes = encodeRequest(buffer, "walk", 2, { fid: 1, newfid: 3, wname: ["a", "bc"] });
    expect(hex(bytes)).toBe(
      "18000000" + "6e" + "0200" + "01000000" + "03000000" + "0200" + "010061" + "02006263",
    );
  });

  test("Twrite", () => {
    const data = Uint8Array.of(1, 2, 3);
    const bytes = encodeRequest(buffer, "write", 7, { fid: 9, offset: 0x1_0000_0000n, data });
    expect(hex(bytes)).toBe(
      "1a000000" + "76" + "0700" + "09000000" + "0000000001000000" + "03000000" + "010203",
    );
  });

  test("Rgetattr is 160 bytes, Rstatfs 67, Rlerror 11", () => {
    const qid = { type: 0x80, version: 1, path: 2n };
    const zeros = Object.fromEntries(
      "nlink rdev size blksize blocks atime_sec atime_nsec mtime_sec mtime_nsec ctime_sec ctime_nsec btime_sec btime_nsec gen data_version valid"
        .split(" ")
        .map((name) => [name, 0n]),
    );
    const attributes = { ...zeros, qid, mode: 1, uid: 2, gid: 3 };
    expect(encodeReply(buffer, "getattr", 0, attributes as never)).toHaveLength(160);
    const space = { type: 0, bsize: 0, namelen: 0, blocks: 0n, bfree: 0n, bavail: 0n };
    expect(
      encodeReply(buffer, "statfs", 0, { ...space, files: 0n, ffree: 0n, fsid: 0n }),
    ).toHaveLength(67);
    expect(hex(encodeReply(buffer, "lerror", 5, { ecode: 2 }))).toBe(
      "0b000000" + "07" + "0500" + "02000000",
    );
  });
});

test("names are bytes", () => {
  const every = String.fromCharCode(...Array.from({ length: 255 }, (_, i) => i + 1));
  const bytes = encodeRequest(buffer, "mkdir", 1, { dfid: 1, name: every, mode: 0, gid: 0 });
  expect(decodeRequest(bytes)).toMatchObject({ kind: "mkdir", name: every });
});

const u32 = fc.nat(0xffffffff);
const u64 = fc.bigInt(0n, 2n ** 64n - 1n);
const text = fc.string({
  unit: fc.nat(255).map((code) => String.fromCharCode(code)),
  maxLength: 40,
});
const fields: { [K in RequestKind]?: fc.Arbitrary<RequestOf<K>> } = {
  walk: fc.record({ fid: u32, newfid: u32, wname: fc.array(text, { maxLength: 16 }) }),
  read: fc.record({ fid: u32, offset: u64, count: u32 }),
  write: fc.record({ fid: u32, offset: u64, data: fc.uint8Array({ maxLength: 100 }) }),
  renameat: fc.record({ olddirfid: u32, oldname: text, newdirfid: u32, newname: text }),
  lock: fc.record({
    fid: u32,
    type: fc.nat(255),
    flags: u32,
    start: u64,
    length: u64,
    proc_id: u32,
    client_id: text,
  }),
};

test("what is written is read", () => {
  for (const kind of Object.keys(fields) as (keyof typeof fields)[]) {
    fc.assert(
      fc.property(fields[kind] as fc.Arbitrary<never>, fc.nat(0xffff), (values, tag) => {
        const bytes = encodeRequest(buffer, kind, tag, values);
        expect(tagOf(bytes)).toBe(tag);
        expect(decodeRequest(bytes)).toEqual({ ...(values as object), kind, tag } as never);
      }),
    );
  }
});

describe("refused", () => {
  const message = () =>
    encodeRequest(buffer, "walk", 1, { fid: 1, newfid: 2, wname: ["abc"] }).slice();
  test("every shorter message", () => {
    const whole = message();
    for (let length = 0; length < whole.length; length++) {
      const cut = whole.slice(0, length);
      if (length >= 4) new DataView(cut.buffer).setUint32(0, length, true);
      expect(() => decodeRequest(cut)).toThrow("errno 71");
    }
  });
  test("one with more behind it, or another size than it has", () => {
    const longer = new Uint8Array([...message(), 0]);
    expect(() => decodeRequest(longer)).toThrow("errno 71");
    new DataView(longer.buffer).setUint32(0, longer.length, true);
    expect(() => decodeRequest(longer)).toThrow("errno 71");
  });
  test("more than 16 names", () => {
    const many = encodeRequest(buffer, "walk", 1, {
      fid: 1,
      newfid: 2,
      wname: Array(17).fill("a"),
    });
    expect(() => decodeRequest(many)).toThrow("errno 71");
  });
  test("types that are none, and replies", () => {
    const unknown = message();
    unknown[4] = 200;
    expect(() => decodeRequest(unknown)).toThrow("errno 95");
    expect(() => decodeRequest(encodeReply(buffer, "clunk", 1, {}))).toThrow("errno 95");
    expect(() => decodeReply(message())).toThrow("errno 95");
  });
  test("a reply that has no room", () => {
    const small = new Uint8Array(20);
    expect(() => encodeReply(small, "readlink", 1, { target: "a".repeat(12) })).toThrow("errno 90");
  });
});
