import { expect, test } from "bun:test";
import { GuestMemory } from "../../vmm/memory.ts";
import { BootError } from "./bytes.ts";
import { classicMemoryMap, LOW_RAM_END } from "./e820.ts";
import { loadKernel } from "./index.ts";
import { LOW } from "./low-memory.ts";
import { bzImage, type BzImageFields } from "./testing.ts";

const MIB = 2 ** 20;

function load(
  fields: BzImageFields = {},
  options: { size?: number; initrd?: Uint8Array; cmdline?: string; bits?: 32 | 64 } = {},
) {
  const { size = 64 * MIB, ...rest } = options;
  const memory = GuestMemory.standalone(size);
  const e820 = classicMemoryMap(size);
  const boot = loadKernel({ name: "vmlinuz", kernel: bzImage(fields), memory, e820, ...rest });
  return { memory, boot };
}

const sentence = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(BootError);
    return (error as BootError).message;
  }
  throw new Error("no BootError");
};

test("a 64-bit kernel is entered at +0x200 in long mode with the zero page in RSI", () => {
  const { memory, boot } = load({}, { cmdline: "console=ttyS0" });
  expect(boot.format).toBe("linux");
  expect(boot.entry).toBe(0x1000200);
  expect(boot.description).toBe("Linux 6.1.0-test (bzImage), 64-bit entry 0x1000200");
  const { cpu } = boot;
  expect(cpu.rip).toBe(0x1000200);
  expect(cpu.rsi).toBe(LOW.zeroPage);
  expect([cpu.rbx, cpu.rbp, cpu.rdi, cpu.rflags]).toEqual([0, 0, 0, 2]);
  expect([cpu.cr0, cpu.cr4, cpu.efer]).toEqual([0x80000011, 0x20, 0x500]);
  expect(cpu.cs).toMatchObject({ selector: 0x10, l: 1, db: 0, base: 0, limit: 0xffffffff });
  expect(cpu.ss).toMatchObject({ selector: 0x18, db: 1, type: 3 });
  // The protected-mode kernel starts after (setup_sects + 1) sectors.
  expect(memory.read32(0x1000000)).toBe(0x11111111);
});

test("the GDT in memory says what the segment registers hold", () => {
  const { memory, boot } = load();
  const { base, limit } = boot.cpu.gdt;
  expect(limit).toBe(0x1f);
  expect(memory.read32(base + 0x10)).toBe(0x0000ffff);
  expect(memory.read32(base + 0x14)).toBe(0x00af9b00);
  expect(memory.read32(base + 0x18)).toBe(0x0000ffff);
  expect(memory.read32(base + 0x1c)).toBe(0x00cf9300);
});

test("the page tables map the first 4 GiB to themselves", () => {
  const { memory, boot } = load();
  for (const address of [0, 0x7000, 0x1000000, 0x3fe00000, 0x40000000, 0xffe00000]) {
    const pdpt = memory.read32(boot.cpu.cr3 + Math.floor(address / 2 ** 39) * 8) & ~0xfff;
    const directory = memory.read32(pdpt + Math.floor(address / 2 ** 30) * 8) & ~0xfff;
    const entry = memory.read32(directory + (Math.floor(address / 2 ** 21) % 512) * 8);
    expect(entry & 0xfff).toBe(0x87);
    expect((entry & ~0x1fffff) >>> 0).toBe(Math.floor(address / 2 ** 21) * 2 ** 21);
  }
});

test("the zero page holds the setup header, the loader's fields and the memory map", () => {
  const { memory } = load({}, { cmdline: "quiet", size: 128 * MIB });
  const page = LOW.zeroPage;
  expect(memory.read16(page + 0x1fe)).toBe(0xaa55);
  expect(memory.read32(page + 0x202)).toBe(0x53726448);
  expect(memory.read8(page + 0x210)).toBe(0xff);
  // KEEP_SEGMENTS and CAN_USE_HEAP are cleared, LOADED_HIGH stays.
  expect(memory.read8(page + 0x211)).toBe(1);
  expect(memory.read32(page + 0x214)).toBe(0x1000000);
  const line = memory.read32(page + 0x228);
  const text = new Uint8Array(6);
  memory.read(line, text);
  expect(new TextDecoder().decode(text)).toBe("quiet\0");
  expect(memory.read8(page + 0x1e8)).toBe(4);
  expect(memory.read64(page + 0x2d0)).toBe(0);
  expect(memory.read64(page + 0x2d8)).toBe(LOW_RAM_END);
  expect(memory.read32(page + 0x2e0)).toBe(1);
  expect(memory.read64(page + 0x2d0 + 40)).toBe(MIB);
  expect(memory.read64(page + 0x2d8 + 40)).toBe(127 * MIB);
  // The sentinel and everything before the header is 0.
  expect(memory.read8(page + 0x1ef)).toBe(0);
});

test("an initrd lies as high as RAM allows", () => {
  const initrd = new Uint8Array(5000).fill(0xab);
  const { memory } = load({}, { initrd });
  const at = memory.read32(LOW.zeroPage + 0x218);
  expect(at).toBe(64 * MIB - 8192);
  expect(memory.read32(LOW.zeroPage + 0x21c)).toBe(5000);
  expect(memory.read8(at)).toBe(0xab);
  expect(memory.read8(at + 4999)).toBe(0xab);
});

