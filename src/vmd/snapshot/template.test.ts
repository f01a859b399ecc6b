/** Templates of copies: with what changed since, one is what its machine is, whoever wrote. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MachineImage } from "../../vmm/image.ts";
import { hostLibrary, NativeError } from "../../vmm/native.ts";
import { PAGE } from "../../vmm/snapshot/format.ts";
import { openProgress, ProgressSource } from "../../vmm/snapshot/progress.ts";
import { FileSource } from "../../vmm/snapshot/sources.ts";
import { openBootFiles } from "../boot-files.ts";
import { random } from "../disk/testing.ts";
import { memoryRanges } from "../machine.ts";
import { rehearse } from "../rehearsal.ts";
import { checkVmOptions, type VcpuOptions } from "../vm-options.ts";
import { VmLife } from "../vm-life.ts";
import { loadSnapshots } from "./load.ts";
import { newId } from "./restored.ts";
import { waitFor } from "./restore-life.ts";
import { SnapshotTaker } from "./taker.ts";

const ROUNDS = 60;
const engine = process.env.VMD_LAB === undefined ? ("unicorn" as const) : ("kvm" as const);
const devices = { flush: () => {}, states: () => [], rebase: () => {} };
let folder = "";
let options: VcpuOptions;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "template-"));
  // Counts in one of 128 places, by a linear congruential generator, and reads the timer.
  const code = Uint8Array.fromHex(
    "69c96d4e 81c13930 89c8 25007f 050010 8ed8 ff060005 e440 ebe6".replaceAll(" ", ""),
  );
  const firmware = new Uint8Array(4096).fill(0xf4);
  firmware.set(code);
  firmware.set([0xe9, 0x0d, 0xf0], 0xff0);
  const kernel = join(folder, "firmware");
  writeFileSync(kernel, firmware);
  options = checkVmOptions({ name: "copied", kernel, memory: "1M", engine });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function boot(): VmLife {
  const host = { output: () => {}, debug: () => {} };
  const files = openBootFiles(options);
  try {
    return VmLife.boot(engine, options, files, host);
  } finally {
    closeSync(files.kernel.descriptor);
  }
}

function run(life: VmLife, exits: number): void {
  life.vcpu.limit = life.vcpu.exits + exits;
  expect(life.vcpu.run()).toEqual({ kind: "attention" });
}

/** A file in memory, and how it is read. */
function file(): { out: number; again: number } {
  const out = hostLibrary().vmm_memory_file(0);
  return { out, again: openSync(`/proc/self/fd/${out}`, "r") };
}

class Taken implements Disposable {
  readonly id = newId();
  readonly differential: boolean;
  readonly pages: number;
  readonly file: number;

  constructor(taker: SnapshotTaker, life: VmLife, base?: string, template = true) {
    const { out, again } = file();
    const config = JSON.stringify({ id: this.id, base: base && { id: base } });
    const request = { config, compress: false, differential: true, template, overlays: [] };
    const taken = taker.take(life, { ...request, stop: false }, [out], devices);
    const { result } = taken as NonNullable<typeof taken>;
    expect(result.failure).toBeUndefined();
    this.file = again;
    ({ differential: this.differential, pages: this.pages } = result);
  }

  [Symbol.dispose](): void {
    closeSync(this.file);
  }
}

/** Whether a machine that goes on from these has another's memory. */
function expectSame(life: VmLife, parts: readonly Taken[]): void {
  using image = new MachineImage(memoryRanges(options.memory, life.rom));
  loadSnapshots(
    image,
    parts.map((part) => ({ source: new FileSource(part.file), file: part.file, verify: false })),
  );
  expect(digest(image)).toEqual(digest(life.image));
}

/** Of its memory, by ranges. */
function digest({ memory }: MachineImage): bigint[] {
  return memory.ranges.flatMap(({ base, size }) =>
    [...memory.bytes(base, size)].map((bytes) => Bun.hash.xxHash3(bytes)),
  );
}

test("a template and what changed since are the machine, after any writes", () => {
  const next = random(7);
  const taker = new SnapshotTaker(-1, waitFor);
  using life = boot();
  const { memory } = life.image;
  let base: Taken | undefined;
  let last: Taken | undefined;
  let based = 0;
  for (let round = 0; round < ROUNDS; round++) {
    if (next(4) > 0) run(life, 1 + next(30));
    const page = 0x10000 + next(128) * PAGE;
    const kind = next(5);
    if (kind === 0) memory.write(page + next(PAGE), Uint8Array.of(next(256)));
    else if (kind === 1) memory.fill(page, 2 * PAGE, next(256));
    else if (kind === 2) memory.discard(page, PAGE);
    else if (kind === 3) {
      for (const bytes of memory.bytes(page, PAGE)) bytes[next(PAGE)] ^= 1;
      memory.written(page, PAGE);
    }
    // Who takes snapshots of the other kind changes nothing for copies.
    if (next(4) === 0) {
      const other = new Taken(taker, life, last?.id, false);
      expect(other.differential).toBe(last !== undefined);
      last?.[Symbol.dispose]();
      last = other;
    }
    if (next(12) === 0) {
      taker.forgetTemplate();
      base?.[Symbol.dispose]();
      base = undefined;
    }
    const taken = new Taken(taker, life, base?.id);
    expect(taken.differential).toBe(base !== undefined);
    expectSame(life, base === undefined ? [taken] : [base, taken]);
    if (base === undefined) base = taken;
    else {
      based++;
      taken[Symbol.dispose]();
    }
  }
  expect(based).toBeGreaterThan(ROUNDS / 2);
  base?.[Symbol.dispose]();
  last?.[Symbol.dispose]();
});

