/** Memory into a snapshot's file and back: mapped, not read, unless it has to be. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MachineImage } from "../image.ts";
import { PAGE, RecordType } from "./format.ts";
import { closeGaps, MemoryLoader, usedPages } from "./machine-memory.ts";
import { type Source, SnapshotReader } from "./reader.ts";
import { FileSource } from "./sources.ts";
import { SnapshotWriter } from "./writer.ts";

setDefaultTimeout(60_000);

const MIB = 2 ** 20;
let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "memory-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const ranges = (size: number) => [{ base: 0, size, readonly: false }];

/** Writes an image's memory, and no state; its descriptor. */
function save(image: MachineImage, name: string, compress = false): number {
  const path = join(folder, name);
  const out = openSync(path, "w");
  const writer = new SnapshotWriter((bytes) => void writeSync(out, bytes), { compress });
  writer.json(RecordType.CONFIG, {});
  writer.memory(image.memory, closeGaps(usedPages(image, -1)));
  for (const type of [RecordType.STATE, RecordType.CPU, RecordType.HOST]) {
    writer.bytes(type, new Uint8Array(0));
  }
  writer.end();
  closeSync(out);
  return openSync(path, "r");
}

/** @returns bytes that were read of the source */
function load(
  image: MachineImage,
  file: number,
  { lazy = true, verify = false, eager = false } = {},
): number {
  const inner = new FileSource(file);
  let read = 0;
  const source: Source = {
    get position() {
      return inner.position;
    },
    get ended() {
      return inner.ended;
    },
    skip: (bytes) => inner.skip(bytes),
    read: (into) => {
      read += into.length;
      inner.read(into);
    },
  };
  const reader = new SnapshotReader(source);
  const loader = new MemoryLoader(image, reader, { file: lazy ? file : undefined, verify, eager });
  for (let record = reader.next(); record !== undefined; record = reader.next()) {
    if (record.runs.length > 0) loader.take(record);
  }
  return read;
}

describe("a machine's memory", () => {
  test("is mapped without being read, whatever lengths its runs have", () => {
    using image = new MachineImage(ranges(16 * MIB));
    for (let page = 0, length = 1; page < 3000; page += length + 20, length = (length % 9) + 1) {
      image.memory.fill(page * PAGE, length * PAGE, 1 + (page % 255));
    }
    const file = save(image, "runs");
    for (const options of [{}, { verify: true }, { lazy: false }]) {
      using copy = new MachineImage(ranges(16 * MIB));
      const read = load(copy, file, options);
      const [mine] = image.memory.bytes(0, 16 * MIB);
      const [theirs] = copy.memory.bytes(0, 16 * MIB);
      expect(Buffer.compare(mine, theirs)).toBe(0);
      // Five records have a page each besides the memory's own.
      if (options.verify === undefined && options.lazy === undefined) {
        expect(read).toBeLessThan(8 * PAGE);
      } else expect(read).toBeGreaterThan(2 * MIB);
    }
    closeSync(file);
  });

  test("is read at once where that is wanted, runs are short, and they are few", () => {
    const size = 64 * MIB;
    const touched = (image: MachineImage) => {
      const pages: number[] = [];
      image.memory.observeWrites((address) => pages.push(address / PAGE));
      return pages;
    };
    using image = new MachineImage(ranges(size));
    for (let page = 3; page < 9000; page += 20)
      image.memory.fill(page * PAGE, 2 * PAGE, 1 + (page % 251));
    const short = save(image, "short");
    using copy = new MachineImage(ranges(size));
    // What was there is no longer, and whoever has translated it is told.
    copy.memory.fill(3 * PAGE, 2 * PAGE, 0xee);
    const told = touched(copy);
    load(copy, short, { eager: true });
    expect(copy.overlaid).toEqual([]);
    expect(told.slice(0, 3)).toEqual([3, 23, 43]);
    expect(told).toHaveLength(450);
    expect(usedPages(copy, -1).count).toBe(900);
    const [mine] = image.memory.bytes(0, size);
    const [theirs] = copy.memory.bytes(0, size);
    expect(Buffer.compare(mine, theirs)).toBe(0);
    // Checksums can be had of what the reader reads only.
    using looked = new MachineImage(ranges(size));
    expect(load(looked, short, { eager: true, verify: true })).toBeGreaterThan(900 * PAGE);
    expect(looked.overlaid).not.toEqual([]);

    image.memory.fill(10_000 * PAGE, 3000 * PAGE, 9);
    const long = save(image, "long");
    using mapped = new MachineImage(ranges(size));
    load(mapped, long, { eager: true });
    // Each record for itself: the second has the rest of the short runs, and some of the long one.
    expect(mapped.overlaid.reduce((sum, { count }) => sum + count, 0)).toBe(
      3000 - (1024 - 2 * 198),
    );
    const [all] = image.memory.bytes(0, size);
    const [again] = mapped.memory.bytes(0, size);
    expect(Buffer.compare(all, again)).toBe(0);
    closeSync(short);
    closeSync(long);
  });

  test("that a file ends before is refused", () => {
    using image = new MachineImage(ranges(4 * MIB));
    image.memory.fill(MIB, 3 * PAGE, 7);
    const file = save(image, "whole");
    const path = join(folder, "cut");
    writeFileSync(path, readFileSync(file).subarray(0, 3 * PAGE));
    const cut = openSync(path, "r");
    using copy = new MachineImage(ranges(4 * MIB));
    const run = { page: MIB / PAGE, count: 3 };
    expect(() => copy.readPages([run], cut, 2 * PAGE)).toThrow("reading a snapshot");
    expect(() => copy.readPages([{ page: 1023, count: 2 }], cut, 0)).toThrow("no 8192 bytes");
    closeSync(file);
    closeSync(cut);
  });

  test("of more runs than a process may map is read for the rest", () => {
    const size = 700 * MIB;
    using image = new MachineImage(ranges(size));
    const runs = 17_000;
    for (let run = 0; run < runs; run++) image.memory.write32(run * 10 * PAGE, run + 1);
    const file = save(image, "many");
    using copy = new MachineImage(ranges(size));
    const read = load(copy, file);
    expect(read).toBeLessThan(4 * MIB);
    expect(copy.overlaid.length).toBeLessThanOrEqual(16_384);
    for (let run = 0; run < runs; run++) {
      if (copy.memory.read32(run * 10 * PAGE) !== run + 1) throw new Error(`run ${run}`);
    }
    closeSync(file);
  });

  test("that is given away reads as zero, and not as the file", () => {
    using image = new MachineImage(ranges(4 * MIB));
    image.memory.fill(MIB, MIB, 7);
    const file = save(image, "given");
    using copy = new MachineImage(ranges(4 * MIB));
    load(copy, file);
    expect(copy.memory.read8(MIB + 5)).toBe(7);
    copy.memory.write8(MIB + PAGE, 9);
    copy.memory.discard(MIB, 2 * PAGE);
    expect([copy.memory.read32(MIB), copy.memory.read32(MIB + PAGE)]).toEqual([0, 0]);
    expect(copy.memory.read8(MIB + 2 * PAGE)).toBe(7);
    // A snapshot of it has no such pages.
    const used = usedPages(copy, -1);
    expect([used.has(MIB), used.has(MIB + 2 * PAGE)]).toEqual([false, true]);
    closeSync(file);
  });
});
