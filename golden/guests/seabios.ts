// SeaBIOS: starts at the reset vector in real mode, talks on port 0x402.

import { guestFile, missingFiles } from "./guest.ts";
import type { Guest } from "./guest.ts";

const file = guestFile("seabios", "bios.bin");

export const seabios: Guest = {
  name: "seabios",
  description: "SeaBIOS 1.16, firmware",
  arch: "i386",
  format: "firmware",
  kernel: async () => file,
  cmdline: "",
  memory: "64M",
  says: "SeaBIOS (version",
  console: "debug",
  missing: () => missingFiles(file),
};
