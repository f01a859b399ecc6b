import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { gunzipSync } from "node:zlib";
import { openbsdI386 } from "./openbsd.ts";
import { Ufs1 } from "./ufs1.ts";

const block = 4096;
const fragment = 512;

/** A file system of one cylinder group: /etc/motd, and /big that needs two levels of indirect blocks. */
function image() {
  const bytes = new Uint8Array(8 << 20);
  const view = new DataView(bytes.buffer);
  let free = 16; // blocks; those before hold the superblock and the inodes
  const word = (at: number, value: number) => view.setUint32(at, value, true);
  const superblock: Record<number, number> = {
    16: 32, // inodes begin at this fragment
    24: 0, // offset of a group from the one before
    28: 0xffffffff,
    44: 1, // groups
    48: block,
    52: fragment,
    184: 64, // inodes in a group
    188: bytes.length / fragment,
    1372: 0x011954,
  };
  for (const [at, value] of Object.entries(superblock)) word(8192 + Number(at), value);

  const store = (data: Uint8Array) => {
    bytes.set(data, free * block);
    return (free++ * block) / fragment;
  };
  /** Blocks' addresses, as a block that lists them. */
  const indirect = (addresses: number[]) => {
    const list = new Uint8Array(block);
    addresses.forEach((address, index) =>
      new DataView(list.buffer).setUint32(4 * index, address, true),
    );
    return store(list);
  };
  const put = (number: number, mode: number, data: Uint8Array) => {
    const at = 32 * fragment + number * 128;
    view.setUint16(at, mode, true);
    word(at + 8, data.length);
    const all: number[] = [];
    for (let from = 0; from < data.length; from += block)
      all.push(store(data.subarray(from, from + block)));
    const perBlock = block / 4;
    const blocks = all.splice(0, 12);
    if (all.length) blocks[12] = indirect(all.splice(0, perBlock));
    if (all.length) blocks[13] = indirect([indirect(all.splice(0, perBlock))]);
    blocks.forEach((address, index) => word(at + 40 + 4 * index, address));
  };
  const directory = (entries: Record<string, number>) => {
    const data = new Uint8Array(512);
    const names = Object.entries(entries);
    let at = 0;
    names.forEach(([name, number], index) => {
      const size = index === names.length - 1 ? data.length - at : (8 + name.length + 4) & ~3;
      const entry = new DataView(data.buffer, at);
      entry.setUint32(0, number, true);
      entry.setUint16(4, size, true);
      data[at + 7] = name.length;
      data.set(new TextEncoder().encode(name), at + 8);
      at += size;
    });
    return data;
  };
  const big = new Uint8Array((12 + block / 4 + 3) * block + 77).map((_, index) => (index * 7) >> 3);
  put(2, 0o040755, directory({ ".": 2, "..": 2, etc: 3, big: 5 }));
  put(3, 0o040755, directory({ ".": 3, "..": 2, motd: 4 }));
  put(4, 0o100644, new TextEncoder().encode("Welcome.\n"));
  put(5, 0o100644, big);
  return { bytes, big };
}

test("files and folders", () => {
  const { bytes, big } = image();
  const disk = new Ufs1(bytes);
  expect(disk.list("/")).toEqual(["etc", "big"]);
  expect(disk.list("/etc")).toEqual(["motd"]);
  expect(new TextDecoder().decode(disk.read("/etc/motd"))).toBe("Welcome.\n");
  expect(Buffer.compare(disk.read("/big"), big)).toBe(0);
});

test("a file system inside an image", () => {
  const { bytes } = image();
  const disk = new Uint8Array(bytes.length + 10240);
  disk.set(bytes, 10240);
  expect(new Ufs1(disk, 10240).list("/etc")).toEqual(["motd"]);
});

test("what isn't there", () => {
  const disk = new Ufs1(image().bytes);
  expect(() => disk.read("/etc/passwd")).toThrow("ufs1: there is no /etc/passwd");
  expect(() => disk.read("/etc")).toThrow("ufs1: /etc is not a regular file");
  expect(() => disk.read("/big/x")).toThrow("ufs1: /big/x leads through a file");
  expect(() => new Ufs1(new Uint8Array(20000))).toThrow("ufs1: no superblock");
  expect(() => new Ufs1(new Uint8Array(20))).toThrow("ufs1: offset");
});

test("a spoilt image gives a sentence, never a hang", () => {
  const { bytes } = image();
  // The superblock, the inodes, and the folders' and indirect blocks.
  const spot = fc.oneof(
    fc.integer({ min: 8192, max: 8192 + 1376 }),
    fc.integer({ min: 32 * fragment, max: 32 * fragment + 6 * 128 }),
    fc.integer({ min: 16 * block, max: 19 * block }),
  );
  const value = fc.constantFrom(0, 1, 7, 0x7f, 0x80, 0xff);
  fc.assert(
    fc.property(fc.array(fc.tuple(spot, value), { minLength: 1, maxLength: 8 }), (changes) => {
      const before = changes.map(([at]) => bytes[at]);
      for (const [at, to] of changes) bytes[at] = to;
      try {
        const disk = new Ufs1(bytes);
        disk.list("/etc");
        disk.read("/etc/motd");
        disk.read("/big");
      } catch (error) {
        expect(String(error)).toStartWith("Error: ufs1: ");
      }
      for (let index = changes.length - 1; index >= 0; index--)
        bytes[changes[index][0]] = before[index];
    }),
    { numRuns: 2000, seed: 1 },
  );
});

const missing = openbsdI386.missing();
if (missing) console.log(`skipped: ${missing}`);

describe.skipIf(missing !== undefined)("OpenBSD's floppy", () => {
  test("its kernel is a gzipped ELF file", async () => {
    const kernel = gunzipSync(await Bun.file(await openbsdI386.kernel()).bytes());
    expect(kernel.subarray(0, 6)).toEqual(Buffer.from("\x7fELF\x01\x01", "latin1"));
    // Entry point, physical through i386's KERNBASE of 0xd0000000.
    expect(kernel.readUInt32LE(24)).toBe(0xd0200120);
  });
});
