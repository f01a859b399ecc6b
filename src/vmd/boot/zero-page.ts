/**
 * Linux's zero page (struct boot_params) and the two states in which Linux is entered with it.
 * Source: Documentation/arch/x86/boot.rst ("32-bit boot protocol", "64-bit boot protocol") and
 * zero-page.rst.
 */

import type { CpuState } from "../../vmm/cpu.ts";
import { flat } from "../../vmm/cpu.ts";
import { type BootOptions, commandLine } from "./boot.ts";
import { BootError } from "./bytes.ts";
import { packE820 } from "./e820.ts";
import {
  COMMAND_LINE_ROOM,
  type Layout,
  longState,
  LOW,
  PAGE,
  placeGdt,
  placeIdentityMap,
  protectedState,
} from "./low-memory.ts";

/** Offsets in the zero page; from 0x1f1 on they are also offsets in a bzImage. */
export const ZERO_PAGE = {
  e820Entries: 0x1e8,
  setupHeader: 0x1f1,
  bootFlag: 0x1fe,
  magic: 0x202,
  version: 0x206,
  typeOfLoader: 0x210,
  loadFlags: 0x211,
  code32Start: 0x214,
  ramdiskImage: 0x218,
  ramdiskSize: 0x21c,
  commandLine: 0x228,
  kernelAlignment: 0x230,
  e820Table: 0x2d0,
} as const;

/** The E820 table in the zero page. */
const E820_MAX = 128;
/** A loader without an assigned number. */
const LOADER_UNDEFINED = 0xff;
// What Linux's own code32/code64 and data segments are called: __BOOT_CS and __BOOT_DS.
const BOOT_CS = 0x10;
const BOOT_DS = 0x18;

/** What a Linux kernel says about itself, or what is assumed for one without a setup header. */
export interface LinuxLimits {
  /** Longest command line in bytes, without the NUL. */
  commandLine: number;
  /** First address that an initrd may not reach. */
  initrdEnd: number;
}

/**
 * Places initrd and command line, fills and places the zero page. `header` is the zero page with
 * the setup header copied in (4 KiB); its loader fields are set here.
 */
export function placeZeroPage(
  layout: Layout,
  options: BootOptions,
  header: Uint8Array,
  limits: LinuxLimits,
): void {
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  const line = commandLine(
    options.name,
    options.cmdline ?? "",
    Math.min(limits.commandLine, COMMAND_LINE_ROOM - 1),
  );
  layout.place("the command line", LOW.commandLine, line);
  header[ZERO_PAGE.typeOfLoader] = LOADER_UNDEFINED;
  view.setUint32(ZERO_PAGE.commandLine, LOW.commandLine, true);
  view.setUint32(ZERO_PAGE.ramdiskImage, 0, true);
  view.setUint32(ZERO_PAGE.ramdiskSize, 0, true);
  if (options.initrd !== undefined && options.initrd.length > 0) {
    const at = placeInitrd(layout, options.initrd, limits.initrdEnd);
    view.setUint32(ZERO_PAGE.ramdiskImage, at, true);
    view.setUint32(ZERO_PAGE.ramdiskSize, options.initrd.length, true);
  }
  if (options.e820.length > E820_MAX) {
    throw new BootError(`the memory map has ${options.e820.length} entries; Linux takes 128`);
  }
  header[ZERO_PAGE.e820Entries] = options.e820.length;
  header.set(packE820(options.e820), ZERO_PAGE.e820Table);
  layout.place("the zero page", LOW.zeroPage, header, PAGE);
}

/** Places an initrd as high as `limit` and RAM allow, page-aligned. Returns its address. */
export function placeInitrd(layout: Layout, initrd: Uint8Array, limit: number): number {
  const at = layout.reserveHigh(`the initrd`, initrd.length, Math.min(limit, 2 ** 32));
  layout.memory.write(at, initrd);
  return at;
}

/** The entry state of the 64-bit protocol: long mode, the first 4 GiB mapped, RSI = zero page. */
export function linuxLongState(layout: Layout, entry: number): CpuState {
  const gdt = placeGdt(layout, LOW.gdt, [flat(BOOT_CS, "code64"), flat(BOOT_DS, "data")]);
  const cr3 = placeIdentityMap(layout, LOW.pageTables, 4);
  layout.place("the stack", LOW.stack, new Uint8Array(0), PAGE);
  return {
    ...longState(BOOT_CS, "code64", BOOT_DS, gdt, cr3),
    rip: entry,
    rsi: LOW.zeroPage,
    rsp: LOW.stack + PAGE,
  };
}

/** The entry state of the 32-bit protocol: no paging, ESI = zero page, EBP = EDI = EBX = 0. */
export function linuxProtectedState(layout: Layout, entry: number): CpuState {
  const gdt = placeGdt(layout, LOW.gdt, [flat(BOOT_CS, "code32"), flat(BOOT_DS, "data")]);
  layout.place("the stack", LOW.stack, new Uint8Array(0), PAGE);
  return {
    ...protectedState(BOOT_CS, BOOT_DS, gdt),
    rip: entry,
    rsi: LOW.zeroPage,
    rsp: LOW.stack + PAGE,
  };
}
