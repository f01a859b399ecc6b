import { openBsdKernel } from "../../src/vmd/boot/testing.ts";
import { bootTarget } from "./boot.ts";

export const target = bootTarget(
  "boot-openbsd",
  "OpenBSD kernels: symbols, random data, boot arguments",
  ["openbsd"],
  [openBsdKernel(64), openBsdKernel(32)],
);
