/** What is to be prefetched is there before anybody touches it, and nothing else is. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { MachineImage } from "./image.ts";
import { commonRuns } from "./prefetch.ts";
import type { Run } from "./snapshot/format.ts";

setDefaultTimeout(60_000);
const PAGE = 4096;
const PAGES = 512;
/** A fault may map what lies around it in the file, too: so many pages. */
const AROUND = 16;
let folder = "";
let file = -1;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "prefetch-"));
  const path = join(folder, "pages");
  const bytes = new Uint8Array(PAGES * PAGE);
  for (let page = 0; page < PAGES; page++)
    bytes.fill(1 + (page % 255), page * PAGE, (page + 1) * PAGE);
  writeFileSync(path, bytes);
  file = openSync(path, "r");
});
afterAll(() => {
  closeSync(file);
  rmSync(folder, { recursive: true, force: true });
});

/** Which pages of an image are mapped in this process: Documentation/admin-guide/mm/pagemap.rst. */
function present(image: MachineImage, pages: number): number[] {
  const pagemap = openSync("/proc/self/pagemap", "r");
  const entries = new BigUint64Array(pages);
  readSync(pagemap, entries, 0, entries.byteLength, (image.memory.ranges[0].host / PAGE) * 8);
  closeSync(pagemap);
  return Array.from(entries.keys()).filter((page) => entries[page] >> 63n !== 0n);
}

async function ended(image: MachineImage): Promise<void> {
  for (let i = 0; image.prefetching; i++) {
    if (i > 10_000) throw new Error("it doesn't end");
    await Bun.sleep(1);
  }
}

const pagesOf = (runs: Iterable<Run>) =>
  [...runs].flatMap(({ page, count }) => Array.from({ length: count }, (_, i) => page + i));

test("pages of a file are mapped, and those far away are not", async () => {
  using image = new MachineImage([{ base: 0, size: PAGES * PAGE, readonly: false }]);
  // Pages 256 and up stay anonymous.
  image.overlay(0, 256 * PAGE, file, 0);
  expect(present(image, PAGES)).toEqual([]);
  const runs = [
    { page: 3, count: 2 },
    { page: 128, count: 20 },
    { page: 250, count: 10 },
  ];
  expect(image.prefetch(runs)).toBe(2 + 20 + 6);
  await ended(image);
  const there = present(image, PAGES);
  const wanted = [3, 4, ...pagesOf([{ page: 128, count: 20 }]), 250, 251, 252, 253, 254, 255];
  expect(there).toEqual(expect.arrayContaining(wanted));
  for (const page of there) {
    expect(wanted.some((one) => Math.abs(one - page) < AROUND)).toBe(true);
  }
  // Nobody has written them, and writes don't go to the file.
  image.memory.write8(3 * PAGE, 99);
  expect([image.memory.read8(3 * PAGE), image.memory.read8(4 * PAGE)]).toEqual([99, 5]);
  using other = new MachineImage([{ base: 0, size: PAGES * PAGE, readonly: false }]);
  other.overlay(0, 256 * PAGE, file, 0);
  expect(other.memory.read8(3 * PAGE)).toBe(4);
});

test("one that has just begun is given up with its image", () => {
  for (let round = 0; round < 200; round++) {
    using image = new MachineImage([{ base: 0, size: PAGES * PAGE, readonly: false }]);
    image.overlay(0, PAGES * PAGE, file, 0);
    expect(image.prefetch([{ page: 0, count: PAGES }])).toBe(PAGES);
  }
});

test("a file that was cut off meanwhile is no end of it", async () => {
  const path = join(folder, "cut");
  writeFileSync(path, new Uint8Array(4 * PAGE).fill(1));
  const descriptor = openSync(path, "r");
  using image = new MachineImage([{ base: 0, size: PAGES * PAGE, readonly: false }]);
  image.overlay(0, 64 * PAGE, descriptor, 0);
  image.overlay(64 * PAGE, 4 * PAGE, file, 0);
  closeSync(descriptor);
  expect(image.prefetch([{ page: 0, count: 68 }])).toBe(68);
  await ended(image);
  expect(present(image, PAGES)).toEqual(expect.arrayContaining([0, 3, 64, 67]));
});

test("what runs have in common", () => {
  const run = fc.record({ page: fc.nat(200), count: fc.integer({ min: 1, max: 30 }) });
  fc.assert(
    fc.property(fc.array(run), fc.array(run), (some, others) => {
      const pages = new Set(pagesOf(some));
      const runs = [...pages].toSorted((a, b) => a - b).map((page) => ({ page, count: 1 }));
      // Neighbours together, half of them.
      const joined: Run[] = [];
      for (const { page, count } of runs) {
        const last = joined.at(-1);
        if (last !== undefined && last.page + last.count === page && page % 7 !== 0) {
          joined[joined.length - 1] = { page: last.page, count: last.count + 1 };
        } else joined.push({ page, count });
      }
      const theirs = new Set(pagesOf(others));
      const wanted = [...pages].filter((page) => theirs.has(page)).sort((a, b) => a - b);
      expect(pagesOf(commonRuns(joined, others))).toEqual(wanted);
    }),
    { seed: 4 },
  );
});
