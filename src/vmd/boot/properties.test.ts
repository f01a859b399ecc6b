/**
 * Malformed files: whatever bytes a loader is given, it loads them or throws a BootError of its
 * own, soon. Each loader gets mutations of files that are valid for it, and random bytes.
 */

import { afterAll, expect, test } from "bun:test";
import fc from "fast-check";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { GENERAL_REGISTERS } from "../../vmm/cpu.ts";
import { GuestMemory } from "../../vmm/memory.ts";
import {
  type Boot,
  BootError,
  type BootFormat,
  classicMemoryMap,
  classicRam,
  extractVmlinux,
  loadKernel,
  romRange,
} from "./index.ts";
import {
  ascii,
  bzImage,
  concat,
  counting,
  elfFile,
  multibootHeader,
  multibootKernel,
  note,
  openBsdKernel,
  vmlinux,
  words,
} from "./testing.ts";

// More cases, or others, by hand: BOOT_CASES=1000000 BOOT_SEED=7 bun test src/vmd/boot/properties
const CASES = Number(process.env.BOOT_CASES ?? 10_000);
const SEED = Number(process.env.BOOT_SEED ?? 5);
const SIZE = 32 * 2 ** 20;
/** A case that takes longer has found work that isn't bounded; most take far below 1 ms. */
const SLOWEST_MS = 2000;
const TIMEOUT_MS = 60_000 + CASES;

const e820 = classicMemoryMap(SIZE);
const memory = GuestMemory.standalone(SIZE);

/** One change to a file. Offsets are fractions of its length, or bytes from its start. */
type Change =
  | { kind: "set"; at: number; bytes: Uint8Array }
  | { kind: "cut"; at: number }
  | { kind: "copy"; from: number; to: number; length: number }
  | { kind: "insert"; at: number; bytes: Uint8Array };

/** What field checks get wrong: limits of widths and signs, sizes of RAM and of structures. */
const EXTREMES = `
  0 1 2 3 4 7 8 0x1f 0x20 0x7f 0x80 0xff 0x100 0x1000 0x2000 0x7000 0x7fff 0x8000 0xf000 0xffff
  0x10000 0x9f000 0x100000 0x1ffffff 0x2000000 0x0fffffff 0x10000000 0x7fffffff 0x80000000
  0xf0000000 0xffffffff 0x100000000 0x10000000000000 0x1fffffffffffff 0x20000000000000
  0x8000000000000000 0xffffffff81000000 0xfffffffffffffff0 0xffffffffffffffff`
  .trim()
  .split(/\s+/)
  .map(BigInt);

const offset = fc.oneof(
  { weight: 3, arbitrary: fc.nat(0x80) },
  { weight: 2, arbitrary: fc.nat(0x300) },
  { weight: 2, arbitrary: fc.nat(0x2000) },
);
const aligned = offset.map((at) => at & ~1);

const extreme = fc
  .tuple(aligned, fc.constantFrom(1, 2, 4, 8), fc.constantFrom(...EXTREMES))
  .map(([at, width, value]): Change => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value, true);
    return { kind: "set", at, bytes: bytes.subarray(0, width) };
  });

const change: fc.Arbitrary<Change> = fc.oneof(
  { weight: 6, arbitrary: extreme },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("set" as const),
      at: offset,
      bytes: fc.uint8Array({ minLength: 1, maxLength: 4 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("cut" as const), at: fc.nat(0x3000) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("copy" as const),
      from: offset,
      to: offset,
      length: fc.nat(64),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("insert" as const),
      at: offset,
      bytes: fc.uint8Array({ maxLength: 16 }),
    }),
  },
);

function apply(file: Uint8Array, changes: readonly Change[]): Uint8Array {
  let bytes: Uint8Array = file.slice();
  for (const c of changes) {
    // Small files: offsets wrap, so that no change is lost.
    const wrap = (at: number) => at % Math.max(bytes.length, 1);
    if (c.kind === "set") {
      const at = wrap(c.at);
      bytes.set(c.bytes.subarray(0, bytes.length - at), at);
    } else if (c.kind === "cut") bytes = bytes.slice(0, wrap(c.at));
    else if (c.kind === "copy") bytes.copyWithin(wrap(c.to), wrap(c.from), wrap(c.from) + c.length);
    else {
      const at = wrap(c.at);
      bytes = concat(bytes.subarray(0, at), c.bytes, bytes.subarray(at));
    }
  }
  return bytes;
}

