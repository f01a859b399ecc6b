import { expect, test } from "bun:test";
import { GuestMemory } from "../../vmm/memory.ts";
import { BootError, type BootOptions, classicMemoryMap, loadKernel } from "./index.ts";
import { ascii, concat, counting, elfFile, multibootHeader, multibootKernel } from "./testing.ts";

const SIZE = 64 * 2 ** 20;

function load(kernel: Uint8Array, options: Partial<BootOptions> = {}) {
  const memory = GuestMemory.standalone(SIZE);
  const e820 = classicMemoryMap(SIZE);
  return { memory, boot: loadKernel({ name: "xen", kernel, memory, e820, ...options }) };
}

function text(memory: GuestMemory, address: number): string {
  let string = "";
  for (let at = address; memory.read8(at) !== 0; at++) {
    string += String.fromCharCode(memory.read8(at));
  }
  return string;
}

test("an ELF kernel is entered in protected mode with EAX and EBX set", () => {
  const { memory, boot } = load(multibootKernel());
  expect(boot).toMatchObject({ format: "multiboot", entry: 0x100010 });
  expect(boot.description).toBe("Multiboot kernel (ELF32), entry 0x100010");
  const { cpu } = boot;
  expect(cpu).toMatchObject({ rip: 0x100010, rax: 0x2badb002, rbx: 0x2000, rflags: 2 });
  expect([cpu.cr0, cpu.cr4, cpu.efer]).toEqual([0x11, 0, 0]);
  expect(cpu.cs).toMatchObject({ db: 1, limit: 0xffffffff });
  expect(cpu.gdt).toEqual({ base: 0x1000, limit: 0x17 });
  expect(memory.read32(0x100c)).toBe(0x00cf9b00);
  expect(memory.read32(0x100000)).toBe(0x1badb002);
});

test("the information structure: memory, command line, map, loader name", () => {
  const { memory } = load(multibootKernel(), { cmdline: "console=com1" });
  const info = 0x2000;
  expect(memory.read32(info)).toBe(0x24d);
  expect([memory.read32(info + 4), memory.read32(info + 8)]).toEqual([636, SIZE / 1024 - 1024]);
  expect(text(memory, memory.read32(info + 16))).toBe("xen console=com1");
  expect(text(memory, memory.read32(info + 64))).toBe("vmd");
  expect(memory.read32(info + 20)).toBe(0);
  const [length, map] = [memory.read32(info + 44), memory.read32(info + 48)];
  expect(length).toBe(4 * 24);
  expect([0, 1, 2, 3].map((i) => memory.read32(map + i * 24))).toEqual([20, 20, 20, 20]);
  expect(memory.read64(map + 48 + 4)).toBe(0x100000);
  expect(memory.read64(map + 48 + 12)).toBe(SIZE - 0x100000);
  expect(memory.read32(map + 48 + 20)).toBe(1);
});

test("the BIOS data area says where conventional memory ends", () => {
  const { memory } = load(multibootKernel());
  expect(memory.read16(0x400)).toBe(0x3f8);
  expect(memory.read16(0x40e)).toBe(0x9f00);
  expect(memory.read16(0x413)).toBe(636);
});

test("modules follow the kernel on pages of their own, each with its command line", () => {
  const modules = [
    { name: "vmlinuz", data: counting(5000), args: "root=/dev/ram" },
    { name: "initrd", data: counting(10, 9) },
    { name: "empty", data: new Uint8Array(0) },
  ];
  const { memory } = load(multibootKernel(), { modules });
  expect(memory.read32(0x2000 + 20)).toBe(3);
  const table = memory.read32(0x2000 + 24);
  const entries = [0, 1, 2].map((i) =>
    [0, 4, 8, 12].map((at) => memory.read32(table + i * 16 + at)),
  );
  expect(entries.map(([start, end]) => [start, end])).toEqual([
    [0x103000, 0x103000 + 5000],
    [0x105000, 0x10500a],
    [0x106000, 0x106000],
  ]);
  expect(entries.map(([, , line]) => text(memory, line))).toEqual([
    "vmlinuz root=/dev/ram",
    "initrd",
    "empty",
  ]);
  expect(memory.read8(0x105000)).toBe(9);
});

