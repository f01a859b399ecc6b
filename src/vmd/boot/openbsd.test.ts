import { expect, test } from "bun:test";
import { gzipSync } from "node:zlib";
import { GuestMemory } from "../../vmm/memory.ts";
import { BootError, type BootOptions, classicMemoryMap, loadKernel } from "./index.ts";
import { counting, elfFile, openBsdKernel } from "./testing.ts";

const SIZE = 64 * 2 ** 20;

function load(kernel: Uint8Array, options: Partial<BootOptions> & { format?: "netbsd" } = {}) {
  const memory = GuestMemory.standalone(SIZE);
  const random = (into: Uint8Array) => void into.fill(0xee);
  const e820 = classicMemoryMap(SIZE);
  return { memory, boot: loadKernel({ name: "bsd", kernel, memory, e820, random, ...options }) };
}

const bytesAt = (memory: GuestMemory, address: number, length: number) => {
  const bytes: Uint8Array = new Uint8Array(length);
  memory.read(address, bytes);
  return bytes;
};

test("an amd64 kernel is entered in compatibility mode with the first GiB mapped", () => {
  const { memory, boot } = load(openBsdKernel(64));
  expect(boot.format).toBe("openbsd");
  expect(boot.description).toBe("OpenBSD 7.9 (ELF64), entry 0x1000020");
  const { cpu } = boot;
  expect([cpu.rip, cpu.rflags, cpu.cr0, cpu.cr3]).toEqual([0x1000020, 2, 0x80000011, 0x11000]);
  expect([cpu.cr4, cpu.efer]).toEqual([0x30, 0x500]);
  expect(cpu.cs).toMatchObject({ selector: 0x08, l: 0, db: 1 });
  expect(cpu.ss).toMatchObject({ selector: 0x10, type: 3 });
  expect(cpu.gdt).toEqual({ base: 0x10000, limit: 0x1f });
  expect(memory.read32(0x10000 + 0x1c)).toBe(0x00af9b00);
  expect(memory.read32(0x10000 + 0x0c)).toBe(0x00cf9b00);
  expect(memory.read64(0x11000)).toBe(0x12007);
  expect(memory.read64(0x12000)).toBe(0x13007);
  expect(memory.read64(0x12008)).toBe(0);
  expect(memory.read64(0x13000 + 511 * 8)).toBe(0x3fe00087);
});

test("an i386 kernel is entered with 4 GiB mapped in pages of 4 MiB", () => {
  const { memory, boot } = load(openBsdKernel(32));
  const { cpu } = boot;
  expect([cpu.rip, cpu.cr0, cpu.cr3]).toEqual([0x200020, 0x80000011, 0x12000]);
  expect([cpu.cr4, cpu.efer]).toEqual([0x10, 0]);
  expect(memory.read32(0x12000)).toBe(0x87);
  expect(memory.read32(0x12000 + 1023 * 4)).toBe(0xffc00087);
});

test("the stack holds what boot(8) would push", () => {
  const { memory, boot } = load(openBsdKernel(64));
  expect(boot.cpu.rsp).toBe(0x10000 - 36);
  const words = Array.from({ length: 9 }, (_, i) => memory.read32(boot.cpu.rsp + i * 4));
  const [back, howto, device, api, end, extended, base, length, address] = words;
  expect([back, howto, device, api]).toEqual([0, 0, 0xa0000004, 0xe]);
  expect([extended, base, address]).toEqual([0, 0, 0x2000]);
  expect(length).toBe(12 + 5 * 20 + 44 + 12);
  expect(end % 8).toBe(0);
  expect(end).toBeGreaterThan(0x1003004);
});

