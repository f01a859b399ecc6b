/** What all figures share: what a benchmark is, rows and their statistics, pairs, the host. */
import { cpus, release } from "node:os";

/** One figure: the median, smallest and largest of its rounds. */
export interface Row {
  name: string;
  /** "ratio", "ns", "us", "s" or "MiB". */
  unit: string;
  median: number;
  min: number;
  max: number;
  rounds: number;
}

/** Something that is measured in one go, and gives one row or several. */
export interface Measurement {
  /** Names of its rows. */
  readonly rows: readonly string[];
  /** How often, unless the user says. */
  readonly rounds: number;
  /** Why it can't be measured here, as a sentence; undefined if it can. */
  missing?(): string | undefined;
  run(rounds: number): Promise<Row[]>;
}

export interface Benchmark {
  readonly name: string;
  /** One line. */
  readonly about: string;
  readonly measurements: readonly Measurement[];
}

/** @param values at least one. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The smallest value that so large a part of all isn't above. */
export function percentile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(part * sorted.length) - 1)];
}

/** A row of one value a round. */
export function row(name: string, unit: string, values: readonly number[]): Row {
  return {
    name,
    unit,
    median: median(values),
    min: Math.min(...values),
    max: Math.max(...values),
    rounds: values.length,
  };
}

/** What two contenders took, round by round. */
export interface Pairs {
  readonly a: readonly number[];
  readonly b: readonly number[];
  /** a / b of each pair: what the host did to both of a pair drops out. */
  readonly ratios: readonly number[];
}

/** Runs A B A B …, so that a host that grows slower does so to both. */
export async function pairs(
  rounds: number,
  a: () => number | Promise<number>,
  b: () => number | Promise<number>,
): Promise<Pairs> {
  const result = { a: [] as number[], b: [] as number[], ratios: [] as number[] };
  for (let round = 0; round < rounds; round++) {
    const first = await a();
    const second = await b();
    result.a.push(first);
    result.b.push(second);
    result.ratios.push(first / second);
  }
  return result;
}

/** Whether any of some rows is wanted; all are when none is named. */
export function wants(measurement: Measurement, wanted: readonly string[]): boolean {
  return wanted.length === 0 || measurement.rows.some((name) => wanted.includes(name));
}

/** What the figures were taken on. */
export function machine(): Record<string, string | number> {
  const processors = cpus();
  return {
    cpu: processors[0]?.model ?? "unknown",
    cores: processors.length,
    kernel: release(),
    bun: Bun.version,
  };
}

/**
 * CPU time of this thread, ns: of a loop that never sleeps, the time that it takes on a host with
 * nothing else to do.
 */
export function cpuTime(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) * 1000;
}

/** Significant digits that are worth reading. */
export function digits(value: number): string {
  return Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(3);
}
