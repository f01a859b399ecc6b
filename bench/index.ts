/**
 * Benchmarks: one file a figure, each beside the peer that it is measured against, paired and
 * interleaved in one run. Nothing here is a test: a figure fails nobody.
 *
 *   bun bench                          lists them
 *   bun bench NAME [ROW…]              a table; of these rows only, if any are named
 *   bun bench NAME --json              one JSON object on standard output, and nothing else there
 *   bun bench NAME --rounds N
 */
import { Command, InvalidArgumentError } from "commander";
import { formatTable } from "../src/vctl/table.ts";
import { blkBench } from "./blk.ts";
import { boot } from "./boot.ts";
import { exit } from "./exit.ts";
import { footprint } from "./footprint.ts";
import { fork } from "./fork.ts";
import { fuzzBench } from "./fuzz.ts";
import { type Benchmark, digits, machine, type Row, wants } from "./lib.ts";
import { migrate } from "./migrate.ts";
import { netBench } from "./net.ts";
import { restore } from "./restore.ts";
import { vmd } from "./vmd.ts";

const BENCHMARKS: readonly Benchmark[] = [
  exit,
  boot,
  footprint,
  vmd,
  blkBench,
  netBench,
  restore,
  fork,
  fuzzBench,
  migrate,
];

const ENVIRONMENT = `
Environment:
  VMD_BENCH_SECONDS  how long a case of blk and net takes: 0.7 and 2 unless said, and 3 in the lab,
                     where all cases run once before they are counted; a turn of fuzz: 60
`;

interface Options {
  json?: boolean;
  rounds?: number;
}

function rounds(text: string): number {
  if (!/^[1-9]\d{0,3}$/.test(text))
    throw new InvalidArgumentError("it is a number from 1 to 9999.");
  return Number(text);
}

function list(): void {
  const rows = BENCHMARKS.flatMap(({ name, about, measurements }) => [
    [name, about],
    ...measurements.flatMap(({ rows: names }) => names).map((row) => ["", `  ${row}`]),
  ]);
  process.stdout.write(formatTable(rows));
}

async function measure({ measurements }: Benchmark, wanted: string[], options: Options) {
  const rows: Row[] = [];
  for (const measurement of measurements) {
    if (!wants(measurement, wanted)) continue;
    const missing = measurement.missing?.();
    if (missing === undefined) {
      rows.push(...(await measurement.run(options.rounds ?? measurement.rounds)));
    } else {
      process.stderr.write(`bench: left out ${measurement.rows.join(", ")}: ${missing}\n`);
    }
  }
  return rows.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
}

function print(rows: readonly Row[]): void {
  const host = machine();
  process.stdout.write(
    `${Object.entries(host)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ")}\n`,
  );
  const head = ["ROW", "UNIT", "MEDIAN", "MIN", "MAX", "ROUNDS"];
  const cells = rows.map(({ name, unit, median, min, max, rounds: count }) => [
    name,
    unit,
    digits(median),
    digits(min),
    digits(max),
    count,
  ]);
  const align = ["left", "left", "right", "right", "right", "right"] as const;
  process.stdout.write(formatTable(cells, { head, align: [...align] }));
}

function fail(message: string): never {
  process.stderr.write(`bench: ${message}\n`);
  process.exit(1);
}

async function main(name: string | undefined, wanted: string[], options: Options): Promise<void> {
  if (name === undefined) {
    list();
    return;
  }
  const benchmark = BENCHMARKS.find((other) => other.name === name);
  if (benchmark === undefined) {
    fail(`there is no benchmark ${name}, but ${BENCHMARKS.map((other) => other.name).join(", ")}`);
  }
  const known = benchmark.measurements.flatMap(({ rows }) => rows);
  const unknown = wanted.find((row) => !known.includes(row));
  if (unknown !== undefined) fail(`${name} has no row ${unknown}, but ${known.join(", ")}`);
  const rows = await measure(benchmark, wanted, options);
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ bench: name, machine: machine(), rows })}\n`);
  } else {
    print(rows);
  }
}

await new Command("bench")
  .description("Measures the project beside its peers; without a name, lists what there is")
  .argument("[name]", "a benchmark")
  .argument("[row...]", "rows to measure; default all")
  .option("--json", "one JSON object on standard output")
  .option("--rounds <n>", "how often each is measured", rounds)
  .addHelpText("after", ENVIRONMENT)
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, "bench: ")) })
  .action(main)
  .parseAsync()
  .catch((error: Error) => fail(error.message));
process.exit();
