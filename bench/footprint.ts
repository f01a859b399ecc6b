/**
 * The private memory of the process that runs a VM, its guest's own memory left out: Linux at its
 * shell, one CPU, at rest. Bun's code, as far as no other process has it mapped now, is a row of its
 * own: it is the page cache's, and all VMs share it.
 *
 * - private_mib: on KVM, in the lab; with what Bun, the VM process's modules, and the machine with its
 *   engine add to it.
 * - unicorn_private_mib: the same here, on the Unicorn engine, whose translated code counts.
 */
import { linuxAmd64 } from "../golden/guests/index.ts";
import { labMissing, runInLab } from "../lab/index.ts";
import { probe } from "../src/vmm/engine.ts";
import { type Benchmark, type Measurement, type Row, row } from "./lib.ts";
import { type Footprint, measureFootprint } from "./private.ts";

const PARTS = ["bun", "modules", "vm", "cached"] as const;

function rowsOf(prefix: string, footprints: readonly Footprint[]): Row[] {
  return [
    row(
      `${prefix}private_mib`,
      "MiB",
      footprints.map(({ total }) => total),
    ),
    ...PARTS.map((part) =>
      row(
        `${prefix}private_${part}_mib`,
        "MiB",
        footprints.map((footprint) => footprint[part]),
      ),
    ),
  ];
}

function namesOf(prefix: string): string[] {
  return [`${prefix}private_mib`, ...PARTS.map((part) => `${prefix}private_${part}_mib`)];
}

const lab: Measurement = {
  rows: namesOf(""),
  rounds: 3,
  missing: labMissing,
  async run(rounds) {
    const command = ["bun", "bench/lab-footprint.ts", `${rounds}`];
    const { code, stdout, stderr } = await runInLab(command, { timeout: 60 + 120 * rounds });
    if (code !== 0) throw new Error(`the VM in the lab failed:\n${stderr.trim()}`);
    return rowsOf("", JSON.parse(stdout) as Footprint[]);
  },
};

const unicorn: Measurement = {
  rows: namesOf("unicorn_"),
  rounds: 3,
  missing() {
    const { available, why } = probe("unicorn");
    return available ? linuxAmd64.missing() : `${why}.`;
  },
  async run(rounds) {
    const footprints: Footprint[] = [];
    while (footprints.length < rounds) footprints.push(await measureFootprint("unicorn"));
    return rowsOf("unicorn_", footprints);
  },
};

export const footprint: Benchmark = {
  name: "footprint",
  about: "private memory of a VM at rest, beside its guest's own",
  measurements: [lab, unicorn],
};
