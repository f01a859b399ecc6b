/**
 * Disks from the driver's chains to the files and back, through the I/O threads: raw and qcow2
 * images must hold what the guest wrote, and QEMU must find them in order.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MachineImage } from "../../vmm/image.ts";
import { IoThreads } from "../../vmm/io-threads.ts";
import { createQcow2, diskFromFiles, type Disk, type DiskFormat, openDisk } from "../disk/index.ts";
import { qemuImg, qemuMissing, random } from "../disk/testing.ts";
import { Blk, BlkRegisters } from "../virtio/blk.ts";
import { Chain } from "../virtio/chain.ts";
import { Driver, EVENT_IDX, INDIRECT_DESC, type Part } from "../virtio/testing.ts";
import { openVmDisk } from "../disk-files.ts";
import { DiskBackend } from "./block.ts";
import { DiscBackend } from "./cdrom.ts";

setDefaultTimeout(180_000);
if (qemuMissing !== undefined) console.log(`images compared by QEMU skipped: ${qemuMissing}`);

const MIB = 2 ** 20;
const SECTOR = 512;
const [IN, OUT, FLUSH, DISCARD, ZEROES] = [0, 1, 4, 11, 13];

let folder = "";
let image: MachineImage;
const io = IoThreads.open(2);
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "block-"));
  image = new MachineImage([{ base: 0, size: 16 * MIB, readonly: false }]);
});
afterAll(() => {
  io.wait();
  image[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

const path = (name: string) => join(folder, name);

/** A guest's driver on a disk. */
class Guest {
  readonly d: Driver<Blk>;
  readonly troubles: string[] = [];
  readonly backend: DiskBackend;

  constructor(disk: Disk, guessedRaw = false) {
    this.backend = new DiskBackend(disk, image.memory, io, {
      guessedRaw,
      failed: (why) => void this.troubles.push(why),
    });
    this.d = new Driver(
      (transport) => new Blk(BlkRegisters.standalone(), transport, this.backend, "x"),
      image.memory,
    );
    const features = [9, 13, 14, INDIRECT_DESC, EVENT_IDX];
    this.d.start(features.filter((bit) => this.d.offers(bit)));
  }

  /** Begins a request; `result` finds its status when it is done. */
  begin(type: number, sector: number, data: Part[]): { head: number; at: number[] } {
    const header = new Uint8Array(16);
    new DataView(header.buffer).setUint32(0, type, true);
    new DataView(header.buffer).setUint32(8, sector, true);
    const one = this.d.add([header, ...data, 1], { indirect: true });
    this.d.notify();
    return one;
  }

  /** Waits for all of these; their statuses. */
  finish(requests: { head: number; at: number[] }[]): number[] {
    const left = new Set(requests.map(({ head }) => head));
    const end = performance.now() + 20_000;
    while (left.size > 0) {
      this.d.transport.poll();
      for (const { head } of this.d.used()) left.delete(head);
      if (performance.now() > end) throw new Error("a request was never done");
    }
    return requests.map(({ at }) => this.d.memory.read8(at[at.length - 1]));
  }

  run(type: number, sector: number, data: Part[] = []): { status: number; at: number[] } {
    const one = this.begin(type, sector, data);
    return { status: this.finish([one])[0], at: one.at };
  }
}

function range(sector: number, count: number, flags: number): Uint8Array {
  const bytes = new Uint8Array(16);
  new Uint32Array(bytes.buffer).set([sector, 0, count, flags]);
  return bytes;
}

function cut(bytes: Uint8Array, next: (limit: number) => number): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = Math.min(bytes.length, at + 1 + next(bytes.length));
    parts.push(bytes.subarray(at, end));
    at = end;
  }
  return parts;
}

interface Kind {
  name: string;
  format: DiskFormat;
  size: number;
  make: (file: string) => void;
  content: () => Uint8Array;
}

const base = (size: number) => {
  const bytes = new Uint8Array(size);
  const next = random(5);
  for (let i = 0; i < size; i += 4096) if (next(2) === 0) bytes.fill(next(256), i, i + 4096);
  return bytes;
};

