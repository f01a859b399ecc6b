import { expect, test } from "bun:test";
import { GuestMemory } from "../../vmm/memory.ts";
import { BootError, Bytes } from "./bytes.ts";
import { classicMemoryMap } from "./e820.ts";
import { physicalEntry, placeSegments, readElf, readNotes, readSections } from "./elf.ts";
import { Layout } from "./low-memory.ts";
import { concat, counting, ELF_DATA, elfFile, note, openBsdKernel, words } from "./testing.ts";

const open = (bytes: Uint8Array) => new Bytes("kernel", bytes);

/** The file with some bytes overwritten. */
function patch(bytes: Uint8Array, at: number, ...values: number[]): Uint8Array {
  const copy = bytes.slice();
  copy.set(values, at);
  return copy;
}

const simple = (bits: 32 | 64 = 64) =>
  elfFile({ bits, entry: 0x100000n, segments: [{ paddr: 0x100000n, bytes: counting(16) }] });

for (const bits of [32, 64] as const) {
  test(`ELF${bits}: header, program headers and sections are read`, () => {
    const elf = readElf(open(openBsdKernel(bits)));
    expect(elf.bits).toBe(bits);
    expect(elf.entry).toBe(bits === 64 ? 0xffffffff81000020n : 0xd0200020n);
    expect(elf.segments.map(({ type }) => type)).toEqual([1, 1, 0x65a3dbe6]);
    expect(elf.segments[1]).toMatchObject({ filesz: 100, memsz: 0x2004, flags: 7, align: 4 });
    expect(readSections(elf).sections.map(({ name, type }) => [name, type])).toEqual([
      ["", 0],
      [".text", 1],
      [".symtab", 2],
      [".strtab", 3],
      [".debug_line", 1],
      [".comment", 1],
      [".shstrtab", 3],
    ]);
  });
}

test("a wrong header is a sentence with file, field and value", () => {
  const kernel = simple();
  const huge = [0, 0, 0, 0, 0xff, 0, 0, 0];
  const cases: [Uint8Array, string][] = [
    [kernel.subarray(0, 3), "not an ELF file"],
    [kernel.subarray(0, 20), "e_entry: 0x18 lies beyond the end of the file (20 bytes)"],
    [patch(kernel, 4, 3), "EI_CLASS: 3 is neither 1 nor 2"],
    [patch(kernel, 5, 2), "EI_DATA: not a little-endian file"],
    [patch(kernel, 16, 1), "e_type: 1 is not an executable file (2 or 3)"],
    [patch(kernel, 18, 183), "e_machine: 183 is not x86"],
    [
      patch(kernel, 32, ...huge),
      "e_phoff: 0xff00000000 lies beyond the end of the file (1040 bytes)",
    ],
    [
      patch(kernel, 32, 255, 255, 255, 255, 255, 255, 255, 255),
      "e_phoff: 0xffffffffffffffff is too large",
    ],
    [patch(kernel, 54, 55), "e_phentsize: 55 instead of 56"],
    [patch(kernel, 56, 0), "e_phnum: no program headers, so nothing to load"],
    [
      patch(kernel, 56, 100),
      "e_phnum: 0x40 + 0x15e0 reaches beyond the end of the file (1040 bytes)",
    ],
    [patch(kernel, 56, 255, 255), "e_phnum: 65535 program headers; at most 256 are supported"],
    [patch(kernel, 64 + 40, 8), "program header 0: p_filesz: 0x10 is more than p_memsz, 0x8"],
  ];
  for (const [bytes, sentence] of cases) {
    // Sizes in KiB read better in sentences; the file here is 1040 bytes.
    const expected = `kernel: ${sentence}`.replace("1040 bytes", "1.0 KiB");
    expect(() => readElf(open(bytes))).toThrow(new BootError(expected));
  }
});

test("segments must lie in the file and in RAM, and not over each other", () => {
  const place = (bytes: Uint8Array) => {
    const memory = GuestMemory.standalone(2 ** 21);
    const layout = new Layout("kernel", memory, classicMemoryMap(2 ** 21));
    return placeSegments(layout, readElf(open(bytes)), (segment) => segment.paddr);
  };
  const kernel = simple();
  expect(place(kernel)).toBe(0x100010);
  const ram = "the machine's RAM is 0x0-0x9f000, 0x100000-0x200000";
  const cases: [Uint8Array, string][] = [
    [
      patch(kernel, 72, 0, 0, 1),
      "program header 0: p_offset: 0x10000 lies beyond the end of the file (1.0 KiB)",
    ],
    [
      patch(patch(kernel, 96, 17), 104, 17),
      "program header 0: p_filesz: 0x400 + 0x11 reaches beyond the end of the file (1.0 KiB)",
    ],
    [
      patch(kernel, 88, 0, 0, 0x0f),
      `segment 0 needs 16 bytes at 0xf0000, which is not RAM: ${ram}`,
    ],
    [
      patch(kernel, 104, 1, 0, 0x10),
      `segment 0 needs 1.0 MiB at 0x100000, which is not RAM: ${ram}`,
    ],
    [
      patch(kernel, 88, 0, 0, 0, 0, 0, 0, 0, 0x80),
      "program header 0: address 0x8000000000000000 is not RAM",
    ],
    [
      elfFile({
        entry: 0n,
        segments: [
          { paddr: 0x100000n, bytes: counting(16), memsz: 0x1000 },
          { paddr: 0x100fffn, bytes: counting(1) },
        ],
      }),
      "segment 1 (0x100fff-0x101000) overlaps segment 0 (0x100000-0x101000)",
    ],
    [
      elfFile({ entry: 0n, segments: [{ type: 4, paddr: 0n, bytes: counting(16) }] }),
      "no loadable segments",
    ],
  ];
  for (const [bytes, sentence] of cases) {
    expect(() => place(bytes)).toThrow(new BootError(`kernel: ${sentence}`));
  }
});

