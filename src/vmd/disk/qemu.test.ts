/** Images of QEMU's, and ours as QEMU sees them. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { convertDisk, createQcow2, createRaw } from "./create.ts";
import type { Disk } from "./disk.ts";
import { openDisk } from "./open.ts";
import { LEAKS, qemuImg, qemuIo, qemuMissing, random } from "./testing.ts";

setDefaultTimeout(120_000);
if (qemuMissing !== undefined) console.log(`disk images beside QEMU skipped: ${qemuMissing}`);

const MIB = 2 ** 20;
const SIZE = 6 * MIB;
let folder = "";
let raw = "";
let content: Uint8Array;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "disk-"));
  raw = join(folder, "content.raw");
  content = compressible(SIZE, 9);
  writeFileSync(raw, content);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Stretches of zeroes, of repetitions and of noise, each of 1 to 200 KiB. */
function compressible(size: number, seed: number): Uint8Array {
  const next = random(seed);
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size;) {
    const end = Math.min(size, at + 1024 + next(200 * 1024));
    const kind = next(4);
    if (kind === 1) bytes.fill(next(256), at, end);
    else if (kind === 2) for (let i = at; i < end; i++) bytes[i] = next(256);
    at = end;
  }
  return bytes;
}

function fileOf(name: string): string {
  const path = join(folder, name);
  rmSync(path, { force: true });
  return path;
}

function convert(name: string, options: string[], from = raw, flags: string[] = []): string {
  const path = fileOf(name);
  const settings = options.length ? ["-o", options.join(",")] : [];
  qemuImg(
    ["convert", "-f", from === raw ? "raw" : "qcow2", "-O", "qcow2", ...flags].concat(
      settings,
      from,
      path,
    ),
  );
  return path;
}

function readAll(disk: Disk, piece = 100_001): Buffer {
  const bytes = Buffer.alloc(disk.size);
  for (let at = 0; at < disk.size; at += piece) disk.read(at, bytes.subarray(at, at + piece));
  return bytes;
}

function contentOf(path: string): Buffer {
  const disk = openDisk(path, { readOnly: true });
  const bytes = readAll(disk);
  disk.close();
  return bytes;
}

/** Random writes, some of them whole clusters, and what the disk should read afterwards. */
function scribble(path: string, seed: number, count = 100): Buffer {
  const disk = openDisk(path);
  const model = readAll(disk);
  const next = random(seed);
  for (let i = 0; i < count; i++) {
    const aligned = next(3) === 0;
    const at = aligned ? next(disk.size / 65536) * 65536 : next(disk.size - 1);
    const length = aligned ? 65536 : 1 + next(20_000);
    const bytes = Buffer.alloc(Math.min(length, disk.size - at), 1 + next(255));
    disk.write(at, bytes);
    bytes.copy(model, at);
    if (next(20) === 0) disk.flush();
  }
  expect(readAll(disk).equals(model)).toBe(true);
  disk.close();
  expect(contentOf(path).equals(model)).toBe(true);
  return model;
}

/** The image is right for QEMU, without a leak, and reads as `model` there too. */
function checkByQemu(path: string, model: Uint8Array, allowed = [0]): void {
  qemuImg(["check", path], allowed);
  const reference = `${path}.model`;
  writeFileSync(reference, model);
  qemuImg(["compare", "-F", "raw", path, reference]);
}

