/**
 * A crash at any point: the image still opens, QEMU finds nothing worse than clusters that nobody
 * uses, and what was flushed is there.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { emptyExtent, ExtentKind } from "./disk.ts";
import { diskFromFile } from "./open.ts";
import type { Qcow2Disk } from "./qcow2.ts";
import { readHeader } from "./qcow2/header.ts";
import { MetadataClusters } from "./qcow2/metadata.ts";
import { Refcounts } from "./qcow2/refcounts.ts";
import { RawDisk } from "./raw.ts";
import {
  emptyImage,
  LEAKS,
  MemoryFile,
  type Operation,
  qemuImg,
  qemuIo,
  qemuMissing,
  random,
  RecordingFile,
} from "./testing.ts";

setDefaultTimeout(180_000);
if (qemuMissing !== undefined) console.log(`crashes checked by QEMU skipped: ${qemuMissing}`);

/** The unit of the host that is written whole or not at all, bytes. */
const SECTOR = 512;
const FLUSHED = 0;

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "crash-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Scenario {
  image: Uint8Array;
  /** The disk's first content, from a raw base if `base` says so. */
  content: Uint8Array;
  base: boolean;
  writes: number;
  /** Longest write, sectors. */
  longest: number;
  /** The refcount table becomes too small meanwhile. */
  grows: boolean;
}

interface Write {
  at: number;
  length: number;
}

/** A file that can be written beside its driver. */
class SharedFile extends RecordingFile {
  override readonly descriptor = 1;
}

/** Who moves data: the driver, at once, or threads to which it says where, as late as may be. */
interface Mover {
  write(offset: number, bytes: Uint8Array): void;
  flush(): void;
}

function threads(disk: Qcow2Disk, file: RecordingFile): Mover {
  const late: (() => void)[] = [];
  const drain = () => {
    for (const write of late.splice(0)) write();
  };
  disk.beforeCommit = drain;
  const extent = emptyExtent();
  return {
    write: (offset, bytes) => {
      for (let done = 0; done < bytes.length; done += extent.length) {
        disk.locate(offset + done, bytes.length - done, true, extent);
        const { kind, position, length } = extent;
        const part = bytes.subarray(done, done + length);
        if (kind === ExtentKind.FILE) late.push(() => file.write(position, part, 0, length));
        else {
          drain();
          disk.write(offset + done, part);
        }
      }
    },
    flush: () => {
      drain();
      for (const _ of disk.flushing()) file.sync();
    },
  };
}

/** Every sector of write i holds the byte i + 1, which no other write's do. */
function record({ image, content, base, writes: count, longest }: Scenario, by: string) {
  const file = by === "threads" ? new SharedFile("test", image) : new RecordingFile("test", image);
  const disk = diskFromFile(file, "qcow2", baseOf(base, content), false) as Qcow2Disk;
  const mover: Mover = by === "threads" ? threads(disk, file) : disk;
  const next = random(11);
  const writes: Write[] = [];
  for (let i = 0; i < count; i++) {
    const length = 1 + next(longest);
    const at = next(disk.size / SECTOR - length);
    writes.push({ at, length });
    file.mark(writes.length);
    mover.write(at * SECTOR, new Uint8Array(length * SECTOR).fill(i + 1));
    if (next(6) === 0) {
      mover.flush();
      file.mark(FLUSHED);
    }
  }
  mover.flush();
  disk.close();
  file.mark(FLUSHED);
  return { operations: file.operations, writes };
}

function baseOf(base: boolean, content: Uint8Array): RawDisk | undefined {
  return base ? new RawDisk(new MemoryFile("base", content), true) : undefined;
}

function apply(file: MemoryFile, operation: Operation): void {
  if (operation.kind === "resize") file.resize(operation.size);
  else if (operation.kind === "write") {
    file.write(operation.position, operation.bytes, 0, operation.bytes.length);
  }
}

/** After a loss of power, of what came after the last sync, any sectors may be missing. */
function applySome(file: MemoryFile, operations: Operation[], next: (limit: number) => number) {
  for (const operation of operations) {
    if (operation.kind === "resize") {
      if (next(2) === 0 && operation.size > file.size) file.resize(operation.size);
    } else if (operation.kind === "write") {
      const { position, bytes } = operation;
      for (let at = 0; at < bytes.length;) {
        const end = Math.min(bytes.length, at + SECTOR - ((position + at) % SECTOR));
        if (next(2) === 0) file.write(position + at, bytes, at, end - at);
        at = end;
      }
    }
  }
}

