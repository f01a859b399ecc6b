import { concat, counting, elfFile, note, vmlinux, words } from "../../src/vmd/boot/testing.ts";
import { bootTarget } from "./boot.ts";

const pvh = elfFile({
  bits: 32,
  entry: 0n,
  segments: [
    { paddr: 0x100000n, bytes: counting(64), memsz: 0x1000 },
    {
      type: 4,
      paddr: 0n,
      bytes: concat(note("GNU", 3, counting(20)), note("Xen", 18, words(0x100000))),
    },
  ],
});

export const target = bootTarget(
  "boot-pvh",
  "PVH kernels: notes and their alignment, start info",
  ["pvh"],
  [vmlinux(64), pvh],
);
