import { expect, test } from "bun:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { GuestMemory } from "../../vmm/memory.ts";
import {
  BootError,
  type BootFormat,
  classicMemoryMap,
  extractVmlinux,
  loadKernel,
  romRange,
} from "./index.ts";
import {
  ascii,
  bzImage,
  concat,
  counting,
  elfFile,
  multibootKernel,
  openBsdKernel,
  vmlinux,
  words,
} from "./testing.ts";

const SIZE = 64 * 2 ** 20;

function load(kernel: Uint8Array, format?: BootFormat | "auto") {
  const memory = GuestMemory.standalone(SIZE);
  const e820 = classicMemoryMap(SIZE);
  return { memory, boot: loadKernel({ name: "file", kernel, memory, e820, format }) };
}

/** Bytes that end as firmware does: with a jump 16 bytes before the end. */
function firmwareImage(size: number): Uint8Array {
  const image = counting(size, 7);
  image[size - 16] = 0xea;
  return image;
}

const noKernel = (size: string) =>
  "not a kernel: neither ELF nor a Linux bzImage, and no firmware image with a jump at its reset " +
  `vector (${size}); format firmware takes it as it is`;

test("the format is found out, of a compressed file too", () => {
  const files: [Uint8Array, BootFormat][] = [
    [bzImage(), "linux"],
    [vmlinux(), "vmlinux"],
    [vmlinux(32), "vmlinux"],
    [openBsdKernel(), "openbsd"],
    [openBsdKernel(32), "openbsd"],
    [multibootKernel(), "multiboot"],
  ];
  for (const [file, format] of files) {
    expect(load(file).boot.format).toBe(format);
    expect(load(new Uint8Array(gzipSync(file))).boot.format).toBe(format);
    expect(romRange(file)).toBeUndefined();
  }
});

test("a version string decides when notes don't", () => {
  const named = (text: string) =>
    elfFile({ entry: 0x200000n, segments: [{ paddr: 0x200000n, bytes: ascii(text) }] });
  const cases: [string, BootFormat][] = [
    ["$OpenBSD: x.c$ Linux version %s Linux version 6.1", "vmlinux"],
    ["OpenBSD %s OpenBSD 5.1 (RAMDISK)", "openbsd"],
    ["NetBSD 9.3 (GENERIC)", "netbsd"],
    ["FreeBSD 14.0-RELEASE", "freebsd"],
    ["something else", "openbsd"],
  ];
  for (const [text, format] of cases) expect(load(named(text)).boot.format).toBe(format);
});

test("firmware ends at 4 GiB in ROM and at 1 MiB in RAM", () => {
  const image: Uint8Array = firmwareImage(0x28000);
  const { memory, boot } = load(image);
  expect(boot).toMatchObject({ format: "firmware", entry: 0xfffffff0 });
  expect(boot.rom?.base).toBe(2 ** 32 - 0x28000);
  expect(boot.rom?.bytes).toEqual(image);
  expect(boot.cpu).toMatchObject({ rip: 0xfff0, cr0: 0x60000010, rflags: 2 });
  expect(boot.cpu.cs).toMatchObject({ selector: 0xf000, base: 0xffff0000 });
  const copy: Uint8Array = new Uint8Array(0x20000);
  memory.read(0xe0000, copy);
  expect(copy).toEqual(image.subarray(0x8000));
  expect(memory.read8(0xdffff)).toBe(0);
});

test("a small image is padded in front to whole pages of ones", () => {
  const { memory, boot } = load(counting(15), "firmware");
  expect(boot.rom?.base).toBe(0xfffff000);
  expect(boot.rom?.bytes.subarray(4080)).toEqual(Uint8Array.of(0xff, ...counting(15)));
  expect(memory.read8(0xffff1)).toBe(1);
  expect(memory.read8(0xffff0)).toBe(0);
});

test("the ROM that a machine needs is known before it is built", () => {
  expect(romRange(firmwareImage(0x28000))).toEqual({ base: 0xfffd8000, size: 0x28000 });
  expect(romRange(counting(15), "firmware")).toEqual({ base: 0xfffff000, size: 0x1000 });
  expect(romRange(counting(14), "firmware")).toBeUndefined();
  // Not by itself: a file of whole pages without a jump, and one that isn't whole pages.
  expect(romRange(counting(0x28000, 7))).toBeUndefined();
  expect(romRange(firmwareImage(0x28000).subarray(1))).toBeUndefined();
  expect(romRange(new Uint8Array(2 ** 22 + 1))).toBeUndefined();
  expect(romRange(new Uint8Array(0))).toBeUndefined();
  expect(romRange(openBsdKernel(), "firmware")).toMatchObject({ size: 4096 });
  expect(romRange(counting(100), "openbsd")).toBeUndefined();
});

