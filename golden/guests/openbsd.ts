// OpenBSD/i386 5.1: the kernel of its installation floppy, which has a root file
// system inside. There is nothing to download it from, so it is booted only where
// the floppy's image is: ../shared/guests/openbsd-5.1-i386-floppy.img beside the
// project, or where VMD_OPENBSD_FLOPPY says.

import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { derive, guestFile, root } from "./guest.ts";
import type { Guest } from "./guest.ts";
import { Ufs1 } from "./ufs1.ts";

const floppy =
  process.env.VMD_OPENBSD_FLOPPY || resolve(root, "../shared/guests/openbsd-5.1-i386-floppy.img");
const bsd = guestFile("openbsd-i386", "bsd");

export const openbsdI386: Guest = {
  name: "openbsd-i386",
  description: "OpenBSD 5.1 i386, the kernel of the installation floppy, a gzipped ELF file",
  arch: "i386",
  format: "openbsd",
  kernel: () => derive(bsd, () => new Ufs1(readFileSync(floppy)).read("/bsd")),
  cmdline: "",
  memory: "64M",
  says: "(I)nstall, (U)pgrade or (S)hell?",
  console: "com1",
  missing: () =>
    existsSync(bsd) || existsSync(floppy)
      ? undefined
      : "there is no image of OpenBSD 5.1's floppy: VMD_OPENBSD_FLOPPY says where it is.",
};
