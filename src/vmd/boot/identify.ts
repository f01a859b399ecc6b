/** Whose kernel an ELF file is: by its notes and headers, else by its version string. */

import type { Bytes } from "./bytes.ts";
import { type Elf, ELFOSABI_FREEBSD, type Note, PT_OPENBSD_RANDOMIZE } from "./elf.ts";

export type System = "linux" | "openbsd" | "netbsd" | "freebsd";

/** XEN_ELFNOTE_GUEST_OS; Xen's public/elfnote.h. */
const XEN_GUEST_OS = 6;
/** Version strings follow the system's name closely, and a kernel names others rarely. */
const OCCURRENCES_MAX = 1000;

/** The system that notes or headers name. */
export function identifyByNotes(elf: Elf, notes: readonly Note[]): System | undefined {
  if (elf.segments.some((segment) => segment.type === PT_OPENBSD_RANDOMIZE)) return "openbsd";
  if (elf.osabi === ELFOSABI_FREEBSD) return "freebsd";
  for (const { owner, type, desc } of notes) {
    const name =
      owner === "Xen" && type === XEN_GUEST_OS
        ? new TextDecoder().decode(desc.subarray(0, 16)).replace(/\0.*/s, "")
        : owner;
    const system = SYSTEMS[name.toLowerCase()];
    if (system !== undefined) return system;
  }
  return undefined;
}

const SYSTEMS: Record<string, System | undefined> = {
  linux: "linux",
  openbsd: "openbsd",
  netbsd: "netbsd",
  freebsd: "freebsd",
};

/** The system that a version string in the file names. */
export function identifyByVersion(file: Bytes): System | undefined {
  if (kernelVersion(file, "Linux version") !== undefined) return "linux";
  if (kernelVersion(file, "OpenBSD") !== undefined) return "openbsd";
  if (kernelVersion(file, "NetBSD") !== undefined) return "netbsd";
  if (kernelVersion(file, "FreeBSD") !== undefined) return "freebsd";
  return undefined;
}

/** "OpenBSD 5.1": `name`, a space and what begins with a digit, up to the next space. */
export function kernelVersion(file: Bytes, name: string): string | undefined {
  const { data } = file;
  const buffer = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const needle = Buffer.from(`${name} `);
  let at = buffer.indexOf(needle);
  for (let i = 0; at >= 0 && i < OCCURRENCES_MAX; i++) {
    const version = file.text(at + needle.length, 64, "version").split(/[ ?]/)[0];
    if (/^\d/.test(version)) return `${name} ${version}`;
    at = buffer.indexOf(needle, at + needle.length);
  }
  return undefined;
}
