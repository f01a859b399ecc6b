// The ELF file inside a bzImage, kept beside it in the cache.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { extractVmlinux } from "../../src/vmd/boot/index.ts";
import { derive } from "./guest.ts";

/** Path of the vmlinux in a bzImage, extracted when it is asked for first. */
export const vmlinux = (bzImage: string) =>
  derive(join(dirname(bzImage), "vmlinux"), () => extractVmlinux(readFileSync(bzImage), bzImage));