test("an initrd lies below initrd_addr_max", () => {
  const { memory } = load({ initrdAddrMax: 0x37fffff - 1 }, { initrd: new Uint8Array(4096) });
  expect(memory.read32(LOW.zeroPage + 0x218)).toBe(0x37fe000);
});

test("an initrd goes below the kernel when there is no room above", () => {
  const { memory } = load({ initSize: 47 * MIB }, { initrd: new Uint8Array(2 * MIB) });
  expect(memory.read32(LOW.zeroPage + 0x218)).toBe(14 * MIB);
});

test("no room for the initrd is a sentence", () => {
  const run = () => load({ initSize: 47 * MIB }, { initrd: new Uint8Array(20 * MIB) });
  expect(sentence(run)).toBe(
    "vmlinuz: no room for the initrd (20 MiB) below 0x80000000: " +
      "the machine's RAM is 0x0-0x9f000, 0x100000-0x4000000",
  );
});

test("a 32-bit kernel, or bits: 32, is entered at its start in protected mode", () => {
  for (const [fields, options] of [
    [{ xloadflags: 0 }, {}],
    [{}, { bits: 32 as const }],
  ] as const) {
    const { cpu, entry } = load(fields, options).boot;
    expect(entry).toBe(0x1000000);
    expect([cpu.cr0, cpu.cr4, cpu.efer, cpu.cr3]).toEqual([0x11, 0, 0, 0]);
    expect(cpu.cs).toMatchObject({ selector: 0x10, l: 0, db: 1 });
    expect([cpu.rsi, cpu.rbx, cpu.rbp, cpu.rdi]).toEqual([LOW.zeroPage, 0, 0, 0]);
  }
});

test("a kernel that isn't relocatable is loaded where it says", () => {
  const { boot } = load({ relocatable: 0, prefAddress: 0x100000, alignment: 0x1000 });
  expect(boot.entry).toBe(0x100200);
});

test("a kernel of protocol 2.06 is loaded at 1 MiB and has no 64-bit entry", () => {
  const { boot } = load({ version: 0x206, relocatable: 0 });
  expect(boot.entry).toBe(0x100000);
});

test("what is wrong with a setup header is said", () => {
  const cases: [BzImageFields, string][] = [
    [{ version: 0x204 }, "boot protocol 2.4 is too old: 2.06 is needed (Linux 2.6.22)"],
    [{ loadflags: 0 }, "loadflags: a zImage, which loads below 1 MiB; only a bzImage is supported"],
    [{ bootFlag: 0 }, "boot_flag: 0x0 instead of 0xaa55"],
    [{ alignment: 0x1001 }, "kernel_alignment: 0x1001 is not a power of two up to 1 GiB"],
    [{ headerLength: 0xff }, "jump: the setup header ends at 0x301, not between 0x23c and 0x290"],
    [
      { setupSects: 255 },
      "setup_sects: the kernel would start at 0x20000, beyond the end of the file (10 KiB)",
    ],
    [
      { syssize: 0xffffff },
      "syssize: the kernel has 256 MiB, but the file holds 8 KiB: it is cut off",
    ],
    [
      { initSize: 0x10000000 },
      "the kernel needs 256 MiB at 0x1000000, which is not RAM: " +
        "the machine's RAM is 0x0-0x9f000, 0x100000-0x4000000",
    ],
    [{ prefAddress: 2 ** 60 }, "pref_address: 0x1000000000000000 is too large"],
    [
      { prefAddress: 0x7000, alignment: 0x1000, initSize: 0x2000 },
      "the zero page (0x7000-0x8000) overlaps the kernel (0x7000-0x9000)",
    ],
  ];
  for (const [fields, expected] of cases) {
    expect(sentence(() => load(fields))).toBe(`vmlinuz: ${expected}`);
  }
});

test("a command line must fit the kernel's limit and hold no NUL", () => {
  expect(load({}, { cmdline: "x".repeat(2047) }).boot.entry).toBe(0x1000200);
  expect(sentence(() => load({}, { cmdline: "x".repeat(2048) }))).toBe(
    "vmlinuz: the command line is 2048 bytes long; this kernel takes at most 2047",
  );
  expect(sentence(() => load({}, { cmdline: "a\0b" }))).toBe(
    "vmlinuz: the command line holds a NUL character",
  );
});

test("options of other formats are refused", () => {
  const memory = GuestMemory.standalone(64 * MIB);
  const common = { name: "vmlinuz", kernel: bzImage(), memory, e820: classicMemoryMap(64 * MIB) };
  expect(sentence(() => loadKernel({ ...common, bootMac: new Uint8Array(6) }))).toBe(
    "vmlinuz is a Linux bzImage: it takes no boot MAC address",
  );
  const modules = [{ name: "m", data: new Uint8Array(1) }];
  expect(sentence(() => loadKernel({ ...common, modules }))).toBe(
    "vmlinuz is a Linux bzImage: it takes no modules",
  );
});
