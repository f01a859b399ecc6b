/** Each field of the header: what is refused, and in which words. */
import { expect, test } from "bun:test";
import { DiskError } from "../error.ts";
import { diskFromFile } from "../open.ts";
import { emptyImage, MemoryFile } from "../testing.ts";
import { readHeader } from "./header.ts";

/** A version 3 image of 1 MiB in clusters of 64 KiB, with numbers changed: [offset, width, value]. */
function image(...changes: [number, 4 | 8, bigint][]): MemoryFile {
  const backing = { name: "base.raw", format: "raw" };
  const bytes = emptyImage(2 ** 20, 16, backing);
  const view = new DataView(bytes.buffer);
  for (const [at, width, value] of changes) {
    if (width === 4) view.setUint32(at, Number(value));
    else view.setBigUint64(at, value);
  }
  return new MemoryFile("x.qcow2", bytes);
}

/** Version 2, without extensions and base. */
const V2: [number, 4 | 8, bigint][] = [
  [4, 4, 2n],
  [8, 8, 0n],
  [72, 8, 0n],
];

test("all of it is read", () => {
  expect(readHeader(image())).toEqual({
    version: 3,
    clusterBits: 16,
    clusterSize: 65536,
    size: 2 ** 20,
    l1Offset: 3 * 65536,
    l1Entries: 1,
    refcountTableOffset: 65536,
    refcountTableClusters: 1,
    refcountOrder: 4,
    dirty: false,
    autoclear: false,
    compression: "zlib",
    backing: { name: "base.raw", format: "raw" },
  });
  expect(readHeader(image(...V2))).toMatchObject({ version: 2, backing: undefined });
});

const high = (bit: number) => 1n << BigInt(bit);

const wrong: [string, [number, 4 | 8, bigint][], string][] = [
  ["magic", [[0, 4, 1n]], "magic: not a qcow2 image"],
  ["version", [[4, 4, 4n]], "version: 4 is not 2 or 3"],
  ["cluster_bits, small", [[20, 4, 8n]], "cluster_bits: 8 is not 9 to 21"],
  ["cluster_bits, large", [[20, 4, 22n]], "cluster_bits: 22 is not 9 to 21"],
  ["size", [[24, 8, high(60)]], "size: 0x1000000000000000 is too large"],
  [
    "size for l1_size",
    [[24, 8, high(40)]],
    "l1_size: 1 is too small for a disk of 1099511627776 bytes",
  ],
  ["crypt_method AES", [[32, 4, 1n]], "crypt_method: encrypted images (AES) aren't supported"],
  ["crypt_method LUKS", [[32, 4, 2n]], "crypt_method: encrypted images (LUKS) aren't supported"],
  ["crypt_method 9", [[32, 4, 9n]], "crypt_method: encrypted images (method 9) aren't supported"],
  [
    "encryption header",
    [[104, 4, 0x0537be77n]],
    "crypt_method: encrypted images (method 0) aren't supported",
  ],
  ["l1_size", [[36, 4, 0xffffffffn]], "l1_size: 4294967295 is too large"],
  [
    "l1_table_offset, unaligned",
    [[40, 8, 0x30008n]],
    "l1_table_offset: 0x30008 is no multiple of the cluster size",
  ],
  ["l1_table_offset, header", [[40, 8, 0n]], "l1_table_offset: the table overlaps the header"],
  [
    "l1_table_offset, far",
    [[40, 8, high(32)]],
    "l1_table_offset: 0x100000000 + 0x8 reaches beyond the end of the file",
  ],
  [
    "refcount_table_offset, unaligned",
    [[48, 8, 512n]],
    "refcount_table_offset: 0x200 is no multiple of the cluster size",
  ],
  [
    "refcount_table_offset, far",
    [[48, 8, 0x40000n]],
    "refcount_table_offset: 0x40000 + 0x10000 reaches beyond the end of the file",
  ],
  ["refcount_table_clusters, 0", [[56, 4, 0n]], "refcount_table_clusters: 0 is out of range"],
  [
    "refcount_table_clusters, many",
    [[56, 4, 129n]],
    "refcount_table_clusters: 129 is out of range",
  ],
  ["nb_snapshots", [[60, 4, 65537n]], "nb_snapshots: 65537 is too large"],
  [
    "snapshots_offset, unaligned",
    [[64, 8, 1n]],
    "snapshots_offset: 0x1 is no multiple of the cluster size",
  ],
  [
    "snapshots_offset, far",
    [
      [60, 4, 1n],
      [64, 8, high(20)],
    ],
    "snapshots_offset: 0x100000 + 0x28 reaches beyond the end of the file",
  ],
  [
    "backing_file_offset, in the header",
    [[8, 8, 100n]],
    "backing_file_offset: 0x64 is not in the header's cluster",
  ],
  [
    "backing_file_offset, beyond",
    [[8, 8, 65530n]],
    "backing_file_offset: 0xfffa is not in the header's cluster",
  ],
  ["backing_file_size, none", [[16, 4, 0n]], "backing_file_size: 0 is not 1 to 1023"],
  ["backing_file_size, long", [[16, 4, 1024n]], "backing_file_size: 1024 is not 1 to 1023"],
  ["backing name, NUL", [[128, 4, 0n]], "backing file name: has a NUL in it"],
  ["backing name, bytes", [[128, 4, 0xffffffffn]], "backing file name: not UTF-8"],
  ["corrupt", [[72, 8, 2n]], "incompatible_features: the image is marked as corrupt"],
  ["external data", [[72, 8, 4n]], "incompatible_features: external data files aren't supported"],
  ["extended L2", [[72, 8, 16n]], "incompatible_features: extended L2 entries aren't supported"],
  [
    "unknown feature",
    [[72, 8, high(40)]],
    "incompatible_features: bit 40 (nameless) is not a known feature",
  ],
  ["bitmaps", [[88, 8, 1n]], "autoclear_features: bitmaps without the bitmaps extension"],
  [
    "raw external data",
    [[88, 8, 2n]],
    "autoclear_features: raw external data without an external data file",
  ],
  ["refcount_order", [[96, 4, 7n]], "refcount_order: 7 is more than 6"],
  ["header_length, short", [[100, 4, 96n]], "header_length: 96 is no length of a header"],
  ["header_length, odd", [[100, 4, 105n]], "header_length: 105 is no length of a header"],
  ["header_length, long", [[100, 4, 65544n]], "header_length: 65544 is no length of a header"],
  [
    "compression_type without its bit",
    [
      [8, 8, 0n],
      [100, 4, 112n],
      [104, 4, 0x01000000n],
    ],
    "compression_type: 1 is unknown or contradicts the feature bits",
  ],
  [
    "compression bit without a type",
    [[72, 8, 8n]],
    "compression_type: 0 is unknown or contradicts the feature bits",
  ],
  [
    "compression_type 2",
    [
      [8, 8, 0n],
      [72, 8, 8n],
      [100, 4, 112n],
      [104, 4, 0x02000000n],
      [112, 8, 0n],
    ],
    "compression_type: 2 is unknown or contradicts the feature bits",
  ],
  [
    "an extension's length",
    [[108, 4, 0xfffffff0n]],
    "header extension 0xe2792aca: its length, 4294967280, is too large",
  ],
];

