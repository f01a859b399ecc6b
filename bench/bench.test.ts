import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { root } from "../golden/guests/guest.ts";
import { probe } from "../src/vmm/engine.ts";
import { cLoopMissing } from "./c-loop.ts";
import { digits, median, pairs, percentile, row } from "./lib.ts";
import { loopKernel } from "./loop.ts";
import { guestResident, privatePages } from "./private.ts";

setDefaultTimeout(60_000);

const values = fc.array(fc.double({ min: 1e-3, max: 1e6, noNaN: true }), {
  minLength: 1,
  maxLength: 30,
});

function bench(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["bun", "bench/index.ts", ...args], {
    cwd: root,
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

describe("statistics", () => {
  test("half of the values lie on either side of the median", () => {
    fc.assert(
      fc.property(values, (all) => {
        const middle = median(all);
        expect(all.filter((value) => value < middle).length).toBeLessThanOrEqual(all.length / 2);
        expect(all.filter((value) => value > middle).length).toBeLessThanOrEqual(all.length / 2);
      }),
    );
  });

  test("of an even number of values the median is the mean of the two in the middle", () => {
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(median([7])).toBe(7);
  });

  test("a percentile is a value that so many aren't above", () => {
    fc.assert(
      fc.property(values, fc.double({ min: 0.01, max: 1, noNaN: true }), (all, part) => {
        const found = percentile(all, part);
        expect(all).toContain(found);
        const below = (value: number) => all.filter((one) => one <= value).length;
        expect(below(found)).toBeGreaterThanOrEqual(part * all.length - 1e-9);
        expect(all.filter((one) => one < found).length).toBeLessThan(part * all.length);
      }),
    );
  });

  test("a row doesn't depend on the order, and scales with its values", () => {
    fc.assert(
      fc.property(values, (all) => {
        const { min, median: middle, max, rounds } = row("r", "s", all);
        expect(row("r", "s", all.toReversed())).toEqual(row("r", "s", all));
        expect(rounds).toBe(all.length);
        expect(min <= middle && middle <= max).toBe(true);
        expect(
          row(
            "r",
            "s",
            all.map((value) => value * 2),
          ).median,
        ).toBe(middle * 2);
      }),
    );
  });

  test("pairs alternate, and a host that slows both down changes no ratio", async () => {
    await fc.assert(
      fc.asyncProperty(values, async (slowness) => {
        const order: string[] = [];
        const taking = (name: string, time: number) => () => {
          order.push(name);
          return time * slowness[(order.length - 1) >> 1];
        };
        const { ratios } = await pairs(slowness.length, taking("a", 3), taking("b", 4));
        expect(order.join("")).toBe("ab".repeat(slowness.length));
        for (const ratio of ratios) expect(ratio).toBeCloseTo(0.75, 9);
      }),
    );
  });

  test("figures are printed to three digits", () => {
    expect([0.99749, 41.234, 12345.6].map(digits)).toEqual(["0.997", "41.2", "12346"]);
  });
});

test("private pages: those of all mappings but the guest's memory, written or of no file", () => {
  const smaps = [
    "00200000-01a40000 r--p 00000000 00:20 7   /usr/bin/bun",
    "Size:              24832 kB",
    "Shared_Clean:        900 kB",
    "Private_Clean:       100 kB",
    "Private_Dirty:         0 kB",
    "7fa4aaa20000-7fa4baa20000 rw-s 00000000 00:01 9   /memfd:machine (deleted)",
    "Private_Dirty:     99816 kB",
    "7fa300000000-7fa400000000 rw-p 00000000 00:00 0",
    "Private_Clean:         0 kB",
    "Private_Dirty:        28 kB",
  ].join("\n");
  const cached = 100 * 1024;
  expect(privatePages(smaps, 256 * 2 ** 20)).toEqual({ own: 28 * 1024, cached });
  expect(privatePages(smaps, 0)).toEqual({ own: (28 + 99816) * 1024, cached });
});

test("a restored guest's memory: the file's mappings, and what lies around them", () => {
  const mapping = (place: string, rss: number, flags: string) => [
    place,
    `Rss:                  ${rss} kB`,
    `VmFlags: rd wr mr mw me ${flags}`,
  ];
  const smaps = [
    ...mapping("10000000-10200000 rw-p 00000000 00:00 0", 3, "ac sd"),
    ...mapping("10200000-10400000 rw-p 00000000 00:00 0", 5, "nr dd hg"),
    ...mapping("10400000-10500000 rw-p 00001000 00:20 7   /tmp/a.snap", 7, "dd"),
    ...mapping("10500000-10600000 rw-p 00000000 00:00 0", 11, "nr dd hg"),
    ...mapping("10600000-10700000 rw-p 00201000 00:20 7   /tmp/a.snap", 13, "dd"),
    ...mapping("10700000-10800000 rw-p 00000000 00:00 0", 17, "dd"),
    ...mapping("10900000-10a00000 rw-p 00000000 00:00 0", 19, "dd"),
  ].join("\n");
  expect(guestResident(smaps, "/tmp/a.snap")).toBe((5 + 7 + 11 + 13 + 17) * 1024);
  expect(guestResident(smaps, "/tmp/b.snap")).toBe(0);
});

test("the loop's kernel begins with a Multiboot header, and its jumps stay in it", () => {
  const bytes = loopKernel("out", 1000);
  const view = new DataView(bytes.buffer);
  const sum = [0, 4, 8].reduce((total, at) => total + view.getUint32(at, true), 0);
  expect(sum % 2 ** 32).toBe(0);
  // The last instruction jumps to the first, which follows the header.
  expect(bytes.length + view.getInt32(bytes.length - 4, true)).toBe(32);
});

describe("bun bench", () => {
  test("lists what there is", () => {
    const { code, out, err } = bench();
    expect({ code, err }).toEqual({ code: 0, err: "" });
    for (const name of ["exit", "boot", "footprint", "kvm_ts_over_c", "private_mib"]) {
      expect(out).toContain(name);
    }
  });

  test("says in one sentence what it doesn't know", () => {
    for (const args of [["nothing"], ["exit", "nothing"], ["exit", "--rounds", "0"]]) {
      const { code, out, err } = bench(...args);
      expect({ code, out }).toEqual({ code: 1, out: "" });
      expect(err).toMatch(/^bench: [^\n]+\n$/);
    }
  });

  test.skipIf(!probe("unicorn").available || cLoopMissing() !== undefined)(
    "--json prints one object and nothing else",
    () => {
      const wanted = ["unicorn_out_ns", "unicorn_c_out_ns", "unicorn_mmio_ns"];
      const { code, out, err } = bench("exit", ...wanted, "--rounds", "1", "--json");
      expect({ code, err }).toEqual({ code: 0, err: "" });
      const report = JSON.parse(out);
      expect(report).toEqual({
        bench: "exit",
        machine: {
          cpu: expect.any(String),
          cores: expect.any(Number),
          kernel: expect.any(String),
          bun: Bun.version,
        },
        rows: wanted.map((name) => {
          const median = expect.any(Number);
          return { name, unit: "ns", median, min: median, max: median, rounds: 1 };
        }),
      });
      for (const { min, median: middle, max } of report.rows) {
        expect(min > 0 && min === middle && middle === max).toBe(true);
      }
    },
  );

  test("a peer that isn't there leaves its rows out, and says so", () => {
    const { exitCode, stdout, stderr } = Bun.spawnSync(
      [process.execPath, "bench/index.ts", "boot", "--json"],
      { cwd: root, env: { ...process.env, PATH: "/nonexistent" } },
    );
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout.toString()).rows).toEqual([]);
    expect(stderr.toString()).toMatch(
      /^bench: left out unicorn_over_qemu_tcg, [^\n]+\.\nbench: left out lab_[^\n]+\n$/,
    );
  });
});
