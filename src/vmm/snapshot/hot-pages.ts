/**
 * The HOT record: which pages the guest touched lately, so that whoever goes on from a snapshot may
 * have them in memory early. It is advice: what isn't in it comes when it is touched, as all does.
 *
 * Its payload is runs as those of PAGES, in the order of their pages, each page once.
 */
import type { MemoryRange } from "../memory.ts";
import { decodeRuns, encodeRuns, HOT_RUNS, PAGE, type Run, SnapshotError } from "./format.ts";
import { closeGaps } from "./machine-memory.ts";
import type { PageSet } from "./page-set.ts";

/** Of more runs than fit, those that lie close become one. */
export function encodeHotPages(set: PageSet, most = HOT_RUNS): Uint8Array {
  let runs = [...set.runs()];
  for (let gap = 1; runs.length > most; gap *= 2) runs = [...closeGaps(set, gap)];
  // A machine's ranges are not in the order of their addresses.
  runs.sort((a, b) => a.page - b.page);
  const payload = new Uint8Array(16 * runs.length);
  encodeRuns(payload, runs);
  return payload;
}

/** @param ranges of the machine's memory. @throws SnapshotError */
export function decodeHotPages(
  payload: Uint8Array,
  ranges: readonly Pick<MemoryRange, "base" | "size">[],
): Run[] {
  const runs = decodeRuns(payload);
  let next = 0;
  for (const { page, count } of runs) {
    if (page < next) throw new SnapshotError("its hot pages are not in their order");
    next = page + count;
    const inside = ranges.some(({ base, size }) => {
      return page * PAGE >= base && (page + count) * PAGE <= base + size;
    });
    if (!inside) throw new SnapshotError("it has hot pages where the machine has no memory");
  }
  return runs;
}
