/**
 * Boots guests on this host's KVM and prints one JSON object with their logs: what lab-boots.test.ts
 * runs in the lab, where there is a true KVM. Arguments: names of guests.
 */
import { boot, type Dialogue } from "./boot.ts";
import { type Guest, linuxAmd64Vmlinux, linuxI386, openbsdI386 } from "./guests/index.ts";

// The lab's emulated SVM doesn't intercept XSETBV, so KVM doesn't learn of the guest's, and Linux
// would warn of its own CPUID.
const quiet = (guest: Guest): Guest => ({ ...guest, cmdline: `${guest.cmdline} noxsave` });

export const labGuests: Record<string, [Guest, Dialogue[]]> = {
  "linux-amd64": [quiet(linuxAmd64Vmlinux), [{ type: "echo $((6*7))\n", answer: /^42\r?$/m }]],
  "linux-i386": [quiet(linuxI386), [{ type: "echo $((6*7))\n", answer: /^42\r?$/m }]],
  "openbsd-i386": [
    openbsdI386,
    [
      { type: "S\n", answer: /# / },
      { type: "echo $((6*7))\n", answer: /^42\r?$/m },
    ],
  ],
};

if (import.meta.main) {
  const results: Record<string, { log: string; seconds: number } | { error: string }> = {};
  for (const name of process.argv.slice(2)) {
    const [guest, dialogue] = labGuests[name];
    const started = performance.now();
    try {
      const log = await boot(guest, { engine: "kvm", dialogue, timeout: 120_000 });
      results[name] = { log, seconds: (performance.now() - started) / 1000 };
    } catch (error) {
      results[name] = { error: String(error) };
    }
  }
  console.log(JSON.stringify(results));
}
