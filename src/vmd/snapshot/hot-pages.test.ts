/** What a guest touched before its snapshot, in the file; and early in memory when it goes on. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PAGE, RecordType, type Run } from "../../vmm/snapshot/format.ts";
import { decodeHotPages } from "../../vmm/snapshot/hot-pages.ts";
import { usedPages } from "../../vmm/snapshot/machine-memory.ts";
import { SnapshotReader } from "../../vmm/snapshot/reader.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import { Capability } from "../../vmm/engine.ts";
import { openBootFiles } from "../boot-files.ts";
import { checkVmOptions, type VcpuOptions } from "../vm-options.ts";
import { VmLife } from "../vm-life.ts";
import { Vm } from "../vm.ts";
import { newId, snapshotConfig } from "./restored.ts";
import { restoreLife, waitFor } from "./restore-life.ts";
import { machineConfig, quiesce, saveHotPages, saveMemory, saveState } from "./save.ts";
import { SnapshotTaker, type TakeRequest } from "./taker.ts";

setDefaultTimeout(60_000);
const MIB = 2 ** 20;
const WINDOW = 20;
const engine = process.env.VMD_LAB === undefined ? ("unicorn" as const) : ("kvm" as const);
const devices = { flush: () => {}, states: () => [], rebase: () => {} };
const lifeHost = { output: () => {}, debug: () => {} };
let folder = "";
let options: VcpuOptions;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "hot-"));
  // Reads page 0x50 once; then it reads page 0x30, writes page 0x40 and reads the timer, for ever.
  const code = Uint8Array.fromHex(
    "b80050 8ed8 a00000 b80030 8ed8 a00000 b80040 8ed8 ff060000 e440 ebeb".replaceAll(" ", ""),
  );
  const firmware = new Uint8Array(4096).fill(0xf4);
  firmware.set(code);
  firmware.set([0xe9, 0x0d, 0xf0], 0xff0);
  const kernel = join(folder, "firmware");
  writeFileSync(kernel, firmware);
  options = checkVmOptions({ name: "hot", kernel, memory: "16M", engine });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A machine whose memory holds something everywhere, and which is past its beginning. */
function boot(): VmLife {
  const files = openBootFiles(options);
  try {
    const life = VmLife.boot(engine, options, files, lifeHost);
    life.image.memory.fill(0x10000, 0x80000, 7);
    for (let page = MIB / PAGE; page < (16 * MIB) / PAGE; page++) {
      life.image.memory.write32(page * PAGE, page);
    }
    run(life, 100);
    return life;
  } finally {
    closeSync(files.kernel.descriptor);
  }
}

function run(life: VmLife, exits: number): void {
  life.vcpu.limit = life.vcpu.exits + exits;
  expect(life.vcpu.run()).toEqual({ kind: "attention" });
}

let files = 0;

/** Takes a snapshot while the guest runs. @returns its file */
function take(life: VmLife, more: Partial<TakeRequest> = {}): string {
  const path = join(folder, `taken-${files++}`);
  const taker = new SnapshotTaker(-1, waitFor);
  let taken = taker.take(life, requestOf(more), [openSync(path, "w")], devices);
  while (taken === undefined) {
    run(life, 20);
    const next = taker.step(false);
    if (typeof next !== "number") taken = next;
  }
  expect(taken.result.failure).toBeUndefined();
  return path;
}

function requestOf(more: Partial<TakeRequest>): TakeRequest {
  const config = JSON.stringify({ id: newId() });
  const request = { config, compress: false, differential: false, template: false, overlays: [] };
  return { ...request, stop: false, window: WINDOW, ...more };
}

/** The numbers of its hot pages; undefined: it doesn't say. */
function hotPages(path: string, { image }: VmLife): number[] | undefined {
  const descriptor = openSync(path, "r");
  const reader = new SnapshotReader(new FileSource(descriptor));
  let runs: readonly Run[] | undefined;
  for (let record = reader.next(); record !== undefined; record = reader.next()) {
    if (record.head.type !== RecordType.HOT) continue;
    runs = decodeHotPages(record.payload, image.memory.ranges);
  }
  closeSync(descriptor);
  return runs?.flatMap(({ page, count }) => Array.from({ length: count }, (_, i) => page + i));
}

/** Of the first MiB, and no ROM. */
const low = (pages: readonly number[] | undefined) => pages?.filter((page) => page < 0xa0);

