/** What the figures of disks and networks share: a guest that loads them, on our machine and QEMU's. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { deviceGuest } from "../golden/guests/devices.ts";
import { cache, root } from "../golden/guests/guest.ts";
import { type Pairs, type Row, row } from "./lib.ts";

/** One thing that is measured: its row's name, and what the guest runs for it. */
export interface Case {
  name: string;
  command: string;
  /** Less is better: the ratio is QEMU's to ours. */
  time?: boolean;
}

/** Where hosts without a compiler (the lab) find the guest's program. */
const READY = process.env.VMD_BENCH_LOAD;

export function loadMissing(): string | undefined {
  if (READY !== undefined && existsSync(READY)) return undefined;
  return Bun.which("gcc") === null ? "there is no gcc." : undefined;
}

/** guest/load.c, built. */
export function loadProgram(): Uint8Array {
  if (READY !== undefined) return readFileSync(READY);
  const folder = join(cache, "small");
  mkdirSync(folder, { recursive: true });
  const out = join(folder, "load");
  const source = join(root, "bench/guest/load.c");
  const { exitCode, stderr } = Bun.spawnSync(["gcc", "-O2", "-static", "-o", out, source]);
  if (exitCode !== 0) throw new Error(`load.c: ${stderr.toString()}`);
  return readFileSync(out);
}

/**
 * Seconds of a case. In the lab all code is emulated, some 30 times slower: it gives Bun's compilers
 * a first round that isn't counted, and longer ones.
 */
export const caseSeconds = (seconds: number) =>
  Number(process.env.VMD_BENCH_SECONDS ?? (inLab() ? 3 : seconds));

/** For a job that measures: what was said here, and the guest's program. */
export function labEnvironment(): Record<string, string> {
  const { VMD_BENCH_SECONDS } = process.env;
  const env = { VMD_BENCH_LOAD: "/job/load" };
  return VMD_BENCH_SECONDS === undefined ? env : { ...env, VMD_BENCH_SECONDS };
}

const inLab = () => process.env.VMD_LAB !== undefined;

/**
 * A guest that runs the cases, one after the other, once its script has prepared it; in the lab all
 * of them once before, on both contenders.
 */
export async function loadGuest(
  name: string,
  modules: string[],
  prepare: string,
  cases: readonly Case[],
) {
  const first = inLab() ? cases.map(({ command }) => `load ${command} >/dev/null`) : [];
  const counted = cases.map(({ name: one, command }) => `echo "case ${one} $(load ${command})"`);
  return await deviceGuest({
    name,
    modules,
    script: [prepare, ...first, ...counted].join("\n"),
    files: { "bin/load": loadProgram() },
  });
}

/** Figures by case. @throws Error when one is missing */
export function figures(output: string, cases: readonly Case[]): Map<string, number> {
  const found = new Map<string, number>();
  for (const [, name, value] of output.matchAll(/case (\w+) RESULT (\d+)/g)) {
    found.set(name, Number(value));
  }
  const lost = cases.find(({ name }) => !found.has(name));
  if (lost === undefined) return found;
  throw new Error(`the guest gave no figure for ${lost.name}:\n${output.slice(-600)}`);
}

/** Runs of both contenders, in turn. */
export type LoadRuns = Record<string, Pairs>;

export async function loadPairs(
  rounds: number,
  cases: readonly Case[],
  ours: () => Promise<string>,
  qemus: () => Promise<string>,
): Promise<LoadRuns> {
  const runs: LoadRuns = Object.fromEntries(
    cases.map(({ name }) => [name, { a: [] as number[], b: [] as number[], ratios: [] }]),
  );
  for (let round = 0; round < rounds; round++) {
    const a = figures(await ours(), cases);
    const b = figures(await qemus(), cases);
    for (const { name, time } of cases) {
      const [x, y] = [a.get(name) as number, b.get(name) as number];
      (runs[name].a as number[]).push(x);
      (runs[name].b as number[]).push(y);
      (runs[name].ratios as number[]).push(time === true ? y / x : x / y);
    }
  }
  return runs;
}

/** Names of the rows of cases. */
export function loadRows(prefix: string, peer: string, cases: readonly Case[]): string[] {
  return cases.flatMap(({ name }) => [`${prefix}_${name}_over_${peer}`, `${prefix}_${name}`]);
}

/** For each case the ratio (1 or more: ours is the better), and our figure. */
export function loadResults(
  prefix: string,
  peer: string,
  cases: readonly Case[],
  runs: LoadRuns,
): Row[] {
  return cases.flatMap(({ name, time }) => {
    const { a, ratios } = runs[name];
    const scale = time === true ? 1000 : 2 ** 20;
    return [
      row(`${prefix}_${name}_over_${peer}`, "ratio", ratios),
      row(
        `${prefix}_${name}`,
        time === true ? "us" : "MiB/s",
        a.map((value) => value / scale),
      ),
    ];
  });
}

/** Standard output of a command, whatever its status. */
export async function outputOf(command: readonly string[], seconds = 300): Promise<string> {
  const child = Bun.spawn([...command], {
    stdio: ["ignore", "pipe", "pipe"],
    cwd: root,
    timeout: seconds * 1000,
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  await child.exited;
  return `${out}${err}`;
}