/** Mutations of `seeds`, and now and then random bytes after a seed's first few. */
function malformed(seeds: Uint8Array[]): fc.Arbitrary<Uint8Array> {
  const mutated = fc
    .tuple(fc.constantFrom(...seeds), fc.array(change, { minLength: 1, maxLength: 5 }))
    .map(([seed, changes]) => apply(seed, changes));
  const random = fc
    .tuple(
      fc.constantFrom(...seeds),
      fc.constantFrom(0, 4, 8, 16),
      fc.uint8Array({ maxLength: 600 }),
    )
    .map(([seed, keep, bytes]) => concat(seed.subarray(0, keep), bytes));
  return fc.oneof({ weight: 9, arbitrary: mutated }, { weight: 1, arbitrary: random });
}

let slowest = 0;
let accepted = 0;
let refused = 0;

/** Runs one case. Only a BootError that no other error hides behind may come out, and soon. */
function survive<T>(run: () => T): T | undefined {
  const start = performance.now();
  const result = attempt(run);
  const took = performance.now() - start;
  slowest = Math.max(slowest, took);
  if (result === undefined) refused++;
  else accepted++;
  expect(took).toBeLessThan(SLOWEST_MS);
  return result;
}

function attempt<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof BootError) || error.cause !== undefined) throw error;
    expect(error.message.length).toBeLessThan(400);
    return undefined;
  }
}

/** What must hold for every file that is accepted. */
function checkBoot(boot: Boot): void {
  const { cpu, rom } = boot;
  for (const name of [...GENERAL_REGISTERS, "cr0", "cr3", "cr4", "efer"] as const) {
    expect(Number.isSafeInteger(cpu[name]) && cpu[name] >= 0).toBe(true);
  }
  if (rom === undefined) {
    expect(memory.contains(boot.entry, 1)).toBe(true);
    expect(cpu.rip).toBe(boot.entry);
    // CS is what its descriptor in the GDT says.
    const high = memory.read32(cpu.gdt.base + cpu.cs.selector + 4);
    expect((high >>> 21) & 1).toBe(cpu.cs.l);
    expect((high >>> 22) & 1).toBe(cpu.cs.db);
    expect(cpu.cs.selector + 7).toBeLessThanOrEqual(cpu.gdt.limit);
  } else {
    expect(rom.base + rom.bytes.length).toBe(2 ** 32);
    expect(rom.bytes.length % 4096).toBe(0);
  }
}

const pvh = elfFile({
  bits: 32,
  entry: 0n,
  segments: [
    { paddr: 0x100000n, bytes: counting(64), memsz: 0x1000 },
    {
      type: 4,
      paddr: 0n,
      bytes: concat(note("GNU", 3, counting(20)), note("Xen", 18, words(0x100000))),
    },
  ],
});
const addressed = concat(
  multibootHeader(0x10003, 0x8000, 0x8000, 0x8100, 0x9000, 0x8020),
  counting(0x200),
);
const freebsd = elfFile({
  osabi: 9,
  entry: 0xffffffff80200010n,
  segments: [{ vaddr: 0xffffffff80200000n, paddr: 0x200000n, bytes: counting(64) }],
});
const netbsd = elfFile({
  entry: 0x200010n,
  segments: [
    { paddr: 0x200000n, bytes: counting(64) },
    { type: 4, paddr: 0n, bytes: note("NetBSD", 1, words(1)) },
  ],
});
const small = bzImage({ kernel: counting(600), initSize: 0x10000 });

const SEEDS: Record<BootFormat, Uint8Array[]> = {
  firmware: [counting(15), counting(5000)],
  linux: [small, bzImage({ kernel: counting(600), xloadflags: 0, version: 0x206, relocatable: 0 })],
  vmlinux: [vmlinux(64), vmlinux(32)],
  pvh: [vmlinux(64), pvh],
  multiboot: [multibootKernel(), addressed],
  openbsd: [openBsdKernel(64), openBsdKernel(32)],
  netbsd: [netbsd],
  freebsd: [freebsd],
};

const TAKES_INITRD: BootFormat[] = ["linux", "vmlinux", "pvh"];

for (const format of Object.keys(SEEDS) as BootFormat[]) {
  const seeds = SEEDS[format];
  const load = (kernel: Uint8Array, chosen: BootFormat | "auto" = format) =>
    loadKernel({
      name: "file",
      kernel,
      memory,
      e820,
      format: chosen,
      random: (into) => void into.fill(1),
      initrd: TAKES_INITRD.includes(chosen as BootFormat) ? counting(100) : undefined,
      modules: chosen === "multiboot" ? [{ name: "m", data: counting(100) }] : undefined,
    });

  test(`${format}: the files that are mutated load`, () => {
    for (const seed of seeds) checkBoot(load(seed));
  });

  test(
    `${format}: malformed files`,
    () => {
      fc.assert(
        fc.property(malformed(seeds), (kernel) => {
          const boot = survive(() => load(kernel));
          if (boot !== undefined) checkBoot(boot);
        }),
        { numRuns: CASES, seed: SEED },
      );
    },
    TIMEOUT_MS,
  );
}

