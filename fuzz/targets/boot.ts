/** What the boot loaders' targets have in common. */
import { GENERAL_REGISTERS } from "../../src/vmm/cpu.ts";
import { GuestMemory } from "../../src/vmm/memory.ts";
import {
  type Boot,
  BootError,
  type BootFormat,
  classicMemoryMap,
  loadKernel,
  romRange,
} from "../../src/vmd/boot/index.ts";
import { forget } from "../own/counters.ts";
import { must, type Target } from "../own/target.ts";

const SIZE = 32 * 2 ** 20;
const PAGE = 4096;
const TAKES_INITRD: readonly string[] = ["linux", "vmlinux", "pvh"];

const e820 = classicMemoryMap(SIZE);
const memory = GuestMemory.standalone(SIZE);
const dirty = new Uint8Array(SIZE / PAGE);
memory.observeWrites((address, length) => {
  dirty.fill(1, Math.floor(address / PAGE), Math.ceil((address + length) / PAGE));
});

/** Memory as after power-on. */
function clear(): void {
  for (let page = dirty.indexOf(1); page >= 0; page = dirty.indexOf(1, page)) {
    let end = page;
    while (dirty[end] === 1) end++;
    for (const bytes of memory.bytes(page * PAGE, (end - page) * PAGE)) bytes.fill(0);
    dirty.fill(0, page, end);
    page = end;
  }
}

/** What must hold for every file that is accepted. */
function checkBoot(boot: Boot): void {
  const { cpu, rom, entry } = boot;
  for (const name of [...GENERAL_REGISTERS, "cr0", "cr3", "cr4", "efer"] as const) {
    must(Number.isSafeInteger(cpu[name]) && cpu[name] >= 0, `${name} is ${cpu[name]}`);
  }
  if (rom !== undefined) {
    must(
      rom.base + rom.bytes.length === 2 ** 32,
      `firmware ends at ${rom.base + rom.bytes.length}`,
    );
    must(rom.bytes.length % PAGE === 0, `a ROM of ${rom.bytes.length} bytes`);
    return;
  }
  must(memory.contains(entry, 1), `the entry, 0x${entry.toString(16)}, is no RAM`);
  must(cpu.rip === entry, "it doesn't begin at its entry");
  must(memory.contains(cpu.gdt.base, cpu.gdt.limit + 1), "the GDT is no RAM");
  must(cpu.cs.selector + 7 <= cpu.gdt.limit, "CS is behind the GDT's end");
  // CS is what its descriptor in the GDT says: nothing of the kernel lies over it.
  const high = memory.read32(cpu.gdt.base + cpu.cs.selector + 4);
  must(((high >>> 21) & 1) === cpu.cs.l && ((high >>> 22) & 1) === cpu.cs.db, "CS has another GDT");
}

/** Loads a file, which must go well or be refused by a sentence that no other error is behind. */
export function load(kernel: Uint8Array, format: BootFormat | "auto"): void {
  clear();
  forget();
  const rom = romRange(kernel, format);
  let boot: Boot;
  try {
    boot = loadKernel({
      name: "file",
      kernel,
      memory,
      e820,
      format,
      random: (into) => void into.fill(1),
      initrd: TAKES_INITRD.includes(format) ? new Uint8Array(100).fill(9) : undefined,
      modules: format === "multiboot" ? [{ name: "m", data: new Uint8Array(100) }] : undefined,
    });
  } catch (error) {
    if (!(error instanceof BootError)) throw error;
    if (error.cause !== undefined) throw error.cause;
    must(error.message.length < 400, `a message of ${error.message.length} characters`);
    return;
  }
  checkBoot(boot);
  must(boot.rom?.bytes.length === rom?.size, "it needs another ROM than its machine has");
}

export function bootTarget(
  name: string,
  about: string,
  formats: readonly (BootFormat | "auto")[],
  files: readonly Uint8Array[],
): Target {
  return {
    name,
    about,
    maxInput: 8192,
    dictionary: [0x1badb002, 0x464c457f, 0x65a3dbe6, 0x53726448].map(
      (word) => new Uint8Array(Uint32Array.of(word).buffer),
    ),
    // The last byte says as what it is loaded: so the others lie where they lie in the file.
    *seeds() {
      for (const file of files) {
        for (const index of formats.keys()) yield Uint8Array.from([...file, index]);
      }
    },
    run(input) {
      const end = Math.max(0, input.length - 1);
      load(input.subarray(0, end), formats[(input[end] ?? 0) % formats.length]);
    },
  };
}