describe(`hot pages on ${engine}`, () => {
  test("are those that the guest touches before its snapshot, not what it touched long ago", () => {
    using life = boot();
    const sees = life.engine.can(Capability.TOUCHED);
    const pages = hotPages(take(life), life);
    // KVM tells what was written.
    expect(low(pages)).toEqual(sees ? [0x30, 0x40] : [0x40]);
    expect(pages!.filter((page) => page >= MIB / PAGE && page < (16 * MIB) / PAGE)).toEqual([]);
    // What it runs, in ROM.
    expect(pages!.some((page) => page > 0xa0)).toBe(sees);
    // It goes on without anybody noting.
    expect(life.dirty.followed).toBe(false);
    expect(low(hotPages(take(life), life))).toEqual(low(pages));
  });

  test("are in a live and in a compressed one, too", () => {
    using life = boot();
    expect(low(hotPages(take(life, { compress: true }), life))).toContain(0x40);
    const pages = hotPages(take(life, { downtime: 100 }), life);
    expect(low(pages)).toContain(0x40);
    expect(low(pages)).not.toContain(0x50);
  });

  test("are not in one of a guest that stands still, nor where nobody asks for them", () => {
    using life = boot();
    const path = join(folder, "still");
    const taker = new SnapshotTaker(-1, waitFor);
    const out = openSync(path, "w");
    expect(taker.take(life, requestOf({ window: 60_000 }), [out], devices)).toBeUndefined();
    expect(taker.step(false)).toBeGreaterThan(1000);
    const taken = taker.step(true);
    expect(typeof taken === "number" ? taken : taken.result.failure).toBeUndefined();
    expect(hotPages(path, life)).toBeUndefined();
    expect(hotPages(take(life, { window: undefined }), life)).toBeUndefined();
  });

  test("are looked for no longer when something else comes, and not at all after the end", () => {
    using life = boot();
    const taker = new SnapshotTaker(-1, waitFor);
    const begin = (path: string) => {
      const out = openSync(join(folder, path), "w");
      return taker.take(life, requestOf({ window: 60_000 }), [out], devices);
    };
    expect(taker.hurry()).toBeUndefined();
    expect(begin("first")).toBeUndefined();
    run(life, 50);
    expect(begin("second")?.result.failure).toContain("one is being written already");
    expect(taker.hurry()?.result.failure).toBeUndefined();
    expect(low(hotPages(join(folder, "first"), life))).toContain(0x40);
    expect(begin("third")).toBeUndefined();
    expect(taker.abandon("it ended")?.result.failure).toBe("no snapshot: it ended");
    expect(taker.pending).toBe(false);
    expect(life.dirty.followed).toBe(false);
    // Who asks next can.
    expect(low(hotPages(take(life), life))).toContain(0x40);
  });
});

const PRESENT = 1n << 63n;
/** Whether pages are mapped in this process: Documentation/admin-guide/mm/pagemap.rst. */
function present({ image }: VmLife): (page: number) => boolean {
  const pagemap = openSync("/proc/self/pagemap", "r");
  const mapped = new Set<number>();
  for (const { base, size, host } of image.memory.ranges) {
    const entries = new BigUint64Array(size / PAGE);
    readSync(pagemap, entries, 0, entries.byteLength, (host / PAGE) * 8);
    for (const [index, entry] of entries.entries()) {
      if ((entry & PRESENT) !== 0n) mapped.add(base / PAGE + index);
    }
  }
  closeSync(pagemap);
  return (page) => mapped.has(page);
}

/** The machine of a snapshot, or of one and those that are based on it. */
function restore(path: string | readonly string[], from: VmLife, prefetch: boolean): VmLife {
  const files = [path].flat().map((one) => openSync(one, "r"));
  const inputs = files.map(() => ({ stream: false, verify: false }));
  const description = { ...machineConfig(from), inputs, prefetch };
  return restoreLife(engine, options, description, lifeHost, files);
}

/** Writes a snapshot whose hot pages are these. */
function write(life: VmLife, name: string, hot = usedPages(life.image, -1)): string {
  const path = join(folder, name);
  const out = openSync(path, "w");
  const writer = new SnapshotWriter((bytes) => void writeSync(out, bytes));
  quiesce(life);
  writer.json(RecordType.CONFIG, { ...snapshotConfig(options, newId()), ...machineConfig(life) });
  saveMemory(life, writer, { pagemap: -1 });
  saveHotPages(life, writer, hot, -1);
  saveState(life, writer);
  life.machine.proceed();
  closeSync(out);
  return path;
}

