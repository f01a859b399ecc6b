/** Makes one snapshot of several, each based on the one before; no VM is needed for that. */
import type { MemoryRange } from "../memory.ts";
import { PAGE, RecordType, type Run, SnapshotError } from "./format.ts";
import { SnapshotReader, type SnapshotRecord, type Source } from "./reader.ts";
import type { SnapshotWriter } from "./writer.ts";

type Range = Pick<MemoryRange, "base" | "size">;

/** Zero pages. */
const NOBODY = 0;

/** Which record says last what each page holds: its number over all snapshots, from 1 on. */
class Owners {
  readonly #ranges: readonly Range[];
  readonly #owners: readonly Uint32Array[];

  constructor(ranges: readonly Range[]) {
    this.#ranges = ranges;
    this.#owners = ranges.map(({ size }) => new Uint32Array(size / PAGE));
  }

  set({ page, count }: Run, owner: number): void {
    const { index, from } = this.#place(page, count);
    this.#owners[index].fill(owner, from, from + count);
  }

  /** The parts of a run that a record owns. */
  *owned({ page, count }: Run, owner: number): Generator<Run> {
    const { index, from } = this.#place(page, count);
    const owners = this.#owners[index];
    for (let i = 0; i < count; i++) {
      if (owners[from + i] !== owner) continue;
      let end = i + 1;
      while (end < count && owners[from + end] === owner) end++;
      yield { page: page + i, count: end - i };
      i = end;
    }
  }

  #place(page: number, count: number): { index: number; from: number } {
    const index = this.#ranges.findIndex(({ base, size }) => {
      return page * PAGE >= base && (page + count) * PAGE <= base + size;
    });
    if (index < 0) throw new SnapshotError("it has pages where the machine has no memory");
    return { index, from: page - this.#ranges[index].base / PAGE };
  }
}

/**
 * Reads snapshots twice: first what they have, then what is needed of it.
 * @param open gives a snapshot's beginning, by its place, the first one first
 * @param config payload of the CONFIG record
 * @throws SnapshotError
 */
export function mergeSnapshots(
  count: number,
  open: (index: number) => Source,
  ranges: readonly Range[],
  config: Uint8Array,
  writer: SnapshotWriter,
): void {
  const owners = new Owners(ranges);
  let serial = 0;
  for (let index = 0; index < count; index++) {
    const reader = new SnapshotReader(open(index));
    for (let record = reader.next(); record !== undefined; record = reader.next()) {
      serial++;
      const owner = record.head.type === RecordType.ZERO ? NOBODY : serial;
      for (const run of record.runs) owners.set(run, owner);
    }
  }
  writer.bytes(RecordType.CONFIG, config);
  serial = 0;
  for (let index = 0; index < count; index++) {
    const last = index === count - 1;
    const reader = new SnapshotReader(open(index));
    for (let record = reader.next(); record !== undefined; record = reader.next()) {
      serial++;
      const { type } = record.head;
      if (type === RecordType.PAGES) {
        const runs = record.runs.flatMap((run) => [...owners.owned(run, serial)]);
        if (runs.length === 0) continue;
        const data = reader.data(record);
        writer.data(runs, (run) => [pagesOf(record, data, run)]);
      } else if (last && type !== RecordType.CONFIG && type !== RecordType.ZERO) {
        writer.bytes(type, record.payload);
      }
    }
  }
}

/** What a record has for a part of one of its runs. */
function pagesOf({ runs }: SnapshotRecord, data: Uint8Array, { page, count }: Run): Uint8Array {
  let at = 0;
  for (const run of runs) {
    const inside = page - run.page;
    if (inside >= 0 && inside + count <= run.count) {
      return data.subarray(at + inside * PAGE, at + (inside + count) * PAGE);
    }
    at += run.count * PAGE;
  }
  throw new RangeError("a run that the record hasn't got");
}
