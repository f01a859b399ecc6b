/** A machine's pages in batches, each of which makes one record: small enough for a guest to wait. */
import type { MachineImage } from "../../vmm/image.ts";
import { PAGE, RECORD_RUNS, type Run } from "../../vmm/snapshot/format.ts";
import { usedRuns } from "../../vmm/snapshot/machine-memory.ts";

/** Pages of a batch at most. */
export const BATCH = 64;
/** Pages that are looked at in one go. */
const LOOK = 512;

/**
 * All pages that hold anything as they are when they are looked at. An empty batch says only that
 * some were looked at.
 */
export function* usedBatches(image: MachineImage, pagemap: number): Generator<Run[]> {
  for (const { base, size } of image.memory.ranges) {
    for (let at = 0; at < size; at += LOOK * PAGE) {
      const count = Math.min(LOOK, (size - at) / PAGE);
      const runs = usedRuns(image, (base + at) / PAGE, count, pagemap);
      if (runs.length === 0) yield [];
      else yield* batches(runs);
    }
  }
}

/** Runs, in parts of BATCH pages. */
export function* batches(runs: Iterable<Run>): Generator<Run[]> {
  let batch: Run[] = [];
  let pages = 0;
  for (const { page, count } of runs) {
    for (let at = 0; at < count;) {
      const length = Math.min(count - at, BATCH - pages);
      batch.push({ page: page + at, count: length });
      pages += length;
      at += length;
      if (pages < BATCH && batch.length < RECORD_RUNS) continue;
      yield batch;
      batch = [];
      pages = 0;
    }
  }
  if (batch.length > 0) yield batch;
}
