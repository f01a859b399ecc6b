/**
 * Linux's vmlinux: the ELF file that a bzImage unpacks to, entered by the 64-bit or the 32-bit
 * boot protocol. Nothing has to be unpacked in the guest, so it starts sooner than a bzImage, and
 * at its link address.
 * Source: Documentation/arch/x86/boot.rst.
 */

import { type Boot, type BootOptions, checkOptions } from "./boot.ts";
import { type Bytes, hex } from "./bytes.ts";
import { physicalEntry, placeSegments, readElf } from "./elf.ts";
import { kernelVersion } from "./identify.ts";
import { Layout, PAGE } from "./low-memory.ts";
import { linuxLongState, linuxProtectedState, placeZeroPage, ZERO_PAGE } from "./zero-page.ts";

/** COMMAND_LINE_SIZE of Linux on x86, without the NUL. */
const COMMAND_LINE_MAX = 2047;
/** initrd_addr_max + 1 of a 64-bit and of a 32-bit bzImage. */
const INITRD_END = { 64: 0x80000000, 32: 0x38000000 } as const;

/** Loads a vmlinux with initrd, command line and zero page. Throws BootError. */
export function loadVmlinux(file: Bytes, options: BootOptions): Boot {
  checkOptions(options, "vmlinux");
  const elf = readElf(file);
  if (elf.bits === 64 && options.bits === 32) {
    throw file.error("a 64-bit vmlinux has no 32-bit entry point for Linux's boot protocol");
  }
  const layout = new Layout(file.name, options.memory, options.e820);
  placeSegments(layout, elf, (segment) => segment.paddr);
  const entry = physicalEntry(elf);
  const limits = { commandLine: COMMAND_LINE_MAX, initrdEnd: INITRD_END[elf.bits] };
  placeZeroPage(layout, options, setupHeader(), limits);
  const cpu = elf.bits === 64 ? linuxLongState(layout, entry) : linuxProtectedState(layout, entry);
  const version = kernelVersion(file, "Linux version")?.replace("version ", "") ?? "Linux";
  return {
    cpu,
    format: "vmlinux",
    entry,
    description: `${version} (vmlinux), ${elf.bits}-bit entry ${hex(entry)}`,
  };
}

/** A zero page with the header fields that Linux looks at even without a bzImage. */
function setupHeader(): Uint8Array {
  const page = new Uint8Array(PAGE);
  const view = new DataView(page.buffer);
  view.setUint16(ZERO_PAGE.bootFlag, 0xaa55, true);
  view.setUint32(ZERO_PAGE.magic, 0x53726448, true);
  view.setUint16(ZERO_PAGE.version, 0x20f, true);
  page[ZERO_PAGE.loadFlags] = 1;
  view.setUint32(ZERO_PAGE.kernelAlignment, 0x1000000, true);
  return page;
}
