import { vmlinux } from "../../src/vmd/boot/testing.ts";
import { bootTarget } from "./boot.ts";

export const target = bootTarget(
  "boot-vmlinux",
  "Linux's ELF files, entered without a decompressor",
  ["vmlinux"],
  [vmlinux(64), vmlinux(32)],
);