const kinds: Kind[] = [
  {
    name: "raw",
    format: "raw",
    size: 8 * MIB,
    make: (file) => {
      writeFileSync(file, "");
      truncateSync(file, 8 * MIB);
    },
    content: () => new Uint8Array(8 * MIB),
  },
  {
    name: "qcow2",
    format: "qcow2",
    size: 8 * MIB,
    make: (file) => createQcow2(file, 8 * MIB),
    content: () => new Uint8Array(8 * MIB),
  },
  {
    name: "qcow2 on a raw base that is shorter",
    format: "qcow2",
    size: 8 * MIB,
    make: (file) => {
      writeFileSync(`${file}.base`, base(5 * MIB));
      qemuImg([
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        `${file}.base`,
        "-F",
        "raw",
        file,
        `${8 * MIB}`,
      ]);
    },
    content: () => {
      const bytes = new Uint8Array(8 * MIB);
      bytes.set(base(5 * MIB));
      return bytes;
    },
  },
  {
    name: "qcow2 with compressed clusters, version 2, on a qcow2 base",
    format: "qcow2",
    size: 8 * MIB,
    make: (file) => {
      writeFileSync(`${file}.raw`, base(8 * MIB));
      qemuImg(["convert", "-q", "-c", "-O", "qcow2", `${file}.raw`, `${file}.base`]);
      qemuImg(
        ["create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=16384"].concat(
          "-b",
          `${file}.base`,
          "-F",
          "qcow2",
          file,
        ),
      );
    },
    content: () => base(8 * MIB),
  },
];

describe.each(kinds.filter(({ name }) => qemuMissing === undefined || !/ /.test(name)))(
  "$name",
  ({ format, size, make, content }) => {
    test("16 Ki random requests, many at once, leave what a model has", () => {
      const file = path(`model-${Math.random()}`);
      make(file);
      const disk = openDisk(file, { format });
      const guest = new Guest(disk);
      const model = content();
      const next = random(77);
      const total = size / SECTOR;
      const WAVE = 16;
      for (let wave = 0; wave < 1024; wave++) {
        // Requests of a wave don't overlap: nothing is said of the order of those that do.
        const lane = total / WAVE;
        const requests = Array.from({ length: WAVE }, (_, i) => {
          const length = 1 + next(next(8) === 0 ? 200 : 16);
          const sector = i * lane + next(lane - length);
          const kind = next(20);
          const at = sector * SECTOR;
          const bytes = length * SECTOR;
          if (kind < 8) {
            const data = new Uint8Array(bytes).fill(1 + next(255));
            data[0] = next(256);
            model.set(data, at);
            return { ...guest.begin(OUT, sector, cut(data, next)), read: undefined };
          }
          if (kind < 10) {
            model.fill(0, at, at + bytes);
            return { ...guest.begin(ZEROES, 0, [range(sector, length, next(2))]), read: undefined };
          }
          if (kind === 10 && wave % 8 === 0) {
            return { ...guest.begin(FLUSH, 0, []), read: undefined };
          }
          return { ...guest.begin(IN, sector, [bytes]), read: { at, bytes } };
        });
        const statuses = guest.finish(requests);
        expect(statuses.every((status) => status === 0)).toBe(true);
        for (const { read, at } of requests) {
          if (read === undefined) continue;
          const found = guest.d.bytes(at[1], read.bytes);
          if (Buffer.compare(found, model.subarray(read.at, read.at + read.bytes)) !== 0) {
            throw new Error(`wave ${wave}: sectors at ${read.at} differ`);
          }
        }
      }
      expect(guest.troubles).toEqual([]);
      guest.backend.close();
      const written = path("expected");
      writeFileSync(written, model);
      if (qemuMissing !== undefined) return;
      expect(qemuImg(["compare", "-f", format, "-F", "raw", file, written])).toMatch(/identical/);
      if (format === "qcow2") qemuImg(["check", file]);
    });

    test("discarded clusters may read as anything, and leave the image in order", () => {
      const file = path(`discard-${Math.random()}`);
      make(file);
      const guest = new Guest(openDisk(file, { format }));
      const total = size / SECTOR;
      for (let sector = 0; sector < total; sector += 512) {
        const data = new Uint8Array(512 * SECTOR).fill(3);
        expect(guest.run(OUT, sector, [data]).status).toBe(0);
      }
      expect(guest.run(FLUSH, 0).status).toBe(0);
      const before = statSync(file).blocks;
      expect(guest.run(DISCARD, 0, [range(0, total, 0)]).status).toBe(0);
      expect(guest.run(FLUSH, 0).status).toBe(0);
      if (format === "raw") expect(statSync(file).blocks).toBeLessThan(before / 4);
      // What was freed is used again: the file doesn't grow.
      const length = statSync(file).size;
      for (let sector = 0; sector < total; sector += 512) {
        guest.run(OUT, sector, [new Uint8Array(512 * SECTOR).fill(4)]);
      }
      guest.backend.close();
      expect(statSync(file).size).toBeLessThan(length * 1.2);
      if (qemuMissing === undefined && format === "qcow2") qemuImg(["check", file]);
    });
  },
);

