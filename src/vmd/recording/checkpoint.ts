/**
 * Places at which a machine is made what it would be after a restore: its queues are empty, and what
 * the engine keeps beside the registers (its TLB) is gone. From there, who was restored and who went
 * on run alike. A recording has them at the same places as each of its replays.
 */
import { PageSet } from "../../vmm/snapshot/page-set.ts";
import { quiesce } from "../snapshot/save.ts";
import type { VmLife } from "../vm-life.ts";
import { registersHash } from "./state-hash.ts";

/** How often input is let in while the guest runs: guest ns. */
export const POLL_INTERVAL = 1e6;
/** From one checkpoint to the next poll that makes another: guest ns. At least an exit is between. */
export const CHECK_INTERVAL = 5e7;

/**
 * The guest stands between two instructions, at a poll.
 * @param taken called while everything lies in the image, with the pages that were written since
 * the last checkpoint
 * @returns what all registers' checksum is.
 * @throws SnapshotError
 */
export function checkpoint(life: VmLife, taken?: (dirty: PageSet) => void): bigint {
  const { engine, machine } = life;
  quiesce(life);
  machine.clock.sample();
  engine.saveCpu();
  const hash = registersHash(life);
  const dirty = takeDirty(life);
  taken?.(dirty);
  engine.loadCpu();
  machine.renew();
  return hash;
}

/**
 * The pages that were written since this was last asked. Where a page that was not written yet is
 * written, the engine walks the page tables again, and the guest may see that in them: so each run
 * asks at the same places.
 */
export function takeDirty({ engine, image }: Pick<VmLife, "engine" | "image">): PageSet {
  const dirty = new PageSet(image.memory.ranges);
  dirty.bitmaps.forEach((bitmap, slot) => engine.dirtyPages(slot, bitmap));
  return dirty;
}
