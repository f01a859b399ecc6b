// memtest86+: small, 32 and 64 bit, exercises paging, timers and all of memory.

import { guestFile, missingFiles } from "./guest.ts";
import type { Guest } from "./guest.ts";

const memtest = (arch: Guest["arch"], file: string): Guest => ({
  name: `memtest-${arch}`,
  description: `memtest86+ 6.10 ${arch}, a bzImage`,
  arch,
  format: "linux",
  kernel: async () => guestFile("memtest", file),
  cmdline: "console=ttyS0,115200",
  memory: "64M",
  says: "Status: Testing",
  console: "com1",
  missing: () => missingFiles(guestFile("memtest", file)),
});

export const memtestAmd64 = memtest("amd64", "x64.bin");
export const memtestI386 = memtest("i386", "ia32.bin");
