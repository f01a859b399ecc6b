import { expect, test } from "bun:test";
import { GuestMemory } from "../../vmm/memory.ts";
import {
  BootError,
  type BootFormat,
  type BootOptions,
  classicMemoryMap,
  loadKernel,
} from "./index.ts";
import { LOW } from "./low-memory.ts";
import { counting, elfFile, vmlinux, words } from "./testing.ts";

const SIZE = 64 * 2 ** 20;

function load(
  kernel: Uint8Array,
  options: Partial<BootOptions> & { format?: BootFormat } = {},
  memory = GuestMemory.standalone(SIZE),
) {
  const e820 = classicMemoryMap(SIZE);
  return { memory, boot: loadKernel({ name: "vmlinux", kernel, memory, e820, ...options }) };
}

test("a 64-bit vmlinux is entered by the 64-bit protocol even if it has a PVH entry", () => {
  const { memory, boot } = load(vmlinux(), { cmdline: "quiet" });
  expect(boot).toMatchObject({ format: "vmlinux", entry: 0x1000000 });
  expect(boot.description).toBe("Linux 6.1.0-t (vmlinux), 64-bit entry 0x1000000");
  expect(boot.cpu).toMatchObject({ rip: 0x1000000, rsi: LOW.zeroPage, efer: 0x500, cr4: 0x20 });
  expect(boot.cpu.cs.l).toBe(1);
  expect(memory.read32(0x1001000)).toBe(0x04030201);
  expect(memory.read16(LOW.zeroPage + 0x1fe)).toBe(0xaa55);
  expect(memory.read32(LOW.zeroPage + 0x202)).toBe(0x53726448);
  expect(memory.read32(LOW.zeroPage + 0x228)).toBe(LOW.commandLine);
  expect(memory.read8(LOW.zeroPage + 0x1e8)).toBe(4);
});

test("a 32-bit vmlinux is entered by the 32-bit protocol", () => {
  const { boot } = load(vmlinux(32));
  expect(boot.cpu).toMatchObject({ rip: 0x1000000, rsi: LOW.zeroPage, cr0: 0x11, efer: 0 });
});

test("the PVH entry point on request", () => {
  const initrd = counting(5000);
  const { memory, boot } = load(vmlinux(), { format: "pvh", cmdline: "a b", initrd });
  expect(boot).toMatchObject({ format: "pvh", entry: 0x1000010 });
  expect(boot.cpu).toMatchObject({ rip: 0x1000010, rbx: LOW.startInfo, cr0: 0x11, cr4: 0 });
  expect(boot.cpu.cs).toMatchObject({ db: 1, l: 0, base: 0, limit: 0xffffffff });
  expect(boot.cpu.tr).toMatchObject({ base: 0, limit: 0x67, type: 11 });
  const info = LOW.startInfo;
  expect([memory.read32(info), memory.read32(info + 4)]).toEqual([0x336ec578, 1]);
  expect([memory.read32(info + 8), memory.read32(info + 12)]).toEqual([0, 1]);
  const [modules, line, rsdp, map] = [16, 24, 32, 40].map((at) => memory.read64(info + at));
  expect(memory.read32(line)).toBe(0x00622061);
  expect(rsdp).toBe(0);
  expect(memory.read32(info + 48)).toBe(4);
  expect(memory.read64(modules + 8)).toBe(5000);
  expect(memory.read64(modules)).toBe(SIZE - 8192);
  expect(memory.read8(SIZE - 8192 + 4999)).toBe(initrd[4999]);
  expect(memory.read64(map + 24)).toBe(0x9f000);
  expect(memory.read32(map + 24 + 16)).toBe(2);
  expect(memory.read64(map + 48)).toBe(0x100000);
  expect(memory.read64(map + 56)).toBe(SIZE - 0x100000);
});

test("a kernel with a PVH note and no other protocol is entered by it", () => {
  const kernel = pvhKernel(words(0x1000004));
  expect(load(kernel).boot).toMatchObject({ format: "pvh", entry: 0x1000004 });
});

function pvhKernel(desc: Uint8Array): Uint8Array {
  const note = new Uint8Array(16 + Math.ceil(desc.length / 4) * 4);
  note.set([4, 0, 0, 0, desc.length, 0, 0, 0, 18, 0, 0, 0, 0x58, 0x65, 0x6e, 0]);
  note.set(desc, 16);
  return elfFile({
    entry: 0xffffffff80000000n,
    segments: [
      { paddr: 0x1000000n, bytes: counting(16) },
      { type: 4, paddr: 0n, bytes: note },
    ],
  });
}

test("a PVH note must hold an address in the kernel", () => {
  expect(() => load(pvhKernel(words(0x1000010)))).toThrow(
    new BootError("vmlinux: PVH note: 0x1000010 lies in no loadable segment"),
  );
  expect(() => load(pvhKernel(new Uint8Array(3)))).toThrow(
    new BootError("vmlinux: PVH note: the entry point has 3 bytes, neither 4 nor 8"),
  );
  expect(() => load(pvhKernel(words(0x1000000, 1)))).toThrow(
    new BootError("vmlinux: PVH note: the entry point lies above 4 GiB"),
  );
  const plain = elfFile({ entry: 0n, segments: [{ paddr: 0x1000000n, bytes: counting(16) }] });
  expect(() => load(plain, { format: "pvh" })).toThrow(
    new BootError("vmlinux: no PVH entry point: the XEN_ELFNOTE 18 is missing"),
  );
});

test("a 64-bit vmlinux on a 32-bit CPU is refused", () => {
  expect(() => load(vmlinux(), { bits: 32 })).toThrow(
    new BootError("vmlinux: a 64-bit vmlinux has no 32-bit entry point for Linux's boot protocol"),
  );
});

test("a kernel that would lie on the loader's own structures is refused", () => {
  const kernel = elfFile({
    entry: 0x7000n,
    segments: [{ paddr: 0x7000n, bytes: counting(16) }],
  });
  expect(() => load(kernel, { format: "vmlinux" })).toThrow(
    new BootError("vmlinux: the zero page (0x7000-0x8000) overlaps segment 0 (0x7000-0x7010)"),
  );
});
