/**
 * Random instructions in random machine states, on one engine against another.
 *
 *   bun fuzz/differential/index.ts --cases 100000 --seed 1
 *   bun fuzz/differential/index.ts --seed 1 --case 4711        one case, with its instructions
 *   bun fuzz/differential/index.ts --trace boot.trace          the accesses of a recorded boot
 */
import { parseArgs } from "node:util";
import { ENGINES, EngineError, type EngineName, probe } from "../../src/vmm/engine.ts";
import { Trace, TraceError } from "../../src/vmm/trace.ts";
import { Campaign } from "./campaign.ts";
import { endingText } from "./compare.ts";
import { modesOf } from "./modes.ts";
import { MODES, type Mode } from "./layout.ts";
import { merge, report, type Report, toMarkdown } from "./report.ts";
import { seedsOf } from "./seeds.ts";
import { showCase } from "./show.ts";
import { Target } from "./target.ts";

const USAGE = `usage: bun fuzz/differential/index.ts [--cases N] [--seed S] [--from N] [--case N]
         [--engines a,b] [--modes a,b,…] [--time seconds] [--json] [--markdown] [--merge file …] [--trace file]`;

class UsageError extends Error {}

const OPTIONS = {
  cases: { type: "string", default: "10000" },
  seed: { type: "string", default: "1" },
  from: { type: "string", default: "0" },
  case: { type: "string" },
  time: { type: "string" },
  engines: { type: "string", default: "kvm,unicorn" },
  modes: { type: "string" },
  json: { type: "boolean", default: false },
  markdown: { type: "boolean", default: false },
  merge: { type: "string", multiple: true },
  trace: { type: "string" },
  help: { type: "boolean", short: "h", default: false },
} as const;

/** @returns the exit status: 1 where something is unexplained, 2 for a use that isn't. */
export async function main(words: readonly string[]): Promise<number> {
  try {
    return await run(words);
  } catch (error) {
    const known = [UsageError, EngineError, TraceError].some((kind) => error instanceof kind);
    if (!known) throw error;
    console.error(`differential: ${(error as Error).message}`);
    return 2;
  }
}

async function run(words: readonly string[]): Promise<number> {
  const options = parse(words);
  if (options.help) {
    console.log(USAGE);
    return 0;
  }
  if (options.merge !== undefined) {
    const reports = await Promise.all(options.merge.map(readReport));
    return print(merge(reports), options);
  }
  const engines = enginesOf(options.engines);
  const seed = whole("--seed", options.seed, 0, 0xffffffff);
  const modes = options.modes === undefined ? modesOf(engines) : modesFrom(options.modes);
  if (options.case !== undefined) {
    const index = whole("--case", options.case, 0, Number.MAX_SAFE_INTEGER);
    console.log(showCase(engines, seed, modes, index));
    return 0;
  }
  if (options.trace !== undefined) return replayTrace(options.trace, engines);
  const from = whole("--from", options.from, 0, Number.MAX_SAFE_INTEGER);
  const cases = whole("--cases", options.cases, 1, Number.MAX_SAFE_INTEGER);
  const seconds = options.time === undefined ? Infinity : whole("--time", options.time, 1, 1e9);
  using campaign = new Campaign(engines, seed, modes);
  const started = Bun.nanoseconds();
  for (let i = 0; i < cases; i++) {
    campaign.one(from + i);
    if (i % 256 === 0 && Bun.nanoseconds() - started > seconds * 1e9) break;
  }
  const elapsed = (Bun.nanoseconds() - started) / 1e9;
  return print(report(campaign, { engines, seed, from, modes, seconds: elapsed }), options);
}

/** Each engine must exit as the recorded one did. */
function replayTrace(path: string, engines: readonly EngineName[]): number {
  const seeds = [...seedsOf(Trace.open(path))];
  let different = 0;
  for (const name of engines) {
    using target = new Target(name);
    for (const { it, expected } of seeds) {
      target.run(it);
      if (target.what === expected) continue;
      different++;
      console.log(`${name}: ${endingText(target)}, recorded was ${expected}`);
    }
  }
  console.log(`${seeds.length} different accesses of ${path}: ${different} not as recorded`);
  return different > 0 ? 1 : 0;
}

type Options = ReturnType<typeof parse>;

function print(result: Report, options: Options): number {
  if (options.json) console.log(JSON.stringify(result, null, 2));
  else console.log(toMarkdown(result, !options.markdown));
  return result.totals.unexplained > 0 ? 1 : 0;
}

function parse(words: readonly string[]) {
  try {
    return parseArgs({ args: [...words], options: OPTIONS }).values;
  } catch (error) {
    throw new UsageError(`${(error as Error).message}\n${USAGE}`);
  }
}

function whole(name: string, text: string, low: number, high: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= low && value <= high) return value;
  throw new UsageError(`${name} ${text}: a whole number from ${low} to ${high} is wanted`);
}

function enginesOf(text: string): [EngineName, EngineName] {
  const names = text.split(",");
  for (const name of names) {
    if (!ENGINES.includes(name as EngineName)) {
      throw new UsageError(`--engines ${text}: no engine ${name}; there are ${ENGINES.join(", ")}`);
    }
    const { available, why } = probe(name as EngineName);
    if (!available) throw new EngineError(`engine ${name}: ${why}`);
  }
  if (names.length !== 2) throw new UsageError(`--engines ${text}: two are compared`);
  return names as [EngineName, EngineName];
}

function modesFrom(text: string): Mode[] {
  const names = text.split(",") as Mode[];
  for (const name of names) {
    if (MODES.includes(name)) continue;
    throw new UsageError(`--modes ${text}: no mode ${name}; there are ${MODES.join(", ")}`);
  }
  return names;
}

async function readReport(path: string): Promise<Report> {
  try {
    return (await Bun.file(path).json()) as Report;
  } catch {
    throw new UsageError(`${path}: not a report that --json made`);
  }
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)));
