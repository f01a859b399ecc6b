/** Each who follows gets every page that was written since, whoever wrote it, and no other. */
import { expect, test } from "bun:test";
import { DirtyLog } from "./dirty-log.ts";
import { GuestMemory } from "./memory.ts";

const PAGE = 4096;
const PAGES = 128;

/** An engine's log, as vmm_dirty has it: what was told is forgotten. */
class Guest {
  readonly memory = GuestMemory.standalone(PAGES * PAGE);
  readonly written = new Set<number>();
  asked = 0;
  ended = 0;

  endDirtyLog(): void {
    this.ended++;
  }

  dirtyPages(_slot: number, bitmap: Uint8Array): number {
    this.asked++;
    bitmap.fill(0);
    for (const page of this.written) bitmap[page >> 3] |= 1 << (page & 7);
    const count = this.written.size;
    this.written.clear();
    return count;
  }
}

const pagesOf = (runs: Iterable<{ page: number; count: number }>) =>
  [...runs].flatMap(({ page, count }) => Array.from({ length: count }, (_, i) => page + i));

test("two who follow since different times hear of the guest's writes and the host's", () => {
  const guest = new Guest();
  const log = new DirtyLog(guest, guest.memory);
  guest.written.add(1);
  guest.memory.write8(2 * PAGE, 1);
  expect(guest.asked).toBe(0);
  const first = log.follow();
  guest.written.add(3);
  guest.memory.write32(5 * PAGE - 4, 1);
  guest.memory.written(6 * PAGE - 1, 2);
  const second = log.follow();
  guest.written.add(64);
  guest.memory.fill(100 * PAGE, 2 * PAGE, 7);
  expect(pagesOf(second.collect().runs())).toEqual([64, 100, 101]);
  // The other isn't deprived of what the engine has told already.
  expect(pagesOf(first.collect().runs())).toEqual([3, 4, 5, 6, 64, 100, 101]);
  guest.written.add(9);
  first.clear();
  expect(first.collect().count).toBe(0);
  expect(pagesOf(second.pages.runs())).toEqual([9, 64, 100, 101]);
  first[Symbol.dispose]();
  expect(guest.ended).toBe(0);
  second[Symbol.dispose]();
  second[Symbol.dispose]();
  // The last one lets the engine rest.
  expect(guest.ended).toBe(1);
  expect(log.followed).toBe(false);
  const { asked } = guest;
  guest.memory.write8(0, 1);
  expect(guest.asked).toBe(asked);
  const third = log.follow();
  expect(third.collect().count).toBe(0);
});