describe.skipIf(qemuMissing !== undefined)("images of QEMU's", () => {
  const variants: [string, string[], string[]][] = [
    ["version 2", ["compat=0.10"], []],
    ["version 3", ["compat=1.1"], []],
    ["clusters of 512 bytes", ["cluster_size=512"], []],
    ["clusters of 4 KiB", ["cluster_size=4k"], []],
    ["clusters of 2 MiB", ["cluster_size=2M"], []],
    ["lazy reference counts", ["lazy_refcounts=on"], []],
    ["compressed by zlib", [], ["-c"]],
    ["compressed by zlib, version 2", ["compat=0.10"], ["-c"]],
    ["compressed by zlib, 512 bytes", ["cluster_size=512"], ["-c"]],
    ["compressed by zlib, 2 MiB", ["cluster_size=2M"], ["-c"]],
    ["compressed by zstd", ["compression_type=zstd"], ["-c"]],
    ["compressed by zstd, 4 KiB", ["compression_type=zstd", "cluster_size=4k"], ["-c"]],
    ["compressed by zstd, 2 MiB", ["compression_type=zstd", "cluster_size=2M"], ["-c"]],
    ["preallocated metadata", ["preallocation=metadata"], []],
  ];
  test.each(variants)("%s: read the same, and are right after writes", (name, options, flags) => {
    const path = convert(`${name}.qcow2`, options, raw, flags);
    expect(contentOf(path).equals(content)).toBe(true);
    checkByQemu(path, scribble(path, 17));
  });

  test.each([1, 2, 4, 8, 32, 64])("%d-bit reference counts are read, but not written", (bits) => {
    const path = convert("counts.qcow2", [`refcount_bits=${bits}`]);
    expect(contentOf(path).equals(content)).toBe(true);
    expect(() => openDisk(path)).toThrow(
      `${path}: refcount_order: images with ${bits}-bit reference counts can only be read`,
    );
  });

  test("zero clusters hide the base; allocated ones are used again", () => {
    const base = convert("base.qcow2", []);
    const path = fileOf("zeroes.qcow2");
    qemuImg(["create", "-f", "qcow2", "-b", base, "-F", "qcow2", path]);
    const zero = (at: number, length: number) => qemuIo(path, `write -z ${at} ${length}`);
    zero(0, 3 * 65536);
    zero(10 * 65536 + 1000, 100_000);
    const model = Buffer.from(content);
    model.fill(0, 0, 3 * 65536);
    model.fill(0, 10 * 65536 + 1000, 10 * 65536 + 101_000);
    expect(contentOf(path).equals(model)).toBe(true);
    checkByQemu(path, scribble(path, 4));
    // Preallocated clusters that read as zero keep their place in the file.
    const preallocated = fileOf("preallocated.qcow2");
    const settings = ["-o", "preallocation=falloc"];
    qemuImg(["create", "-f", "qcow2", ...settings, preallocated, String(SIZE)]);
    const before = readFileSync(preallocated).length;
    checkByQemu(preallocated, scribble(preallocated, 5));
    expect(readFileSync(preallocated).length).toBe(before);
  });

  test("chains: each image has what is new, the nearest wins", () => {
    const sub = join(folder, "sub");
    mkdirSync(sub, { recursive: true });
    const base = join(sub, "base.qcow2");
    copyFileSync(convert("a.qcow2", ["cluster_size=4k"], raw, ["-c"]), base);
    const create = (name: string, from: string, size: number, ...options: string[]) => {
      const path = join(sub, name);
      rmSync(path, { force: true });
      qemuImg(["create", "-f", "qcow2", ...options, "-b", from, "-F", "qcow2", path, String(size)]);
      return path;
    };
    // Relative names count from the image's folder; sizes and cluster sizes differ.
    const second = create("second.qcow2", "base.qcow2", SIZE - 5 * 512);
    const secondModel = scribble(second, 21, 30);
    const third = create("third.qcow2", "second.qcow2", SIZE + MIB, "-o", "cluster_size=512");
    const model = Buffer.concat([secondModel, Buffer.alloc(MIB + 5 * 512)]);
    expect(contentOf(third).equals(model)).toBe(true);
    const fourth = create("fourth.qcow2", third, SIZE + MIB);
    checkByQemu(fourth, scribble(fourth, 22, 30));
    expect(contentOf(second).equals(secondModel)).toBe(true);
    expect(contentOf(third).equals(model)).toBe(true);
    let last = fourth;
    for (let number = 5; number <= 16; number++) last = create(`${number}.qcow2`, last, SIZE);
    openDisk(last).close();
    const more = create("17.qcow2", last, SIZE);
    expect(() => openDisk(more)).toThrow(`${more}: more than 16 images are based on one another`);
  });

  test("snapshots keep what they had", () => {
    const path = convert("snapshots.qcow2", []);
    qemuImg(["snapshot", "-c", "before", path]);
    const model = scribble(path, 31);
    checkByQemu(path, model);
    qemuImg(["snapshot", "-c", "between", path]);
    checkByQemu(path, scribble(path, 32));
    qemuImg(["snapshot", "-a", "between", path]);
    expect(contentOf(path).equals(model)).toBe(true);
    qemuImg(["snapshot", "-a", "before", path]);
    expect(contentOf(path).equals(content)).toBe(true);
    qemuImg(["snapshot", "-d", "before", path]);
    qemuImg(["snapshot", "-d", "between", path]);
    // What the snapshots had is free now, and is used again.
    const before = readFileSync(path).length;
    checkByQemu(path, scribble(path, 33, 20));
    expect(readFileSync(path).length).toBe(before);
  });

  test("bitmaps are given up by the first write", () => {
    const path = convert("bitmaps.qcow2", []);
    qemuImg(["bitmap", "--add", path, "b0"]);
    expect(readFileSync(path)[95]).toBe(1);
    contentOf(path);
    expect(readFileSync(path)[95]).toBe(1);
    // The bitmap's clusters are lost to QEMU, and reported.
    checkByQemu(path, scribble(path, 3, 3), [LEAKS]);
    expect(readFileSync(path)[95]).toBe(0);
  });

  test("what isn't supported is refused by name", () => {
    const cases: [string[], RegExp][] = [
      [["extended_l2=on"], /incompatible_features: extended L2 entries aren't supported$/],
      [[`data_file=${fileOf("data")}`], /incompatible_features: external data files aren't supp/],
    ];
    for (const [options, message] of cases) {
      const path = fileOf("unsupported.qcow2");
      const settings = ["-o", options.join(",")];
      qemuImg(["create", "-f", "qcow2", ...settings, path, "1M"]);
      expect(() => openDisk(path)).toThrow(message);
    }
  });
});

describe.skipIf(qemuMissing !== undefined)("images of ours, for QEMU", () => {
  test.each([9, 12, 16, 21])("clusters of 2^%d bytes", (clusterBits) => {
    const path = fileOf(`ours-${clusterBits}.qcow2`);
    createQcow2(path, SIZE, { clusterBits });
    checkByQemu(path, new Uint8Array(SIZE));
    checkByQemu(path, scribble(path, 50 + clusterBits));
  });

  test("a disk of many TiB, and one of nothing", () => {
    for (const size of [0, 512, 2 ** 41, 2 ** 50]) {
      const path = fileOf("sizes.qcow2");
      createQcow2(path, size);
      qemuImg(["check", path]);
      expect(JSON.parse(qemuImg(["info", "--output=json", path]))["virtual-size"]).toBe(size);
      if (size < 2 ** 40) continue;
      const disk = openDisk(path);
      disk.write(size - 5, Uint8Array.of(1, 2, 3, 4, 5));
      disk.close();
      qemuImg(["check", path]);
    }
  });

  test("the refcount table grown, by its reckoning too", () => {
    const path = fileOf("grown.qcow2");
    createQcow2(path, 40 * MIB, { clusterBits: 9 });
    const disk = openDisk(path);
    const model = Buffer.alloc(disk.size, 3);
    disk.write(0, model);
    disk.close();
    checkByQemu(path, model);
  });

  test("on a base in another folder, named from there", () => {
    const folders = [join(folder, "images"), join(folder, "bases/old")];
    for (const each of folders) mkdirSync(each, { recursive: true });
    const base = join(folders[1], "base.raw");
    copyFileSync(raw, base);
    const path = join(folders[0], "derived.qcow2");
    const here = process.cwd();
    try {
      process.chdir(folder);
      createQcow2("images/derived.qcow2", SIZE, {
        base: { path: "bases/old/base.raw", format: "raw" },
      });
    } finally {
      process.chdir(here);
    }
    const info = JSON.parse(qemuImg(["info", "--output=json", path]));
    expect(info["backing-filename"]).toBe("../bases/old/base.raw");
    expect(info["backing-filename-format"]).toBe("raw");
    checkByQemu(path, content);
    expect(contentOf(path).equals(content)).toBe(true);
    checkByQemu(path, scribble(path, 71));
  });

  test("copies, in both directions, with holes where there are zeroes", async () => {
    const packed = convert("packed.qcow2", ["compression_type=zstd"], raw, ["-c"]);
    const copies: [string, "raw" | "qcow2"][] = [
      [packed, "raw"],
      [packed, "qcow2"],
      [raw, "qcow2"],
    ];
    for (const [from, format] of copies) {
      const source = openDisk(from, { readOnly: true });
      const path = fileOf(`copy.${format}`);
      await convertDisk(source, path, { format, size: SIZE + MIB });
      source.close();
      const model = Buffer.concat([content, Buffer.alloc(MIB)]);
      if (format === "qcow2") checkByQemu(path, model);
      expect(contentOf(path).equals(model)).toBe(true);
      const info = JSON.parse(qemuImg(["info", "--output=json", path]));
      const zero = (at: number) => content.subarray(at, at + 65536).every((byte) => byte === 0);
      let used = 0;
      for (let at = 0; at < SIZE; at += 65536) if (!zero(at)) used += 65536;
      expect(used).toBeLessThan(SIZE * 0.9);
      expect(info["actual-size"]).toBeLessThan(used + MIB / 2);
    }
  });

  // As OpenBSD's regress/usr.sbin/vmd/diskfmt: 16 Ki random writes to both formats.
  test("16384 random writes to a disk of 4 GiB, raw and qcow2", () => {
    const paths = [fileOf("scribble.raw"), fileOf("scribble.qcow2")];
    createRaw(paths[0], 2 ** 32);
    createQcow2(paths[1], 2 ** 32);
    const disks = paths.map((path) => openDisk(path));
    const next = random(123);
    const block = new Uint8Array(4096);
    for (let i = 0; i < 16384; i++) {
      const at = next(2 ** 32 - block.length);
      const bytes = block.subarray(0, 1 + next(block.length));
      bytes.fill(1 + next(255));
      for (const disk of disks) disk.write(at, bytes);
    }
    for (const disk of disks) disk.close();
    qemuImg(["check", paths[1]]);
    qemuImg(["compare", "-f", "raw", "-F", "qcow2", ...paths]);
  });
});