test("files that are no kernel are sentences", () => {
  const cases: [Uint8Array, BootFormat | "auto" | undefined, string][] = [
    [new Uint8Array(0), undefined, noKernel("0 bytes")],
    [new Uint8Array(2 ** 22 + 1), "auto", noKernel("4.0 MiB")],
    [counting(100), "linux", "not a Linux bzImage: no HdrS at 0x202"],
    [counting(100), "vmlinux", "not an ELF file"],
    [counting(100), "multiboot", "no Multiboot header in the first 8 KiB"],
    [counting(14), "firmware", "firmware must have 15 bytes to 4 MiB, and this file has 14 bytes"],
    [
      new Uint8Array(gzipSync(firmwareImage(4096))),
      undefined,
      "gzip: neither ELF nor a Linux bzImage inside; firmware must not be packed",
    ],
    [counting(100), "dos" as BootFormat, "unknown format dos"],
  ];
  for (const [file, format, sentence] of cases) {
    expect(() => load(file, format)).toThrow(new BootError(`file: ${sentence}`));
  }
});

test("a compressed file may not unpack to more than the machine's RAM", () => {
  const bomb = new Uint8Array(gzipSync(new Uint8Array(SIZE + 1)));
  expect(() => load(bomb)).toThrow(
    new BootError("file: gzip: unpacks to more than 64 MiB, which is the limit for this machine"),
  );
});

/** LZ4 legacy frame: "abc", a match that repeats it to 20 bytes, "!"; then a block of "!". */
const LZ4 = concat(
  words(0x184c2102, 8),
  Uint8Array.of(0x3d, 0x61, 0x62, 0x63, 3, 0, 0x10, 0x21),
  words(2),
  Uint8Array.of(0x10, 0x21),
);

const packed = (payload: Uint8Array) =>
  bzImage({
    kernel: concat(new Uint8Array(32), payload, new Uint8Array(64)),
    payloadOffset: 32,
    payloadLength: payload.length,
  });

test("a vmlinux is extracted from gzip, LZ4 and zstd", () => {
  const kernel = vmlinux();
  const length = words(kernel.length);
  expect(extractVmlinux(packed(new Uint8Array(gzipSync(kernel))))).toEqual(kernel);
  expect(extractVmlinux(packed(concat(new Uint8Array(zstdCompressSync(kernel)), length)))).toEqual(
    kernel,
  );
  const text = "abcabcabcabcabcabcab!!";
  expect(extractVmlinux(packed(concat(LZ4, words(22))))).toEqual(ascii(text));
});

test("a payload that can't be unpacked is a sentence", () => {
  const cases: [Uint8Array, string][] = [
    [concat(LZ4, words(23)), "payload: LZ4: unpacks to 22 bytes instead of 23"],
    [concat(LZ4, words(21)), "payload: LZ4: the data is damaged"],
    [
      concat(words(0x184c2102, 100), words(5)),
      "payload: LZ4 block: 0x8 lies beyond the end of the payload (8 bytes)",
    ],
    [concat(ascii("\xfd7zXZ\0").subarray(1), words(1, 1)), "payload: packed in an unknown way"],
    [
      Uint8Array.of(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 1, 0, 0, 0),
      "payload: packed with xz, which can't be unpacked here",
    ],
    [
      concat(ascii("BZh9"), words(1, 1)),
      "payload: packed with bzip2, which can't be unpacked here",
    ],
    [concat(LZ4, words(2 ** 31)), "payload: the unpacked size, 2 GiB, is too large for 26 bytes"],
    [words(1), "payload_length: there is no packed kernel in this file"],
    [concat(words(0xfd2fb528), words(1, 1)), "payload: unpacks to 0 bytes instead of 1"],
    [concat(words(0xfd2fb528), new Uint8Array(40).fill(0xff), words(1)), "payload: zstd: "],
  ];
  for (const [payload, sentence] of cases) {
    expect(() => extractVmlinux(packed(payload), "vmlinuz")).toThrow(`vmlinuz: ${sentence}`);
  }
});