test(
  "malformed files of every kind, the format found out",
  () => {
    const seeds = Object.values(SEEDS).flat();
    fc.assert(
      fc.property(malformed(seeds), (kernel) => {
        const rom = romRange(kernel);
        const boot = survive(() => loadKernel({ name: "file", kernel, memory, e820 }));
        if (boot === undefined) return;
        checkBoot(boot);
        // A machine that was built for the file has the ROM it needs, and no other.
        expect(boot.rom && { base: boot.rom.base, size: boot.rom.bytes.length }).toEqual(rom);
      }),
      { numRuns: CASES, seed: SEED },
    );
  },
  TIMEOUT_MS,
);

test(
  "malformed gzip files",
  () => {
    const packed = [openBsdKernel(32), small].map((file) => new Uint8Array(gzipSync(file)));
    const seeds = [...packed, concat(packed[0], packed[1])];
    fc.assert(
      fc.property(malformed(seeds), (kernel) => {
        survive(() => loadKernel({ name: "file", kernel, memory, e820 }));
      }),
      { numRuns: CASES, seed: SEED },
    );
  },
  TIMEOUT_MS,
);

test(
  "malformed payloads of a bzImage",
  () => {
    const text = ascii("abcabcabcabcabcabcab!!");
    const lz4 = concat(
      words(0x184c2102, 8),
      Uint8Array.of(0x3d, 0x61, 0x62, 0x63, 3, 0, 0x10, 0x21),
      words(2),
      Uint8Array.of(0x10, 0x21),
      words(text.length),
    );
    const zstd = concat(new Uint8Array(zstdCompressSync(text)), words(text.length));
    const seeds = [lz4, lz4, zstd, new Uint8Array(gzipSync(text))];
    const image = (payload: Uint8Array) =>
      bzImage({ kernel: payload, payloadOffset: 0, payloadLength: payload.length });
    for (const seed of seeds) expect(extractVmlinux(image(seed))).toEqual(text);
    fc.assert(
      fc.property(malformed(seeds), (payload) => {
        survive(() => extractVmlinux(image(payload)));
      }),
      { numRuns: CASES, seed: SEED },
    );
  },
  TIMEOUT_MS,
);

test("a memory map covers the memory exactly, in order, without overlap", () => {
  const pages = fc.oneof(
    fc.integer({ min: 256, max: 2 ** 25 }),
    fc.integer({ min: -4, max: 4 }).map((n) => 0xf0000 + n),
  );
  fc.assert(
    fc.property(pages, (count) => {
      const size = count * 4096;
      const map = classicMemoryMap(size);
      for (const [i, entry] of map.entries()) {
        expect(entry.size).toBeGreaterThan(0);
        if (i > 0) expect(entry.base).toBeGreaterThanOrEqual(map[i - 1].base + map[i - 1].size);
      }
      const ranges = classicRam(size);
      // All but the display's window.
      expect(ranges.reduce((sum, range) => sum + range.size, 0x20000)).toBe(size);
      for (const { base, size: length } of map.filter((entry) => entry.type === 1)) {
        expect(ranges.some((r) => base >= r.base && base + length <= r.base + r.size)).toBe(true);
      }
    }),
    { seed: SEED },
  );
});

test("an initrd never overlaps the kernel or what Linux gets in low memory", () => {
  const kernel = bzImage({ initSize: 8 * 2 ** 20 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 24 * 2 ** 20 }), (length) => {
      const initrd = new Uint8Array(length);
      const boot = survive(() => loadKernel({ name: "file", kernel, initrd, memory, e820 }));
      if (boot === undefined) return;
      const at = memory.read32(boot.cpu.rsi + 0x218);
      const end = at + length;
      expect(at % 4096).toBe(0);
      expect(end).toBeLessThanOrEqual(SIZE);
      expect(end <= 0x1000000 ? at >= 0x100000 : at >= 0x1800000).toBe(true);
    }),
    { numRuns: 200, seed: SEED },
  );
});

afterAll(() => {
  if (process.env.BOOT_CASES !== undefined)
    console.log(`slowest ${slowest.toFixed(1)} ms, ${accepted} accepted, ${refused} refused`);
});