test("the boot arguments: memory map, console, boot MAC address, end", () => {
  const { memory } = load(openBsdKernel(64), { bootMac: Uint8Array.of(2, 0, 0, 0, 0, 9) });
  const chain: { type: number; at: number; size: number }[] = [];
  for (let at = 0x2000; at !== 0; at = memory.read32(at + 8)) {
    chain.push({ type: memory.read32(at), size: memory.read32(at + 4), at });
  }
  expect(chain.map(({ type }) => type)).toEqual([0, 5, 7, 0xffffffff]);
  // Walking by size, as newer kernels do, finds the same chain.
  for (const [i, { at, size }] of chain.slice(0, -1).entries()) {
    expect(at + size).toBe(chain[i + 1].at);
  }
  const [map, console, mac] = chain.map(({ at }) => at + 12);
  expect(memory.read64(map + 8)).toBe(0x9f000);
  expect(memory.read32(map + 16)).toBe(1);
  expect(memory.read64(map + 40)).toBe(0x100000);
  expect(memory.read64(map + 48)).toBe(SIZE - 0x100000);
  expect([...bytesAt(memory, map + 80, 20)]).toEqual(Array(20).fill(0));
  expect([memory.read32(console), memory.read32(console + 4)]).toEqual([0x800, 115200]);
  expect(memory.read64(console + 8)).toBe(0x3f8);
  expect([...bytesAt(memory, mac, 6)]).toEqual([2, 0, 0, 0, 0, 9]);
});

test("random data is filled in after the data around it is loaded", () => {
  const { memory } = load(openBsdKernel(64));
  expect([...bytesAt(memory, 0x100100e, 20)]).toEqual([15, 16, ...Array(16).fill(0xee), 33, 34]);
});

for (const bits of [32, 64] as const) {
  test(`ELF${bits}: symbols follow the kernel as an ELF file of their own`, () => {
    const { memory, boot } = load(openBsdKernel(bits));
    const [word, header, entry, kernelEnd] =
      bits === 64 ? [8, 64, 64, 0x1003008] : [4, 52, 40, 0x203004];
    const end = memory.read32(boot.cpu.rsp + 16);
    const symbols = kernelEnd;
    const read = (at: number) => (bits === 64 ? memory.read64(at) : memory.read32(at));
    expect(memory.read32(symbols)).toBe(0x464c457f);
    expect(read(symbols + (bits === 64 ? 32 : 28))).toBe(0);
    expect(read(symbols + (bits === 64 ? 40 : 32))).toBe(header);
    expect(memory.read32(symbols + (bits === 64 ? 54 : 42))).toBe(0);
    const section = (i: number) => {
      const at = symbols + header + i * entry;
      const offset = read(at + (bits === 64 ? 24 : 16));
      const flags = read(at + 8);
      return { offset, flags };
    };
    // .symtab, .strtab, .debug_line and .shstrtab in memory, aligned; the others as they were.
    let next = Math.ceil((header + 7 * entry) / word) * word;
    for (const [i, size] of [
      [2, 48],
      [3, 6],
      [4, 9],
      [6, 54],
    ]) {
      expect(section(i)).toEqual({ offset: next, flags: 2 });
      next += Math.ceil(size / word) * word;
    }
    expect(section(5).flags).toBe(0);
    expect(bytesAt(memory, symbols + section(2).offset, 48)).toEqual(counting(48, 0x10));
    expect(bytesAt(memory, symbols + section(4).offset, 9)).toEqual(counting(9, 0x80));
    expect(end).toBe(symbols + next);
  });
}

test("without symbols the end is the next page, and nothing is found there", () => {
  const memory = GuestMemory.standalone(SIZE);
  memory.fill(0, SIZE, 0x7f);
  const kernel = elfFile({
    bits: 32,
    entry: 0xd0200120n,
    segments: [{ paddr: 0xd0200120n, bytes: counting(16) }],
  });
  const boot = loadKernel({ name: "bsd", kernel, memory, e820: classicMemoryMap(SIZE) });
  expect(boot.description).toBe("OpenBSD-style kernel (ELF32), entry 0x200120");
  expect(memory.read32(boot.cpu.rsp + 16)).toBe(0x201000);
  expect([memory.read32(0x201000), memory.read32(0x201ffc)]).toEqual([0, 0]);
});

test("a compressed kernel loads as the kernel inside", () => {
  const packed = new Uint8Array(gzipSync(openBsdKernel(32)));
  expect(load(packed).boot.description).toBe("OpenBSD 7.9 (ELF32), entry 0x200020");
});