/** Each sector has what the last flush found or what was written to it since. */
function checkContent(
  file: MemoryFile,
  scenario: Scenario,
  writes: Write[],
  operations: Operation[],
) {
  const disk = diskFromFile(file, "qcow2", baseOf(scenario.base, scenario.content), false);
  let begun = 0;
  let flushed = 0;
  for (const operation of operations) {
    if (operation.kind !== "mark") continue;
    if (operation.note === FLUSHED) flushed = begun;
    else begun = operation.note;
  }
  const model = new Uint8Array(disk.size);
  model.set(scenario.content);
  const allowed = new Map<number, Set<number>>();
  writes.slice(0, begun).forEach(({ at, length }, i) => {
    if (i < flushed) model.fill(i + 1, at * SECTOR, (at + length) * SECTOR);
    else {
      for (let sector = at; sector < at + length; sector++) {
        allowed.set(sector, (allowed.get(sector) ?? new Set()).add(i + 1));
      }
    }
  });
  const bytes = new Uint8Array(disk.size);
  disk.read(0, bytes);
  for (let sector = 0; sector < disk.size / SECTOR; sector++) {
    const part = bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR);
    const before = model.subarray(sector * SECTOR, (sector + 1) * SECTOR);
    if (Buffer.compare(part, before) === 0) continue;
    const whole = part.every((byte) => byte === part[0]);
    if (!whole || !allowed.get(sector)?.has(part[0])) {
      throw new Error(`sector ${sector} has ${part[0]}, not ${before[0]} (flushed: ${flushed})`);
    }
  }
  // It can be used further.
  disk.write(0, new Uint8Array(SECTOR).fill(255));
  disk.write(disk.size - SECTOR, new Uint8Array(SECTOR).fill(255));
  disk.close();
}

function checkByQemu(file: MemoryFile): void {
  const path = join(folder, "crashed.qcow2");
  file.save(path);
  qemuImg(["check", "--output=json", "-f", "qcow2", path], [0, LEAKS]);
}

function noise(size: number): Uint8Array {
  const next = random(99);
  return Uint8Array.from({ length: size }, () => next(256));
}

/** An image with 512-byte clusters whose first `used` clusters are all counted as used. */
function partlyUsed(size: number, used: number): Uint8Array {
  const file = new MemoryFile("test", emptyImage(size, 9));
  const header = readHeader(file);
  const metadata = new MetadataClusters(Float64Array.of(0, header.l1Offset));
  const refcounts = new Refcounts(file, header, metadata);
  while (refcounts.allocate() < (used - 1) * 512);
  refcounts.write();
  return file.content();
}

function scenarios(): Record<string, () => Scenario> {
  return {
    "clusters of 4 KiB on a base": () => {
      const content = noise(300 * 1024);
      writeFileSync(join(folder, "base"), content);
      const image = emptyImage(2 ** 20, 12, { name: "base", format: "raw" });
      return { image, content, base: true, writes: 20, longest: 30, grows: false };
    },
    "a refcount block is added": () => {
      const image = partlyUsed(2 ** 18, 256 - 20);
      const content = new Uint8Array(2 ** 18);
      return { image, content, base: false, writes: 8, longest: 8, grows: false };
    },
    "the refcount table grows": () => {
      const image = partlyUsed(2 ** 18, 64 * 256 - 8);
      const content = new Uint8Array(2 ** 18);
      return { image, content, base: false, writes: 5, longest: 5, grows: true };
    },
    "compressed clusters and snapshots": () => {
      const content = new Uint8Array(2 ** 19);
      content.set(noise(2 ** 17));
      const raw = join(folder, "content.raw");
      const path = join(folder, "snapshots.qcow2");
      writeFileSync(raw, content);
      const options = ["-o", "cluster_size=4k"];
      qemuImg(["convert", "-c", "-f", "raw", "-O", "qcow2", ...options, raw, path]);
      qemuImg(["snapshot", "-c", "a", path]);
      qemuIo(path, "write -P 7 0 100000");
      qemuImg(["snapshot", "-c", "b", path]);
      content.fill(7, 0, 100_000);
      return {
        image: readFileSync(path),
        content,
        base: false,
        writes: 40,
        longest: 30,
        grows: false,
        every: 1,
      };
    },
  };
}

describe.skipIf(qemuMissing !== undefined)("a crash", () => {
  const cases = Object.entries(scenarios()).flatMap(([name, make]) =>
    ["the driver", "threads"].map((by) => [name, by, make] as const),
  );
  test.each(cases)("%s, data moved by %s", (_, by, make) => {
    const scenario = make();
    const { operations, writes } = record(scenario, by);
    const points = operations.flatMap(({ kind }, i) => (kind === "mark" ? [] : [i]));
    const next = random(5);
    const whole = new MemoryFile("test", scenario.image);
    let durable = new MemoryFile("test", scenario.image);
    let synced = 0;
    for (const [i, point] of points.entries()) {
      apply(whole, operations[point]);
      const before = operations.slice(0, point + 1);
      if (operations[point].kind === "sync") {
        durable = whole.clone();
        synced = point;
      }
      const stopped = whole.clone();
      const lost = durable.clone();
      applySome(lost, before.slice(synced), next);
      // The worst order: the last write alone came through.
      const last = durable.clone();
      apply(last, operations[point]);
      checkByQemu(stopped);
      checkByQemu(last);
      for (const file of [stopped, lost, last]) {
        checkContent(file, scenario, writes, before);
        if (i % 10 === 0) checkByQemu(file);
      }
    }
    const files = [new MemoryFile("test", scenario.image), whole];
    const tables = files.map((file) => readHeader(file).refcountTableOffset);
    expect(tables[0] !== tables[1]).toBe(scenario.grows);
    expect(points.length).toBeGreaterThan(40);
    expect(operations.filter(({ kind }) => kind === "sync").length).toBeGreaterThan(3);
  });
});