/** A kernel whose header says where it goes; the header lies 16 bytes into the file. */
function addressed(
  fields: Partial<Record<"header" | "load" | "loadEnd" | "bssEnd" | "entry", number>>,
) {
  const {
    header = 0x8010,
    load = 0x8000,
    loadEnd = 0x8100,
    bssEnd = 0xc000,
    entry = 0x8040,
  } = fields;
  const head = multibootHeader(0x10003, header, load, loadEnd, bssEnd, entry);
  return concat(counting(16), head, counting(0x200));
}

test("a file that isn't ELF loads by the addresses in its header", () => {
  const { memory, boot } = load(addressed({}));
  expect(boot).toMatchObject({ format: "multiboot", entry: 0x8040 });
  expect(memory.read32(0x8000)).toBe(0x04030201);
  expect(memory.read32(0x8010)).toBe(0x1badb002);
  expect([memory.read8(0x80ff), memory.read8(0x8100)]).toEqual([counting(0x200)[0xff - 0x30], 0]);
  expect(load(addressed({ loadEnd: 0, bssEnd: 0 })).memory.read8(0x8100)).not.toBe(0);
  // Only what comes after load_addr is loaded: the first 8 bytes of the file are not.
  expect(load(addressed({ load: 0x8008 })).memory.read8(0x8008)).toBe(9);
});

test("address fields that make no sense are sentences", () => {
  const cases: [Parameters<typeof addressed>[0], string][] = [
    [{ load: 0x8014 }, "load_addr: 0x8014 doesn't fit header_addr, 0x8010"],
    [{ load: 0x7000 }, "load_addr: 0x7000 doesn't fit header_addr, 0x8010"],
    [{ loadEnd: 0x7fff }, "load_end_addr: 0x7fff lies below load_addr, 0x8000"],
    [
      { loadEnd: 0x9000 },
      "load_end_addr: 0x0 + 0x1000 reaches beyond the end of the file (560 bytes)",
    ],
    [{ bssEnd: 0x8080 }, "bss_end_addr: 0x8080 lies below the end of the data"],
    [{ entry: 0xc000 }, "entry_addr: 0xc000 lies outside what is loaded"],
    [
      { bssEnd: 0xffffffff },
      "the kernel needs 4.0 GiB at 0x8000, which is not RAM: the machine's RAM is 0x0-0x9f000, 0x100000-0x4000000",
    ],
  ];
  for (const [fields, sentence] of cases) {
    expect(() => load(addressed(fields))).toThrow(new BootError(`xen: ${sentence}`));
  }
});

test("an ELF64 kernel with a 32-bit entry point loads too", () => {
  const kernel = elfFile({
    entry: 0x1000010n,
    segments: [{ paddr: 0x1000000n, bytes: concat(multibootHeader(), counting(50)) }],
  });
  expect(load(kernel).boot.description).toBe("Multiboot kernel (ELF64), entry 0x1000010");
});

test("what the specification requires is checked", () => {
  expect(() => load(multibootKernel(0x13))).toThrow(
    new BootError("xen: Multiboot header: unknown requirements 0x10"),
  );
  const bare = concat(multibootHeader(), counting(100));
  expect(() => load(bare)).toThrow(
    new BootError("xen: Multiboot header: neither an ELF file nor load addresses in the header"),
  );
  // A wrong checksum or a header beyond 8 KiB is no header; nothing else is in the file.
  const late = concat(new Uint8Array(8192), multibootHeader());
  expect(() => load(late)).toThrow("not a kernel");
  expect(load(multibootKernel(7)).boot.description).toContain("asks for video");
});

test("command lines that don't fit below 0x8000 are refused", () => {
  expect(() => load(multibootKernel(), { cmdline: "x".repeat(0x5000) })).toThrow(BootError);
  const modules = [{ name: "m", data: new Uint8Array(1), args: "x".repeat(0x4f00) }];
  expect(() => load(multibootKernel(), { modules, cmdline: "y".repeat(300) })).toThrow(
    new BootError("xen: command lines, modules and memory map need more than 20 KiB"),
  );
  expect(ascii("m")).toHaveLength(1);
});

test("a module that doesn't fit in RAM is refused by name", () => {
  const modules = [{ name: "big.img", data: new Uint8Array(63 * 2 ** 20) }];
  expect(() => load(multibootKernel(), { modules })).toThrow(
    "xen: module big.img needs 63 MiB at 0x103000, which is not RAM: ",
  );
});