describe.each([["raw"], ["qcow2"]] as const)("direct I/O on %s", (format) => {
  test("aligned requests go past the page cache, others don't, and all is as written", () => {
    const file = path(`direct-${format}`);
    if (format === "raw") {
      writeFileSync(file, "");
      truncateSync(file, 4 * MIB);
    } else createQcow2(file, 4 * MIB);
    const { files } = openVmDisk({ path: file, format, direct: true });
    const disk = diskFromFiles(files);
    for (const { descriptor, direct } of files) {
      io.direct(descriptor, direct!.descriptor, direct!.alignment);
    }
    const guest = new Guest(disk);
    const model = new Uint8Array(4 * MIB);
    const next = random(11);
    for (let round = 0; round < 600; round++) {
      const length = 1 + next(next(4) === 0 ? 64 : 9);
      const sector = next(model.length / SECTOR - length);
      const at = sector * SECTOR;
      const bytes = length * SECTOR;
      if (next(2) === 0) {
        const data = new Uint8Array(bytes).fill(next(256));
        model.set(data, at);
        expect(guest.run(OUT, sector, next(3) === 0 ? cut(data, next) : [data]).status).toBe(0);
      } else {
        const read = guest.run(IN, sector, [bytes]);
        expect(read.status).toBe(0);
        const found = guest.d.bytes(read.at[1], bytes);
        if (Buffer.compare(found, model.subarray(at, at + bytes)) !== 0) {
          throw new Error(`round ${round}: ${bytes} bytes at ${at} differ`);
        }
      }
    }
    for (const { descriptor } of files) io.direct(descriptor, 0, 1);
    guest.backend.close();
    closeSync(files[0].direct!.descriptor);
    const written = path("expected-direct");
    writeFileSync(written, model);
    if (qemuMissing !== undefined) return;
    const words = ["compare", "-f", format, "-F", "raw", file, written];
    expect(qemuImg(words)).toMatch(/identical/);
  });
});

test("a file system without direct I/O is refused in a sentence", () => {
  const open = (name: string, flags: number) => {
    if ((flags & constants.O_DIRECT) !== 0) throw Object.assign(new Error(), { code: "EINVAL" });
    return openSync(name, flags);
  };
  const file = path("plain");
  writeFileSync(file, new Uint8Array(MIB));
  expect(() => openVmDisk({ path: file, direct: true }, open)).toThrow(
    `${file}: its file system has no direct I/O`,
  );
});

describe("an image whose format nobody said", () => {
  const MAGIC = new Uint8Array([0x51, 0x46, 0x49, 0xfb]);
  const forged = () => {
    const bytes = new Uint8Array(4096);
    bytes.set(MAGIC);
    return bytes;
  };

  test("can't become a qcow2 image by the guest's hand", () => {
    const file = path("guessed");
    writeFileSync(file, new Uint8Array(MIB));
    const guest = new Guest(openDisk(file), true);
    expect(guest.run(OUT, 0, [forged()]).status).toBe(1);
    expect(guest.run(OUT, 0, cut(forged(), random(3))).status).toBe(1);
    expect(guest.troubles[0]).toMatch(/guessed: the guest wrote a qcow2 header/);
    expect(guest.run(OUT, 1, [forged()]).status).toBe(0);
    expect(guest.run(OUT, 0, [new Uint8Array(8192).fill(6)]).status).toBe(0);
    guest.backend.close();
    const bytes = readFileSync(file);
    expect([bytes[0], bytes[511], bytes[512], bytes[8191]]).toEqual([6, 6, 6, 6]);
  });

  test("... but may if it was said to be raw", () => {
    const file = path("said");
    writeFileSync(file, new Uint8Array(MIB));
    const guest = new Guest(openDisk(file, { format: "raw" }));
    expect(guest.run(OUT, 0, [forged()]).status).toBe(0);
    guest.backend.close();
  });
});

test("a disk that was cut short under the guest gives errors, and a sentence", () => {
  const file = path("short");
  writeFileSync(file, new Uint8Array(MIB));
  const guest = new Guest(openDisk(file, { format: "raw" }));
  truncateSync(file, MIB / 2);
  expect(guest.run(IN, 0, [4096]).status).toBe(0);
  expect(guest.run(IN, 1500, [4096]).status).toBe(1);
  expect(guest.troubles).toEqual([`${file}: the file became shorter`]);
  guest.backend.close();
});