describe("who reads while it is written", () => {
  const never = () => {
    throw new Error("waits");
  };
  const ask = (taker: SnapshotTaker, life: VmLife, base?: string, more = {}) => {
    const { out, again } = file();
    const [own, tells] = openProgress();
    const config = JSON.stringify({ id: newId(), base: base && { id: base } });
    const request = { config, compress: false, differential: true, template: true, told: true };
    const given = { ...request, overlays: [], stop: false };
    const taken = taker.take(life, given, [out, tells], { ...devices, ...more });
    const source = new ProgressSource(again, own, { wait: never, most: Infinity });
    return { source, file: again, own, result: taken!.result };
  };
  const close = ({ file, own }: ReturnType<typeof ask>) => {
    closeSync(file);
    closeSync(own);
  };

  test("is told all of a template that is based on another", () => {
    const taker = new SnapshotTaker(-1, waitFor);
    using life = boot();
    using base = new Taken(taker, life);
    for (let round = 0; round < 3; round++) {
      run(life, 200);
      const told = ask(taker, life, base.id);
      expect(told.result).toMatchObject({ differential: true });
      expect(told.result.pages).toBeGreaterThan(50);
      using image = new MachineImage(memoryRanges(options.memory, life.rom));
      const first = { source: new FileSource(base.file), file: base.file, verify: false };
      loadSnapshots(image, [first, { ...told, verify: false, eager: true }]);
      expect(digest(image)).toEqual(digest(life.image));
      close(told);
    }
  });

  test("is told nothing of one that stands alone", () => {
    const taker = new SnapshotTaker(-1, waitFor);
    using life = boot();
    using base = new Taken(taker, life);
    taker.forgetTemplate();
    const told = ask(taker, life, base.id);
    expect(told.result.differential).toBe(false);
    expect(() => told.source.read(new Uint8Array(1))).toThrow("waits");
    close(told);
  });

  test("never hears of its end where that failed", () => {
    const taker = new SnapshotTaker(-1, waitFor);
    using life = boot();
    using base = new Taken(taker, life);
    const open = readdirSync("/proc/self/fd").length;
    const rebase = () => {
      throw new NativeError("another image", -5);
    };
    const told = ask(taker, life, base.id, { rebase });
    expect(told.result.failure).toContain("another image");
    using image = new MachineImage(memoryRanges(options.memory, life.rom));
    expect(() => loadSnapshots(image, [{ ...told, verify: false }])).toThrow("waits");
    close(told);
    expect(readdirSync("/proc/self/fd").length).toBe(open);
  });
});

test("of a machine that stands still only registers are written", () => {
  const taker = new SnapshotTaker(-1, waitFor);
  using life = boot();
  run(life, 100);
  using base = new Taken(taker, life);
  using same = new Taken(taker, life, base.id);
  expect([base.differential, same.differential, same.pages]).toEqual([false, true, 0]);
  expect(base.pages).toBeGreaterThan(16);
  expectSame(life, [base, same]);
});

test("no template is based on one of another life, or that is another, or forgotten", () => {
  const taker = new SnapshotTaker(-1, waitFor);
  using first = boot();
  using base = new Taken(taker, first);
  run(first, 50);
  using second = boot();
  for (const [life, id] of [
    [first, newId()],
    [second, base.id],
  ] as const) {
    using taken = new Taken(taker, life, id);
    expect(taken.differential).toBe(false);
    expectSame(life, [taken]);
  }
  using again = new Taken(taker, second);
  taker.forgetTemplate();
  expect(second.dirty.followed).toBe(false);
  using late = new Taken(taker, second, again.id);
  expect(late.differential).toBe(false);
  expectSame(second, [late]);
});

test("a rehearsal runs a machine that was restored, and leaves nothing open", () => {
  const open = () => readdirSync("/proc/self/fd").length;
  rehearse(engine);
  const before = open();
  expect(rehearse(engine)).toBeGreaterThan(100);
  expect(open()).toBe(before);
});
