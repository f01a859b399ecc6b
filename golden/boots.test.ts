/**
 * Golden boots: real kernels on the software engine reach the same log, line by line, after the
 * rules of normalise.ts. `bun test -u golden` renews the logs.
 */
import { test } from "bun:test";
import { boot, type Dialogue, packageVersion } from "./boot.ts";
import { compareLog } from "./compare.ts";
import {
  type Guest,
  linuxAmd64,
  linuxAmd64Pvh,
  linuxAmd64Vmlinux,
  linuxI386,
  memtestAmd64,
  memtestI386,
  openbsdI386,
  seabios,
  xen,
} from "./guests/index.ts";
import { normalise } from "./normalise.ts";

const shell: Dialogue[] = [{ type: "echo $((6*7))\n", answer: /^42\r?$/m }];
const openbsdShell: Dialogue[] = [
  { type: "S\n", answer: /# / },
  { type: "echo $((6*7))\n", answer: /^42\r?$/m },
];

const boots: [Guest, Dialogue[]][] = [
  [linuxAmd64, shell],
  [linuxAmd64Vmlinux, shell],
  [linuxAmd64Pvh, shell],
  [linuxI386, shell],
  [openbsdI386, openbsdShell],
  [seabios, []],
  [memtestAmd64, []],
  [memtestI386, []],
  [xen, []],
];

// Memtest leaves translated code by longjmp all the time, and AddressSanitizer clears its marks of
// the whole stack at each: minutes, in which nothing else is seen than in the other boots.
const slow = process.env.ASAN_OPTIONS === undefined ? [] : [memtestAmd64, memtestI386];

for (const [guest, dialogue] of boots) {
  const missing = slow.includes(guest) ? "with AddressSanitizer it takes minutes" : guest.missing();
  if (missing !== undefined) console.log(`golden boot of ${guest.name} skipped: ${missing}`);
  test.skipIf(missing !== undefined)(
    `${guest.name}: ${guest.description}`,
    async () => {
      const log = await boot(guest, { engine: "unicorn", dialogue, timeout: 90_000 });
      compareLog(import.meta.path, guest.name, packageVersion(guest), normalise(log));
    },
    100_000,
  );
}
