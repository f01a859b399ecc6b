/**
 * Compares a boot log with the golden one.
 *
 * A golden log belongs to one version of its package. On that version every line must be the same,
 * in its place. On another (Debian updates its kernels) lines may have come, gone or moved, but only
 * a few: the log must share 19 of 20 lines with the golden one, or all but one of a short log.
 */
import { expect } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Of all lines, the part that another version may have differently. */
const TOLERANCE = 0.05;

/** How many lines of a golden log of `count` lines another version's log may lack, or have more. */
export function tolerated(count: number): number {
  return Math.max(1, Math.floor(count * TOLERANCE));
}

const renewing = readFileSync("/proc/self/cmdline", "utf8")
  .split("\0")
  .some((word) => word === "-u" || word === "--update-snapshots");

export interface GoldenLog {
  version: string;
  lines: string[];
}

/** @param file the test's path. @param name of the guest. @param version of its package. */
export function compareLog(file: string, name: string, version: string, log: string): void {
  const golden = goldenLog(file, name);
  if (golden === undefined || golden.version === version || renewing) {
    expect({ name, version, lines: log.split("\n") }).toMatchSnapshot(name);
    return;
  }
  const { missing, extra } = difference(golden.lines, log.split("\n"));
  const different = [...missing.map((line) => `- ${line}`), ...extra.map((line) => `+ ${line}`)];
  console.log(
    `${name}: the golden log is of ${golden.version}, this is ${version}: ` +
      `${different.length} lines differ\n${different.join("\n")}`,
  );
  expect(missing.length).toBeLessThanOrEqual(tolerated(golden.lines.length));
  expect(extra.length).toBeLessThanOrEqual(tolerated(golden.lines.length));
}

/** Lines that depend on how fast the host is: with real time they come or don't, and anywhere. */
const TIMING = [
  /clocksource/,
  /Refined TSC/,
  /random: crng init/,
  /perf: interrupt took too long/,
  /hrtimer: interrupt took/,
  /sched: RT throttling/,
];

/** A normalised log's lines without those that depend on the host's speed. */
export function steadyLines(log: string): string[] {
  return log.split("\n").filter((line) => !TIMING.some((pattern) => pattern.test(line)));
}

/** The lines that only one side has; how often counts, where doesn't. */
export function difference(
  golden: readonly string[],
  log: readonly string[],
): { missing: string[]; extra: string[] } {
  const counts = new Map<string, number>();
  for (const line of golden) counts.set(line, (counts.get(line) ?? 0) + 1);
  const extra = log.filter((line) => {
    const left = counts.get(line) ?? 0;
    counts.set(line, left - 1);
    return left <= 0;
  });
  const missing = [...counts].flatMap(([line, left]) =>
    Array<string>(Math.max(0, left)).fill(line),
  );
  return { missing, extra };
}

/**
 * The golden log of a guest, out of a test's snapshot file: a module of template strings.
 * @param file the test's path.
 */
export function goldenLog(file: string, name: string): GoldenLog | undefined {
  const path = join(file, "../__snapshots__", `${file.split("/").at(-1)}.snap`);
  if (!existsSync(path)) return undefined;
  const exports: Record<string, string> = {};
  new Function("exports", readFileSync(path, "utf8"))(exports);
  const entry = Object.entries(exports).find(([, text]) => text.includes(`"name": "${name}",`));
  if (entry === undefined) return undefined;
  // An object pretty-printed: a line of its array is `    "…",`, with nothing escaped inside.
  const version = /^ {2}"version": "(.*)",$/m.exec(entry[1])?.[1] ?? "";
  const lines = [...entry[1].matchAll(/^ {4}"(.*)",$/gm)].map(([, line]) => line);
  return { version, lines };
}
