import { concat, counting, multibootHeader, multibootKernel } from "../../src/vmd/boot/testing.ts";
import { bootTarget } from "./boot.ts";

const addressed = concat(
  multibootHeader(0x10003, 0x8000, 0x8000, 0x8100, 0x9000, 0x8020),
  counting(0x200),
);

export const target = bootTarget(
  "boot-multiboot",
  "Multiboot kernels: headers with addresses or none, modules",
  ["multiboot"],
  [multibootKernel(), addressed],
);