describe(`a restore with prefetch on ${engine}`, () => {
  test("has those pages before the guest runs, and the memory that there was", async () => {
    using life = boot();
    const hot = usedPages(life.image, -1);
    hot.clear();
    const first = MIB / PAGE;
    for (const page of [first + 100, first + 500, first + 3000]) hot.add(page * PAGE, 3 * PAGE);
    const path = write(life, "three", hot);
    using lazy = restore(path, life, false);
    expect(lazy.prefetched).toBeUndefined();
    using early = restore(path, life, true);
    expect(early.prefetched).toBe(9);
    while (early.image.prefetching) await Bun.sleep(1);
    const [there, not] = [present(early), present(lazy)];
    for (const page of [100, 101, 102, 500, 502, 3000, 3002].map((one) => first + one)) {
      expect([page, there(page), not(page)]).toEqual([page, true, false]);
    }
    // Nor what nobody asked for, further away than a fault reaches.
    for (const page of [300, 1000, 2500, 3500].map((one) => first + one)) {
      expect([page, there(page)]).toEqual([page, false]);
    }
    for (const one of [early, lazy]) {
      run(one, 50);
      for (let page = first; page < (16 * MIB) / PAGE; page++) {
        if (one.image.memory.read32(page * PAGE) !== page) throw new Error(`page ${page}`);
      }
      expect(one.image.memory.read8(0x30001)).toBe(7);
    }
  });

  test("without a record is a restore like others", () => {
    using life = boot();
    const path = take(life, { window: undefined });
    using copy = restore(path, life, true);
    expect(copy.prefetched).toBeUndefined();
    expect(copy.image.prefetching).toBe(false);
    run(copy, 50);
  });

  test("of a compressed one has nothing to do: all is read", () => {
    using life = boot();
    using copy = restore(take(life, { compress: true }), life, true);
    expect(copy.prefetched).toBe(0);
    run(copy, 50);
  });

  test("of a differential one is of what the last says", () => {
    using life = boot();
    const taker = new SnapshotTaker(-1, waitFor);
    const ids = [newId(), newId()];
    const paths = ids.map((id, place) => {
      const path = join(folder, `link-${place}`);
      const base = place === 0 ? undefined : { id: ids[0] };
      const config = JSON.stringify({ id, base });
      const request = requestOf({ config, differential: true, window: 60_000 });
      expect(taker.take(life, request, [openSync(path, "w")], devices)).toBeUndefined();
      if (place === 1) run(life, 50);
      const taken = taker.step(true);
      if (typeof taken === "number") throw new Error("not taken");
      expect([taken.result.failure, taken.result.differential]).toEqual([undefined, place === 1]);
      return path;
    });
    expect(hotPages(paths[0], life)).toBeUndefined();
    using copy = restore(paths, life, true);
    expect(copy.prefetched).toBe(hotPages(paths[1], life)!.length);
    run(copy, 50);
  });

  test("works in a VM's process, confined", async () => {
    using life = boot();
    const path = write(life, "all");
    const mapped = async (prefetch: boolean, least: number) => {
      await using vm = await Vm.restore(path, {}, { prefetch });
      expect(vm.unconfined === "" || vm.unconfined.startsWith("sandbox without")).toBe(true);
      if (prefetch) expect(vm.prefetched).toBeGreaterThanOrEqual((15 * MIB) / PAGE);
      else expect(vm.prefetched).toBeUndefined();
      for (let look = 0; ; look++) {
        const bytes = residentOf(vm.pid, path);
        if (bytes >= least || look === 100) return bytes;
        await Bun.sleep(20);
      }
    };
    expect(await mapped(true, 15 * MIB)).toBeGreaterThanOrEqual(15 * MIB);
    expect(await mapped(false, 0)).toBeLessThan(2 * MIB);
  });
});

test("what comes while a guest is looked at waits for no window, and nothing is lost", async () => {
  using life = boot();
  const path = write(life, "several");
  await using vm = await Vm.restore(path);
  const at = (name: string) => join(folder, `several-${name}`);
  const both = await Promise.all([vm.snapshot(at("a")), vm.snapshot(at("b"))]);
  expect(both.map(({ bytes }) => bytes > MIB)).toEqual([true, true]);
  const last = vm.snapshot(at("c"));
  const ending = vm.stop();
  expect((await last).bytes).toBeGreaterThan(MIB);
  expect((await ending).kind).toBe("stopped");
  for (const name of ["a", "b", "c"]) {
    await using copy = await Vm.restore(at(name), {}, { verify: true });
    expect(copy.engine).toBe(engine);
  }
});

/** Bytes of a file's mappings that a process has. */
function residentOf(pid: number, path: string): number {
  let bytes = 0;
  let inside = false;
  for (const line of readFileSync(`/proc/${pid}/smaps`, "utf8").split("\n")) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) inside = line.endsWith(path);
    else if (inside) bytes += 1024 * Number(/^Rss:\s+(\d+) kB$/.exec(line)?.[1] ?? 0);
  }
  return bytes;
}
