import {
  elfFile,
  counting,
  concat,
  note,
  words,
  openBsdKernel,
} from "../../src/vmd/boot/testing.ts";
import { bootTarget } from "./boot.ts";

const freebsd = elfFile({
  osabi: 9,
  entry: 0xffffffff80200010n,
  segments: [{ vaddr: 0xffffffff80200000n, paddr: 0x200000n, bytes: counting(64) }],
});
const netbsd = elfFile({
  entry: 0x200010n,
  segments: [
    { paddr: 0x200000n, bytes: concat(counting(64)) },
    { type: 4, paddr: 0n, bytes: note("NetBSD", 1, words(1)) },
  ],
});

export const target = bootTarget(
  "boot-elf",
  "ELF kernels as vmd loads them: headers, segments, sections, notes",
  ["openbsd", "netbsd", "freebsd"],
  [freebsd, netbsd, openBsdKernel(64)],
);