test("a read-only image is not written", () => {
  const file = path("ro");
  writeFileSync(file, new Uint8Array(MIB).fill(8));
  const guest = new Guest(openDisk(file, { format: "raw", readOnly: true }));
  expect(guest.run(OUT, 0, [new Uint8Array(512)]).status).toBe(1);
  expect(guest.run(IN, 0, [512]).status).toBe(0);
  guest.backend.close();
  expect(readFileSync(file).every((byte) => byte === 8)).toBe(true);
});

test("a reset while requests are out waits for them, and a new driver finds a disk in order", () => {
  const file = path("reset");
  createQcow2(file, 8 * MIB);
  const guest = new Guest(openDisk(file, { format: "qcow2" }));
  const next = random(9);
  for (let round = 0; round < 200; round++) {
    for (let i = 0; i < 20; i++) {
      guest.begin(OUT, next(16000), [new Uint8Array(SECTOR * (1 + next(100))).fill(7)]);
      if (next(10) === 0) guest.begin(FLUSH, 0, []);
    }
    guest.d.start([9, INDIRECT_DESC]);
    expect(guest.run(IN, next(16000), [4096]).status).toBe(0);
  }
  expect(guest.troubles).toEqual([]);
  guest.backend.close();
  if (qemuMissing === undefined) qemuImg(["check", file]);
});

test("what the host fails to write is an I/O error of the guest's, and the guest goes on", () => {
  // As good as a full file system, which a test can't have everywhere: a descriptor that fails.
  const file = path("full.qcow2");
  createQcow2(file, 8 * MIB);
  const disk = openDisk(file, { format: "qcow2" });
  const guest = new Guest(disk);
  const { locate } = disk;
  disk.locate = function (offset, length, writing, extent) {
    locate.call(this, offset, length, writing, extent);
    if (writing) extent.descriptor = -1;
  };
  expect(guest.run(OUT, 0, [new Uint8Array(65536)]).status).toBe(1);
  expect(guest.troubles[0]).toMatch(/Bad file descriptor/);
  disk.locate = locate;
  expect(guest.run(OUT, 0, [new Uint8Array(65536).fill(1)]).status).toBe(0);
  expect(guest.run(IN, 0, [512]).status).toBe(0);
  guest.backend.close();
});

/** Whether it is so at once, once in many times: a busy host may make any one of them wait. */
const sometimes = (once: () => boolean) => Array.from({ length: 300 }).some(once);

test("a short request on a cached file is done when the guest goes on", () => {
  const file = path("short");
  writeFileSync(file, new Uint8Array(MIB).fill(7));
  const guest = new Guest(openDisk(file, { format: "raw" }));
  for (const [type, data] of [
    [OUT, new Uint8Array(4096).fill(9)],
    [IN, 4096],
  ] as const) {
    const atOnce = () => {
      const one = guest.begin(type, 8, [data]);
      // Nobody kicks: the answer has to be there already.
      const done = guest.d.used().length === 1;
      if (!done) guest.finish([one]);
      else expect(guest.d.memory.read8(one.at[2])).toBe(0);
      return done;
    };
    expect(sometimes(atOnce)).toBe(true);
  }
  expect(readFileSync(file)[8 * SECTOR]).toBe(9);
  guest.backend.close();
});

test("... and so is a CD-ROM's, which nobody else looks for", () => {
  const file = path("disc");
  writeFileSync(file, new Uint8Array(MIB).fill(3));
  const disk = new DiskBackend(
    openDisk(file, { format: "raw", readOnly: true }),
    image.memory,
    io,
    {
      guessedRaw: false,
      failed: (why) => expect.unreachable(why),
    },
  );
  const disc = new DiscBackend(disk);
  const chain = new Chain(image.memory);
  chain.clear(0);
  chain.add(0x2000, 2048, true, image.memory.locate(0x2000, 2048));
  const atOnce = () => {
    const answers: boolean[] = [];
    disc.read(4096, chain, 0, 2048, (ok) => void answers.push(ok));
    const was = answers.length === 1;
    const end = performance.now() + 20_000;
    while (answers.length === 0 && performance.now() < end) disk.poll();
    expect(answers).toEqual([true]);
    return was;
  };
  expect(sometimes(atOnce)).toBe(true);
  expect(image.memory.read8(0x2000)).toBe(3);
  disk.close();
});
