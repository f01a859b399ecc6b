// The guests, each in a file of its own; guest.ts says how a guest is described and
// where its files lie. How they are booted and what their logs must say is not here.

export type { Guest } from "./guest.ts";
export { derive, guestFile, packageOf } from "./guest.ts";
export { initramfs, initramfsFile, prepare, shell } from "./initramfs.ts";
export { linuxAmd64, linuxAmd64Pvh, linuxAmd64Vmlinux, linuxI386 } from "./linux.ts";
export { memtestAmd64, memtestI386 } from "./memtest.ts";
export { moduleFiles } from "./modules.ts";
export { openbsdI386 } from "./openbsd.ts";
export { seabios } from "./seabios.ts";
export { xen } from "./xen.ts";
