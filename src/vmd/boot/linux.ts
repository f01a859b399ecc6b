/**
 * Linux bzImage: a setup header, then the protected-mode kernel that unpacks itself.
 * It is entered in 64-bit mode at +0x200 where the kernel has that entry point, otherwise in
 * 32-bit mode at its start; the real-mode part is never run.
 * Source: Documentation/arch/x86/boot.rst.
 */

import { type Boot, type BootOptions, checkOptions } from "./boot.ts";
import { alignUp, type Bytes, hex, size as text } from "./bytes.ts";
import { Layout, PAGE } from "./low-memory.ts";
import { linuxLongState, linuxProtectedState, placeZeroPage, ZERO_PAGE } from "./zero-page.ts";

/** "HdrS", little-endian. */
const MAGIC = 0x53726448;
const BOOT_FLAG = 0xaa55;
/** The first version with cmdline_size; Linux 2.6.22. */
const OLDEST = 0x206;
/** The setup header may reach up to the next field of the zero page. */
const HEADER_END_MAX = 0x290;
const SECTOR = 512;
const LOADED_HIGH = 1;
const KEEP_SEGMENTS = 0x40;
const CAN_USE_HEAP = 0x80;
const XLF_KERNEL_64 = 1;
const ENTRY_64 = 0x200;
/** Where a kernel without pref_address (before 2.10) is loaded. */
const OLD_LOAD_ADDRESS = 0x100000;
/** Alignment is a power of two, and no kernel asks for more than this (1 GiB). */
const ALIGNMENT_MAX = 2 ** 30;

/** The setup header, checked. Addresses are guest-physical, sizes in bytes. */
export interface SetupHeader {
  /** 0x20f for 2.15. */
  version: number;
  /** The zero page up to the header's end, everything before the header 0. */
  zeroPage: Uint8Array;
  /** File offset and size of the protected-mode kernel. */
  kernelOffset: number;
  kernelSize: number;
  /** Where it is loaded, and how much room it needs there. */
  loadAddress: number;
  initSize: number;
  has64: boolean;
  commandLine: number;
  /** The initrd's end may not lie above this. */
  initrdEnd: number;
  /** File offset and size of the compressed vmlinux; 0 if unknown. */
  payloadOffset: number;
  payloadSize: number;
  /** "Linux 6.1.0-13-amd64", or what the file calls itself. */
  release: string;
}

/** Whether a file has the magic number of a bzImage. */
export function isBzImage(file: Bytes): boolean {
  return file.size >= ZERO_PAGE.magic + 4 && file.u32(ZERO_PAGE.magic, "header") === MAGIC;
}

/** Reads and checks a bzImage's setup header. */
export function readSetupHeader(file: Bytes): SetupHeader {
  if (!isBzImage(file)) throw file.error("not a Linux bzImage: no HdrS at 0x202");
  const flag = file.u16(ZERO_PAGE.bootFlag, "boot_flag");
  if (flag !== BOOT_FLAG) throw file.error(`boot_flag: ${hex(flag)} instead of 0xaa55`);
  const version = file.u16(ZERO_PAGE.version, "version");
  if (version < OLDEST) {
    throw file.error(
      `boot protocol ${version >> 8}.${version & 0xff} is too old: 2.06 is needed (Linux 2.6.22)`,
    );
  }
  if ((file.u8(ZERO_PAGE.loadFlags, "loadflags") & LOADED_HIGH) === 0) {
    throw file.error("loadflags: a zImage, which loads below 1 MiB; only a bzImage is supported");
  }
  return {
    version,
    zeroPage: copyHeader(file),
    ...readPlacement(file, version),
    ...readPayload(file, version),
    release: readRelease(file),
  };
}

function copyHeader(file: Bytes): Uint8Array {
  const end = ZERO_PAGE.magic + file.u8(0x201, "jump");
  if (end < 0x23c || end > HEADER_END_MAX) {
    throw file.error(`jump: the setup header ends at ${hex(end)}, not between 0x23c and 0x290`);
  }
  const start = ZERO_PAGE.setupHeader;
  const page = new Uint8Array(PAGE);
  page.set(file.slice(start, end - start, "setup header"), start);
  return page;
}