test("memory beyond filesz is zeroed even if it wasn't", () => {
  const memory = GuestMemory.standalone(2 ** 21);
  memory.fill(0, 2 ** 21, 0xff);
  const layout = new Layout("kernel", memory, classicMemoryMap(2 ** 21));
  const bytes = elfFile({
    entry: 0n,
    segments: [{ paddr: 0x100000n, bytes: counting(4), memsz: 6 }],
  });
  placeSegments(layout, readElf(open(bytes)), (segment) => segment.paddr);
  expect(memory.read32(0x100000)).toBe(0x04030201);
  expect(memory.read32(0x100004)).toBe(0xffff0000);
});

test("an entry point may be physical or virtual, but must lie in a segment", () => {
  const at = (entry: bigint) =>
    physicalEntry(
      readElf(
        open(
          elfFile({
            entry,
            segments: [{ vaddr: 0xffffffff80000000n, paddr: 0x100000n, bytes: counting(16) }],
          }),
        ),
      ),
    );
  expect(at(0x10000fn)).toBe(0x10000f);
  expect(at(0xffffffff8000000fn)).toBe(0x10000f);
  expect(() => at(0x100010n)).toThrow("kernel: e_entry: 0x100010 lies in no loadable segment");
});

test("notes are read with their padding, of 8 bytes too", () => {
  const two = concat(
    note("GNU", 3, counting(20)),
    note("Xen", 18, words(0x1000)),
    new Uint8Array(8),
  );
  const read = (bytes: Uint8Array, align: number) =>
    readNotes(
      readElf(open(elfFile({ entry: 0n, segments: [{ type: 4, paddr: 0n, bytes, align }] }))),
    );
  expect(read(two, 4)).toEqual([
    { owner: "GNU", type: 3, desc: counting(20) },
    { owner: "Xen", type: 18, desc: words(0x1000) },
  ]);
  // Name "GNU\0" ends at 16, which is aligned to 8; the 4-byte description is padded to 24.
  const wide = concat(note("GNU", 5, counting(4)), new Uint8Array(4), note("A", 1, counting(8)));
  expect(read(wide, 8).map(({ owner }) => owner)).toEqual(["GNU", "A"]);
});

test("a note that reaches beyond its segment is a sentence", () => {
  const read = (bytes: Uint8Array) =>
    readNotes(readElf(open(elfFile({ entry: 0n, segments: [{ type: 4, paddr: 0n, bytes }] }))));
  expect(() => read(words(0xffffffff, 0, 1))).toThrow(
    "kernel: notes (program header 0): n_namesz: 0xc lies beyond the end of the notes (12 bytes)",
  );
  expect(() => read(words(4, 100, 1, 0x554e47))).toThrow(
    "kernel: notes (program header 0): n_descsz: 0x10 lies beyond the end of the notes (16 bytes)",
  );
});

test("section headers are checked", () => {
  const kernel = openBsdKernel();
  const read = (bytes: Uint8Array) => readSections(readElf(open(bytes)));
  const table = new DataView(kernel.buffer).getUint32(40, true);
  expect(read(simple()).sections).toEqual([]);
  expect(() => read(patch(kernel, 62, 7))).toThrow("e_shstrndx: 7, but there are 7 sections");
  expect(() => read(patch(kernel, 58, 63))).toThrow("e_shentsize: 63 instead of 64");
  expect(() => read(patch(kernel, 60, 200))).toThrow("e_shnum: ");
  expect(() => read(patch(kernel, 40, 0, 0, 0, 1))).toThrow("e_shoff: 0x1000000 lies beyond");
  expect(() => read(patch(kernel, table + 64, 0, 0, 1))).toThrow(
    "section 1: sh_name: 0x10000 lies",
  );
  expect(() => read(patch(kernel, table + 6 * 64 + 32, 0, 0, 1))).toThrow("section 6: sh_size: ");
  expect(ELF_DATA).toBeGreaterThan(64);
});
