import { gzipSync } from "node:zlib";
import { bzImage, concat, counting, openBsdKernel } from "../../src/vmd/boot/testing.ts";
import { bootTarget } from "./boot.ts";

const image = new Uint8Array(4096);
image.set([0xe9, 0, 0xf0], 0xff0);
const packed = [openBsdKernel(32), bzImage({ kernel: counting(600), initSize: 0x10000 })].map(
  (file) => new Uint8Array(gzipSync(file)),
);

export const target = bootTarget(
  "boot-firmware",
  "firmware, gzip, and files whose format is found out",
  ["firmware", "auto"],
  [image, counting(15), ...packed, concat(packed[0], packed[1])],
);
