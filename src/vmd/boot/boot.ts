/** What a loader is given and what it gives back. */

import type { CpuState } from "../../vmm/cpu.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import { BootError } from "./bytes.ts";
import type { E820Entry } from "./e820.ts";

/** How a kernel is entered. */
export type BootFormat =
  "firmware" | "linux" | "vmlinux" | "pvh" | "multiboot" | "openbsd" | "netbsd" | "freebsd";

/** A file that a Multiboot kernel gets beside itself. */
export interface BootModule {
  /** File name: the first word of the module's command line, and for sentences. */
  name: string;
  data: Uint8Array;
  /** The rest of its command line. */
  args?: string;
}

export interface BootOptions {
  /** The kernel's file name, for sentences. */
  name: string;
  /** The file's bytes: a firmware image, bzImage or ELF file, or one of them compressed by gzip. */
  kernel: Uint8Array;
  /** Linux (and PVH): the initial RAM disk. */
  initrd?: Uint8Array;
  /** Multiboot: modules, in order. */
  modules?: readonly BootModule[];
  /** The kernel's command line, without its name. */
  cmdline?: string;
  /** Guest RAM, zeroed. */
  memory: GuestMemory;
  /** The machine's memory map. */
  e820: readonly E820Entry[];
  /** Fills with random bytes (at most 64 KiB a call). Default: the host's generator. */
  random?: (into: Uint8Array) => void;
  /** 32: enter in 32-bit mode where the kernel has the choice. Default 64. */
  bits?: 32 | 64;
  /** OpenBSD: the MAC address of the interface booted from, 6 bytes. */
  bootMac?: Uint8Array;
}

/** A kernel in guest memory, ready to run. */
export interface Boot {
  /** The state to enter it in. */
  cpu: CpuState;
  format: BootFormat;
  /** Guest-physical address of the first instruction. */
  entry: number;
  /** Firmware: what to map read-only; base and length are whole pages. */
  rom?: { base: number; bytes: Uint8Array };
  /** For logs: "Linux 6.1.0 (bzImage), 64-bit entry 0x1000200". */
  description: string;
}

const FORMAT_NAMES: Record<BootFormat, string> = {
  firmware: "firmware",
  linux: "a Linux bzImage",
  vmlinux: "a Linux vmlinux",
  pvh: "a PVH kernel",
  multiboot: "a Multiboot kernel",
  openbsd: "an OpenBSD kernel",
  netbsd: "a NetBSD kernel",
  freebsd: "a FreeBSD kernel",
};

const TAKES = {
  initrd: ["linux", "vmlinux", "pvh"],
  modules: ["multiboot"],
  cmdline: ["linux", "vmlinux", "pvh", "multiboot"],
  bootMac: ["openbsd"],
} satisfies Record<string, BootFormat[]>;

const OPTION_NAMES: Record<keyof typeof TAKES, string> = {
  initrd: "initrd",
  modules: "modules",
  cmdline: "command line",
  bootMac: "boot MAC address",
};

/** Throws BootError for an option that the format has no place for. */
export function checkOptions(options: BootOptions, format: BootFormat): void {
  for (const option of Object.keys(TAKES) as (keyof typeof TAKES)[]) {
    const value = options[option];
    if (value === undefined || value.length === 0) continue;
    if (!(TAKES[option] as BootFormat[]).includes(format)) {
      throw new BootError(
        `${options.name} is ${FORMAT_NAMES[format]}: it takes no ${OPTION_NAMES[option]}`,
      );
    }
  }
  if (options.bootMac !== undefined && options.bootMac.length !== 6) {
    throw new BootError(`boot MAC address: ${options.bootMac.length} bytes instead of 6`);
  }
}

/**
 * A command line as NUL-terminated bytes (UTF-8). `limit` is in bytes, without the NUL.
 * Throws BootError when it is too long or holds a NUL.
 */
export function commandLine(name: string, text: string, limit: number): Uint8Array {
  const bytes = new TextEncoder().encode(text + "\0");
  if (bytes.indexOf(0) !== bytes.length - 1) {
    throw new BootError(`${name}: the command line holds a NUL character`);
  }
  if (bytes.length - 1 > limit) {
    throw new BootError(
      `${name}: the command line is ${bytes.length - 1} bytes long; this kernel takes at most ${limit}`,
    );
  }
  return bytes;
}