test("NetBSD and FreeBSD kernels load by their ELF forms", () => {
  const netbsd = elfFile({
    entry: 0xffffffff80200010n,
    segments: [
      { vaddr: 0xffffffff80200000n, paddr: 0x200000n, bytes: counting(64) },
      // NetBSD's identification note: owner, version of the kernel's interfaces.
      { type: 4, paddr: 0n, bytes: netbsdNote() },
    ],
  });
  const freebsd = elfFile({
    osabi: 9,
    entry: 0xffffffff80200010n,
    segments: [
      { type: 6, paddr: 0x200040n, bytes: counting(8) },
      { type: 3, paddr: 0x200100n, bytes: new TextEncoder().encode("/red/herring\0") },
      { vaddr: 0xffffffff80200000n, paddr: 0x200000n, bytes: counting(64) },
    ],
  });
  expect(load(netbsd).boot).toMatchObject({ format: "netbsd", entry: 0x200010 });
  expect(load(freebsd).boot).toMatchObject({ format: "freebsd", entry: 0x200010 });
  expect(load(freebsd, { format: "netbsd" }).boot.format).toBe("netbsd");
});

function netbsdNote(): Uint8Array {
  const bytes = new Uint8Array(24);
  bytes.set([7, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]);
  bytes.set(new TextEncoder().encode("NetBSD\0"), 12);
  return bytes;
}

test("what doesn't fit the protocol is a sentence", () => {
  const kernel = (paddr: bigint, entry = paddr, memsz = 16) =>
    elfFile({ entry, segments: [{ paddr, bytes: counting(16), memsz }] });
  const cases: [Uint8Array, Partial<BootOptions>, string][] = [
    [
      openBsdKernel(),
      { initrd: new Uint8Array(1) },
      "bsd is an OpenBSD kernel: it takes no initrd",
    ],
    [openBsdKernel(), { cmdline: "-s" }, "bsd is an OpenBSD kernel: it takes no command line"],
    [openBsdKernel(), { bootMac: new Uint8Array(5) }, "boot MAC address: 5 bytes instead of 6"],
    [
      kernel(0x2000n),
      {},
      "bsd: the boot arguments (0x2000-0x3000) overlaps segment 0 (0x2000-0x2010)",
    ],
    [kernel(0x200000n, 0x300000n), {}, "bsd: e_entry: 0x300000 lies in no loadable segment"],
    [
      elfFile({
        entry: 0x200000n,
        segments: [
          { paddr: 0x200000n, bytes: counting(16) },
          { type: 0x65a3dbe6, paddr: 0x200000n, offset: 0x400, bytes: new Uint8Array(2 ** 20 + 1) },
        ],
      }),
      {},
      "bsd: program header 1: p_filesz: 1.0 MiB of random data; at most 1 MiB is given",
    ],
  ];
  for (const [file, options, sentence] of cases) {
    expect(() => load(file, options)).toThrow(new BootError(sentence));
  }
});

test("a kernel above 256 MiB is refused even if there is RAM", () => {
  const size = 512 * 2 ** 20;
  const kernel = elfFile({
    entry: 0x200000n,
    segments: [{ paddr: 0xffff000n, bytes: counting(16), memsz: 0x2000 }],
  });
  const memory = GuestMemory.standalone(size);
  expect(() => loadKernel({ name: "bsd", kernel, memory, e820: classicMemoryMap(size) })).toThrow(
    new BootError("bsd: the kernel ends at 0x10001000; it must lie below 256 MiB"),
  );
});

test("sections that claim the same bytes again and again can't fill memory", () => {
  const sections = Array.from({ length: 100 }, (_, i) => ({
    name: `${i}`,
    type: i === 0 ? 2 : 3,
    bytes: new Uint8Array(0),
  }));
  const kernel = elfFile({
    entry: 0x200000n,
    segments: [{ paddr: 0x200000n, bytes: counting(16) }],
    sections,
  });
  const big = new Uint8Array(2 ** 23);
  big.set(kernel);
  const view = new DataView(big.buffer);
  const table = view.getUint32(40, true);
  for (let i = 1; i <= 100; i++) {
    view.setBigUint64(table + i * 64 + 24, 0n, true);
    view.setBigUint64(table + i * 64 + 32, BigInt(2 ** 23), true);
  }
  expect(() => load(big)).toThrow("bsd: kernel and symbols (800 MiB) must lie below 256 MiB");
});
