// Guests: real kernels and firmware, where each comes from and how it boots.
//
// Files lie in the cache, .cache/guests (VMD_CACHE names another place than .cache):
//
//   busybox/busybox            static, amd64
//   linux-amd64/vmlinuz        Debian's cloud kernel, a bzImage
//   linux-amd64/modules/*.ko   of it: kvm, virtio …
//   linux-amd64/vmlinux        made of vmlinuz, by the guests that boot it
//   linux-generic/             Debian's other amd64 kernel, which has 9p, and its modules
//   linux-i386/vmlinuz         Debian's 686 kernel, from the installer
//   linux-i386/installer.gz    the installer's initramfs, where an i386 busybox is taken from
//   memtest/x64.bin, ia32.bin  memtest86+
//   openbsd-i386/bsd           OpenBSD 5.1's kernel, made of the floppy image
//   seabios/*.bin              bios, bios-256k, bios-microvm, vgabios-stdvga
//   xen/xen.gz                 the Xen hypervisor
//   initrd/NAME-HASH.cpio      initramfs archives made here
//
// `npm test` fetches all of it, `node setup/guests.mjs` does so alone. packages.json
// says which Debian package holds what; set-up reads it too, before there is a Bun.

import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { BootFormat } from "../../src/vmd/boot/index.ts";

/** The project's folder. */
export const root = resolve(import.meta.dir, "../..");

/** Where everything lies that is fetched or made, besides node_modules and native/build. */
export const cache = resolve(process.env.VMD_CACHE || join(root, ".cache"));

export interface Guest {
  name: string;
  description: string;
  arch: "amd64" | "i386";
  format: BootFormat;
  /** The file to boot: a path in the cache. Made there if it is derived from another. */
  kernel(): Promise<string>;
  /** A path too. */
  initrd?(): Promise<string>;
  cmdline: string;
  /** As vctl's -m takes it. */
  memory: string;
  /** What it says on its console once it has come up. */
  says: string;
  /** Where it says it: the first serial port, or SeaBIOS's debug port 0x402. */
  console: "com1" | "debug";
  /** Why it can't be booted here, as a sentence; undefined if it can. */
  missing(): string | undefined;
}

/** A guest's file in the cache, there or not. */
export const guestFile = (source: string, file: string) => join(cache, "guests", source, file);

/**
 * The package that a source's files come from, with its version: "NAME_VERSION_ARCH".
 * Debian replaces kernels by newer ones of the same series, so logs differ a little by it.
 */
export function packageOf(source: string): string | undefined {
  const stamp = guestFile(source, "package");
  return existsSync(stamp) ? readFileSync(stamp, "utf8").split("\n")[0] : undefined;
}

/** The usual `missing`: which of the files are not in the cache. */
export function missingFiles(...files: string[]): string | undefined {
  const absent = files.filter((file) => !existsSync(file));
  if (absent.length === 0) return undefined;
  return `${absent.join(", ")} is missing: run \`node setup/guests.mjs\`.`;
}

/** Makes a file in the cache unless it is there; whole or not at all, whoever else makes it too. */
export async function derive(
  path: string,
  make: () => Uint8Array | Promise<Uint8Array>,
): Promise<string> {
  if (existsSync(path)) return path;
  const data = await make();
  mkdirSync(dirname(path), { recursive: true });
  const draft = `${path}.${crypto.randomUUID()}`;
  writeFileSync(draft, data);
  renameSync(draft, path);
  return path;
}
