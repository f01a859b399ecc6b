/**
 * The rules by which a boot log is made comparable. What they take out changes with the host, the
 * day or the next security update of a kernel; what is left must be the same, line by line.
 *
 * 1. Terminal escape sequences and carriage returns go.
 * 2. A kernel's time stamp "[    1.234567]" becomes "[time]".
 * 3. Every number, decimal or hexadecimal, becomes "#", with the unit letter or version part that is
 *    stuck to it, and a minus sign; ranges and dotted numbers become one: addresses, sizes, speeds, dates, hashes.
 * 4. Month and weekday names become "day".
 * 5. Spaces before a number are one space, as they may only pad it: "Jul  4" is "Jul 14".
 * 6. Blank lines and trailing spaces go.
 * 7. Lines that a kernel thread prints beside the boot (ASIDE) are put at the end, sorted: where they
 *    come depends on the last instruction before them.
 */

const RULES: [RegExp, string][] = [
  // oxlint-disable-next-line no-control-regex
  [/\x1b\[[0-9;?]*[A-Za-z]/g, ""],
  [/\r/g, ""],
  [/^\[ *[0-9]+\.[0-9]+\] /gm, "[time] "],
  [/\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b/g, "day"],
  [/\b(0x|g)?[0-9a-f]*[0-9][0-9A-Za-z_.]*/g, "#"],
  [/#([-+:/.,]#)+/g, "#"],
  [/([\s(,>])-#/g, "$1#"],
  [/[ \t]+#/g, " #"],
  [/[ \t]+$/gm, ""],
  [/\n+/g, "\n"],
];

const ASIDE = [/Trying to unpack rootfs/, /Freeing initrd memory/, / audit: /, /crng init done/];

/** The log with every rule applied. */
export function normalise(log: string): string {
  const text = RULES.reduce((rest, [pattern, by]) => rest.replace(pattern, by), log).trim();
  const lines = text.split("\n");
  const aside = lines.filter((line) => ASIDE.some((pattern) => pattern.test(line)));
  return [...lines.filter((line) => !aside.includes(line)), ...aside.sort()].join("\n");
}
