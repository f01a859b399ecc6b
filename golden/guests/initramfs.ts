// Initramfs archives for the Linux guests: busybox, an init script, and what the
// caller adds. Not compressed: copying two megabytes is faster than inflating them.

import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { readCpio, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG, writeCpio } from "./cpio.ts";
import type { CpioEntry } from "./cpio.ts";
import { derive, guestFile } from "./guest.ts";

export interface Initramfs {
  /** The script that is /init, run by /bin/sh as process 1. */
  init: string;
  /** More files, by path without a leading slash; `mode` is 0755 unless given. */
  files?: Record<string, Uint8Array | string | { data: Uint8Array | string; mode?: number }>;
  /** amd64 unless given. */
  arch?: "amd64" | "i386";
}

/** Applets that both busyboxes have and scripts name. */
const applets =
  "[ ash awk basename cat chmod chroot cp cut date dd df dirname dmesg echo env expr false find free " +
  "grep gunzip halt head hostname id init insmod ip kill ln ls lsmod md5sum mkdir mknod mktemp mount " +
  "mv nc pidof ping poweroff printf ps pwd readlink reboot rm rmdir rmmod route sed seq sh sha256sum " +
  "sleep sort stty sync tail tar test touch tr true tty umount uname uniq wc wget";

/** Sets up what a program expects of a Linux system. For the head of an init script. */
export const prepare = `#!/bin/sh
export PATH=/bin HOME=/ TERM=\${TERM:-vt100}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
`;

/** Ends as a guest that prints one line and gives a shell on the console. */
export const shell = `${prepare}
echo "userspace: $(uname -s) $(uname -m)"
sh
poweroff -f
`;

/** An initramfs archive. */
export async function initramfs({ init, files = {}, arch = "amd64" }: Initramfs) {
  const own = Object.entries(files).map(([path, file]): CpioEntry => {
    const { data, mode = 0o755 } =
      typeof file === "string" || file instanceof Uint8Array ? { data: file } : file;
    return { path, mode: S_IFREG | mode, data: bytes(data) };
  });
  return writeCpio([
    ...["dev", "proc", "sys", "tmp", "mnt", "root"].map((path) => ({
      path,
      mode: S_IFDIR | 0o755,
    })),
    { path: "dev/console", mode: S_IFCHR | 0o600, device: [5, 1] },
    { path: "dev/null", mode: S_IFCHR | 0o666, device: [1, 3] },
    ...(arch === "amd64" ? busyboxAmd64() : await busyboxI386()),
    ...applets.split(" ").map((name) => link(`bin/${name}`, "busybox")),
    { path: "init", mode: S_IFREG | 0o755, data: bytes(init) },
    ...own,
  ]);
}

/** The same as a file in the cache, named after its content; gives its path. */
export async function initramfsFile(name: string, what: Initramfs): Promise<string> {
  const archive = await initramfs(what);
  const hash = new Bun.CryptoHasher("sha256").update(archive).digest("hex").slice(0, 12);
  return derive(guestFile("initrd", `${name}-${hash}.cpio`), () => archive);
}

const bytes = (data: Uint8Array | string) =>
  typeof data === "string" ? new TextEncoder().encode(data) : data;

const link = (path: string, to: string): CpioEntry => ({
  path,
  mode: S_IFLNK | 0o777,
  data: bytes(to),
});

function busyboxAmd64(): CpioEntry[] {
  const data = readFileSync(guestFile("busybox", "busybox"));
  return [{ path: "bin/busybox", mode: S_IFREG | 0o755, data }];
}

/**
 * An amd64 host's archive has no static busybox for i386. Debian's installer has a
 * dynamic one: it, the C library and the loader are all that is taken of it.
 */
async function busyboxI386(): Promise<CpioEntry[]> {
  const wanted = ["bin/busybox", "lib/ld-linux.so.2", "lib/i386-linux-gnu/ld-linux.so.2"];
  wanted.push("lib/i386-linux-gnu/libc.so.6");
  const path = await derive(guestFile("linux-i386", "busybox.cpio"), () => {
    const installer = gunzipSync(readFileSync(guestFile("linux-i386", "installer.gz")));
    const found = [...readCpio(installer)].filter((entry) => wanted.includes(entry.path));
    if (found.length !== wanted.length)
      throw new Error(`the i386 installer's initramfs lacks one of ${wanted.join(", ")}`);
    return writeCpio(found);
  });
  return [...readCpio(readFileSync(path))].filter(({ path: name }) => wanted.includes(name));
}
