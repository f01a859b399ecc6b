// Linux as Debian builds it: 6.1 amd64 in its forms, and 6.1 i386.

import { guestFile, missingFiles } from "./guest.ts";
import type { Guest } from "./guest.ts";
import { initramfsFile, shell } from "./initramfs.ts";
import { vmlinux } from "./vmlinux.ts";

const cmdline = "console=ttyS0";
const vmlinuz = guestFile("linux-amd64", "vmlinuz");

const amd64 = {
  arch: "amd64",
  initrd: () => initramfsFile("shell-amd64", { init: shell }),
  cmdline,
  memory: "256M",
  says: "userspace: Linux x86_64",
  console: "com1",
  missing: () => missingFiles(vmlinuz, guestFile("busybox", "busybox")),
} as const;

export const linuxAmd64: Guest = {
  ...amd64,
  name: "linux-amd64",
  description: "Linux 6.1 amd64 (Debian's cloud kernel), bzImage",
  format: "linux",
  kernel: async () => vmlinuz,
};

export const linuxAmd64Vmlinux: Guest = {
  ...amd64,
  name: "linux-amd64-vmlinux",
  description: "the same kernel as an ELF file, by the 64-bit boot protocol",
  format: "vmlinux",
  kernel: () => vmlinux(vmlinuz),
};

export const linuxAmd64Pvh: Guest = {
  ...amd64,
  name: "linux-amd64-pvh",
  description: "the same ELF file, by its PVH entry",
  format: "pvh",
  kernel: () => vmlinux(vmlinuz),
};

export const linuxI386: Guest = {
  name: "linux-i386",
  description: "Linux 6.1 i386 (Debian's 686 kernel, from the installer), bzImage",
  arch: "i386",
  format: "linux",
  kernel: async () => guestFile("linux-i386", "vmlinuz"),
  initrd: () => initramfsFile("shell-i386", { init: shell, arch: "i386" }),
  cmdline,
  memory: "256M",
  says: "userspace: Linux i686",
  console: "com1",
  missing: () =>
    missingFiles(guestFile("linux-i386", "vmlinuz"), guestFile("linux-i386", "installer.gz")),
};
