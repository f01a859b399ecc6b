/**
 * Disks: a guest reads and writes one with O_DIRECT, at depth 1 and 32; the same guest on the same raw
 * file on QEMU. Ratios are throughputs, ours to QEMU's: 1 or more is as fast.
 *
 * The file lies in the host's page cache on both sides: what is measured is the way there.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { linuxAmd64 } from "../golden/guests/index.ts";
import { labMissing, runInLab } from "../lab/index.ts";
import { probe } from "../src/vmm/engine.ts";
import type { Benchmark, Measurement } from "./lib.ts";
import { BARE, QEMU, qemuMissing } from "./qemu.ts";
import {
  type Case,
  caseSeconds,
  labEnvironment,
  loadGuest,
  loadMissing,
  loadPairs,
  loadProgram,
  loadResults,
  loadRows,
  type LoadRuns,
  outputOf,
} from "./virtio.ts";
import { VCTL } from "./watched.ts";

/** Bytes of the disk. */
const SIZE = 256 * 2 ** 20;
const SECONDS = caseSeconds(0.7);

const blk = (name: string, ...words: (string | number)[]): Case => ({
  name,
  command: ["blk", "/dev/vda", ...words, SECONDS].join(" "),
});

export const CASES: readonly Case[] = [
  blk("seqread", "read", "seq", 2 ** 20, 1),
  blk("seqread_qd32", "read", "seq", 65_536, 32),
  blk("seqwrite", "write", "seq", 2 ** 20, 1),
  blk("seqwrite_qd32", "write", "seq", 65_536, 32),
  blk("randread4k", "read", "rand", 4096, 1),
  blk("randread4k_qd32", "read", "rand", 4096, 32),
  blk("randwrite4k", "write", "rand", 4096, 1),
  blk("randwrite4k_qd32", "write", "rand", 4096, 32),
];

/** Both contenders on one file. @param accel QEMU's words for how it runs code */
export async function measureBlk(
  rounds: number,
  engine: "unicorn" | "kvm",
  accel: readonly string[],
  cmdline = "",
): Promise<LoadRuns> {
  const folder = mkdtempSync(join(process.env.VMD_BENCH_FOLDER ?? tmpdir(), "blk-"));
  try {
    const disk = join(folder, "disk.img");
    const part = crypto.getRandomValues(new Uint8Array(65_536));
    const bytes = new Uint8Array(SIZE);
    for (let at = 0; at < SIZE; at += part.length) bytes.set(part, at);
    writeFileSync(disk, bytes);
    const guest = await loadGuest("bench-blk", ["virtio_blk"], "", CASES);
    const append = `${guest.cmdline} ${cmdline}`.trim();
    const files = ["-b", guest.kernel, "-i", guest.initrd, "-a", append, "-m", guest.memory];
    return await loadPairs(
      rounds,
      CASES,
      () =>
        outputOf([
          ...VCTL,
          ...["start", "-c", "--foreground", "--engine", engine, "-d", `raw:${disk}`],
          ...files,
          "bench",
        ]),
      () =>
        outputOf([
          QEMU,
          ...accel,
          ...["-m", guest.memory, ...BARE, "-serial", "stdio", "-kernel", guest.kernel],
          ...["-initrd", guest.initrd, "-append", append],
          ...["-drive", `if=none,id=d,format=raw,file=${disk}`],
          ...["-device", "virtio-blk-pci,drive=d"],
        ]),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function unicornMissing(): string | undefined {
  const { available, why } = probe("unicorn");
  return available ? undefined : `${why}.`;
}

const software: Measurement = {
  rows: loadRows("unicorn", "qemu_tcg", CASES),
  rounds: 5,
  missing: () => loadMissing() ?? unicornMissing() ?? qemuMissing() ?? linuxAmd64.missing(),
  async run(rounds) {
    const runs = await measureBlk(rounds, "unicorn", ["-accel", "tcg", "-M", "pc"]);
    return loadResults("unicorn", "qemu_tcg", CASES, runs);
  },
};

const lab: Measurement = {
  rows: loadRows("lab", "qemu_kvm", CASES),
  rounds: 3,
  missing: () => labMissing() ?? loadMissing() ?? qemuMissing(),
  async run(rounds) {
    const { code, stdout, stderr } = await runInLab(["bun", "bench/blk.ts", `${rounds}`], {
      qemu: true,
      memory: 3072,
      files: { load: loadProgram() },
      env: labEnvironment(),
      timeout: 60 + 240 * rounds,
    });
    if (code !== 0) throw new Error(`the disks in the lab failed:\n${stderr.trim()}`);
    return loadResults("lab", "qemu_kvm", CASES, JSON.parse(stdout));
  },
};

export const blkBench: Benchmark = {
  name: "blk",
  about: "a guest's disk, beside QEMU's",
  measurements: [software, lab],
};

// In the lab. TCG's SVM doesn't intercept XSETBV.
if (import.meta.main) {
  const accel = ["-accel", "kvm", "-cpu", "host", "-M", "pc"];
  const runs = await measureBlk(Number(process.argv[2]), "kvm", accel, "noxsave");
  console.log(JSON.stringify(runs));
}