function readPlacement(file: Bytes, version: number) {
  const sectors = file.u8(ZERO_PAGE.setupHeader, "setup_sects") || 4;
  const kernelOffset = (sectors + 1) * SECTOR;
  if (kernelOffset >= file.size) {
    throw file.error(
      `setup_sects: the kernel would start at ${hex(kernelOffset)}, ` +
        `beyond the end of the file (${text(file.size)})`,
    );
  }
  const rest = file.size - kernelOffset;
  const paragraphs = file.u32(0x1f4, "syssize") * 16;
  // syssize counts the last paragraph whole, even if the file ends within it.
  if (paragraphs - 15 > rest) {
    throw file.error(
      `syssize: the kernel has ${text(paragraphs)}, but the file holds ${text(rest)}: it is cut off`,
    );
  }
  const kernelSize = paragraphs === 0 ? rest : Math.min(paragraphs, rest);
  const initSize = version >= 0x20a ? file.u32(0x260, "init_size") : 0;
  return {
    kernelOffset,
    kernelSize,
    loadAddress: readLoadAddress(file, version),
    initSize: Math.max(initSize, kernelSize),
    has64: version >= 0x20c && (file.u16(0x236, "xloadflags") & XLF_KERNEL_64) !== 0,
    commandLine: file.u32(0x238, "cmdline_size"),
    initrdEnd: file.u32(0x22c, "initrd_addr_max") + 1,
  };
}

function readLoadAddress(file: Bytes, version: number): number {
  // A relocatable kernel unpacks itself to pref_address anyway if it is loaded below, so that is
  // always the best place.
  const preferred = version >= 0x20a ? file.u53(0x258, "pref_address") : OLD_LOAD_ADDRESS;
  if (file.u8(0x234, "relocatable_kernel") === 0) return preferred;
  const alignment = file.u32(ZERO_PAGE.kernelAlignment, "kernel_alignment");
  if (alignment === 0 || alignment > ALIGNMENT_MAX || Math.log2(alignment) % 1 !== 0) {
    throw file.error(`kernel_alignment: ${hex(alignment)} is not a power of two up to 1 GiB`);
  }
  return alignUp(preferred, alignment);
}

function readPayload(file: Bytes, version: number) {
  if (version < 0x208) return { payloadOffset: 0, payloadSize: 0 };
  const sectors = file.u8(ZERO_PAGE.setupHeader, "setup_sects") || 4;
  const payloadSize = file.u32(0x24c, "payload_length");
  const payloadOffset = (sectors + 1) * SECTOR + file.u32(0x248, "payload_offset");
  return { payloadOffset, payloadSize };
}

function readRelease(file: Bytes): string {
  const offset = file.u16(0x20e, "kernel_version");
  if (offset === 0 || offset + 0x200 >= file.size) return "Linux";
  const text = file.text(offset + 0x200, 256, "kernel_version").split(" ")[0];
  // Other programs come as a bzImage too, and give their own name.
  return /^\d/.test(text) ? `Linux ${text}` : text;
}

/**
 * Loads a bzImage with initrd, command line and zero page. `bits: 32` takes the 32-bit entry of a
 * 64-bit kernel. Throws BootError.
 */
export function loadLinux(file: Bytes, options: BootOptions): Boot {
  checkOptions(options, "linux");
  const header = readSetupHeader(file);
  const { loadAddress, kernelSize, initSize } = header;
  const layout = new Layout(file.name, options.memory, options.e820);
  // init_size is room that the kernel uses before it looks at the memory map: nothing else may
  // lie there, but it needs no zeroes.
  layout.reserve("the kernel", loadAddress, initSize);
  options.memory.write(loadAddress, file.slice(header.kernelOffset, kernelSize, "kernel"));

  const page = header.zeroPage;
  page[ZERO_PAGE.loadFlags] &= ~(CAN_USE_HEAP | KEEP_SEGMENTS);
  new DataView(page.buffer).setUint32(ZERO_PAGE.code32Start, loadAddress, true);
  placeZeroPage(layout, options, page, header);

  const long = header.has64 && options.bits !== 32;
  const entry = long ? loadAddress + ENTRY_64 : loadAddress;
  const cpu = long ? linuxLongState(layout, entry) : linuxProtectedState(layout, entry);
  return {
    cpu,
    format: "linux",
    entry,
    description: `${header.release} (bzImage), ${long ? 64 : 32}-bit entry ${hex(entry)}`,
  };
}
