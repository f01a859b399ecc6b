// Linux guests: the worked examples of examples/fuzz, a parser in a process, and a file system.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildDns, buildMount, DNS_QUERY } from "../../examples/fuzz/build.ts";
import { linuxAmd64 } from "../../golden/guests/index.ts";
import { probe } from "../../src/vmm/engine.ts";
import { Campaign, type Crash } from "../campaign/index.ts";
import { Verdict } from "../executor.ts";
import { buildMissing } from "../harness/build.ts";
import { GuestExecutor } from "./executor.ts";
import type { GuestOptions } from "./options.ts";
import { imageOf } from "./symbols.ts";

const unicorn = probe("unicorn");
const why = unicorn.available ? (buildMissing() ?? linuxAmd64.missing()) : unicorn.why;
if (why !== undefined) console.log(`fuzzing Linux guests skipped: ${why}`);
const MEMORY = 96 * 2 ** 20;
/** Found in 3,000 to 25,000 runs with the seeds 1 to 5. */
const RUNS = 100_000;

let folder = "";
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), "fuzz-linux-"))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function open(options: Partial<GuestOptions>): Promise<GuestExecutor> {
  return new GuestExecutor({ file: await linuxAmd64.kernel(), memory: MEMORY, ...options });
}

describe.skipIf(why !== undefined)("a Linux guest", () => {
  test("its process is fuzzed, and the planted bug found", async () => {
    const { program, initrd } = await buildDns(folder);
    const cmdline = "console=ttyS0 rdinit=/bin/dns -- fuzz";
    const executor = await open({ initrd, cmdline, symbols: [program] });
    try {
      expect(executor.maxInput).toBe(512);
      expect(executor.run(DNS_QUERY, DNS_QUERY.length)).toBe(Verdict.DONE);
      const cost = executor.cost();
      // "a." again and again: a pointer to the label before it.
      const endless = Uint8Array.from([...DNS_QUERY.subarray(0, 12), 1, 97, 0xc0, 12, 0, 1, 0, 1]);
      expect(executor.run(endless, endless.length)).toBe(Verdict.CRASH);
      expect(executor.crash()?.text).toBe("the guest reports 0xb");
      expect(executor.crash()?.stack[0]).toStartWith("read_message+");
      expect(executor.run(DNS_QUERY, DNS_QUERY.length)).toBe(Verdict.DONE);
      expect(executor.cost()).toBe(cost);

      // Where a disassembler has the file's first byte: its code begins a page later.
      const { base, end } = imageOf(program) as { base: bigint; end: bigint };
      expect(base).toBe(0x400000n);
      const [block] = executor.blocks(DNS_QUERY, DNS_QUERY.length);
      expect(block.address).toBeGreaterThanOrEqual(base + 0x1000n);
      expect(block.address).toBeLessThan(end);

      const crashes: Crash[] = [];
      const finds = { crashed: (crash: Crash) => void crashes.push(crash) };
      const campaign = new Campaign({ executor, seed: 1, seeds: [DNS_QUERY], finds });
      campaign.begin();
      for (let runs = 500; crashes.length === 0 && runs < RUNS; runs += 500) campaign.advance(runs);
      expect(crashes[0].report).toMatchObject({ kind: "hypercall" });
      expect(crashes[0].report.stack[0]).toStartWith("read_message+");
      const { repeated, repeatedEqual } = campaign.counts();
      expect(repeated).toBeGreaterThan(0);
      expect(repeatedEqual).toBe(repeated);
      const { checked, equal } = executor.fidelity;
      expect(checked).toBeGreaterThan(0);
      expect(equal).toBe(checked);
    } finally {
      executor.close();
    }
  }, 60_000);

  test("its kernel mounts what the disk has in each run", async () => {
    const initrd = await buildMount(folder);
    const disk = join(folder, "disk.img");
    writeFileSync(disk, new Uint8Array(65_536));
    const executor = await open({
      ...{ initrd, disks: [disk], cmdline: "console=ttyS0 fs=ext4" },
      ...{ input: "disk:0,2048", start: "ready", verify: 1, budget: 4_000_000 },
    });
    try {
      const plain = new Uint8Array(2048);
      // ext4's magic number, with the rest of the superblock 0: other code says that it's bad.
      const super_ = plain.slice();
      super_.set([0x53, 0xef], 0x438);
      const hashes = [plain, super_, plain, super_].map((input) => {
        expect(executor.run(input, input.length)).toBe(Verdict.DONE);
        return executor.coverageHash();
      });
      expect(hashes[2]).toBe(hashes[0]);
      expect(hashes[3]).toBe(hashes[1]);
      expect(hashes[1]).not.toBe(hashes[0]);
      expect(executor.machine.printed).toContain("EXT4-fs (vda)");
      expect(executor.cost()).toBeGreaterThan(1000);
      expect(executor.fidelity).toEqual({ checked: 4, equal: 4 });
    } finally {
      executor.close();
    }
  }, 60_000);
});
