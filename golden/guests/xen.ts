// Xen 4.17: a multiboot kernel that goes far into a machine before it asks for dom0.

import { guestFile, missingFiles } from "./guest.ts";
import type { Guest } from "./guest.ts";

const file = guestFile("xen", "xen.gz");

export const xen: Guest = {
  name: "xen",
  description: "Xen 4.17 amd64, multiboot, without a dom0: ends in a panic",
  arch: "amd64",
  format: "multiboot",
  kernel: async () => file,
  cmdline: "console=com1 com1=115200,8n1 noreboot",
  memory: "256M",
  says: "Panic on CPU 0",
  console: "com1",
  missing: () => missingFiles(file),
};