test.each(wrong)("%s", (_, changes, sentence) => {
  expect(() => readHeader(image(...changes))).toThrow(new DiskError(`x.qcow2: ${sentence}`));
});

test("an unknown feature is called by the name that the image has for it", () => {
  const file = image([8, 8, 0n], [72, 8, high(40)], [104, 4, 0x6803f857n], [108, 4, 48n]);
  const name = new TextEncoder().encode("\0\x28time\x1btravel\0");
  file.write(112, name, 0, name.length);
  expect(() => readHeader(file)).toThrow(
    "x.qcow2: incompatible_features: bit 40 (time?travel) is not a known feature",
  );
});

test("a file that is too short", () => {
  for (const length of [0, 4, 71]) {
    const file = new MemoryFile("x.qcow2", image().content().subarray(0, length));
    expect(() => readHeader(file)).toThrow(new DiskError("x.qcow2: header: the file is too short"));
  }
  for (const length of [72, 103, 104, 130, 65536, 65536 * 2, 65536 * 3]) {
    const file = new MemoryFile("x.qcow2", image().content().subarray(0, length));
    expect(() => readHeader(file)).toThrow(DiskError);
  }
});

test("a dirty image can be read only", () => {
  const file = image([8, 8, 0n], [72, 8, 1n]);
  diskFromFile(file, "qcow2", undefined, true).read(0, new Uint8Array(10));
  expect(() => diskFromFile(file, "qcow2", undefined, false)).toThrow(
    new DiskError(
      "x.qcow2: incompatible_features: the image is marked as dirty, its reference counts may be " +
        'wrong; it can only be read until "qemu-img check -r all" has repaired it',
    ),
  );
});

test("a refcount table entry that is wrong keeps the image from being written", () => {
  for (const [value, sentence] of [
    [0x20001n, "refcount table entry 0: reserved bits are set"],
    [0x20200n, "refcount table entry 0: 0x20200 is no multiple of the cluster size"],
    [high(62), "refcount table entry 0: 0x4000000000000000 lies beyond the end of the file"],
  ] as const) {
    const file = image([8, 8, 0n], [65536, 8, value]);
    diskFromFile(file, "qcow2", undefined, true);
    expect(() => diskFromFile(file, "qcow2", undefined, false)).toThrow(
      new DiskError(`x.qcow2: ${sentence}`),
    );
  }
});
