/** The command line of `bun fuzz`. */
import { existsSync } from "node:fs";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { CORPUS, type Found, readInputs, saveCrash, saveInput } from "./files.ts";
import { PLANTED } from "./planted.ts";
import type { Target } from "./target.ts";

interface Options {
  time: number;
  seed: number;
  corpus?: string;
  plant?: string;
  replay?: string[];
  json?: boolean;
}

/** A campaign is asked how late it is after so many runs. */
const RUNS = 200;

function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0) {
    throw new InvalidArgumentError("It is no number.");
  }
  return value;
}

/** @returns the exit status: 1 for what can't be done, 2 when something was found */
export async function main(args: readonly string[]): Promise<number> {
  let status = 0;
  const program = new Command("bun fuzz")
    .description("Fuzzes a target of our own code. Without one, lists them.")
    .argument("[target]")
    .option("--time <seconds>", "how long", number, 60)
    .option("--seed <number>", "of all random choices", number, 1)
    .option("--corpus <folder>", "inputs to begin with, where new ones and crashes are kept")
    .option("--replay <file...>", "runs these inputs only")
    .option("--json", "one line of JSON at the end")
    .addOption(new Option("--plant <class>", "with a planted bug").choices(Object.keys(PLANTED)))
    .exitOverride()
    .action(async (name: string | undefined, options: Options) => {
      status = await fuzz(name, options);
    });
  try {
    await program.parseAsync([...args], { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    throw error;
  }
  return status;
}

async function fuzz(name: string | undefined, options: Options): Promise<number> {
  // Before anything of src/ is loaded.
  if (options.plant !== undefined) process.env.VMD_PLANT = options.plant;
  const { blocks } = await import("./plugin.ts");
  const { loadTarget, TARGETS } = await import("../targets/index.ts");
  if (name === undefined) {
    for (const one of TARGETS) {
      const target = (await loadTarget(one)) as Target;
      console.log(`${one.padEnd(20)} ${target.about}`);
    }
    return 0;
  }
  const target = await loadTarget(name);
  if (target === undefined) {
    console.error(`fuzz: there is no target "${name}"; bun fuzz lists them.`);
    return 1;
  }
  if (options.replay !== undefined) return await replay(target, options.replay);
  return await campaign(target, options, blocks);
}

async function replay(target: Target, files: readonly string[]): Promise<number> {
  const { FunctionExecutor } = await import("./executor.ts");
  const executor = new FunctionExecutor(target);
  let status = 0;
  for (const file of files) {
    if (!existsSync(file)) {
      console.error(`fuzz: ${file}: no such file.`);
      return 1;
    }
    const input = new Uint8Array(await Bun.file(file).arrayBuffer()).subarray(0, target.maxInput);
    executor.run(input, input.length);
    const crash = executor.crash();
    console.log(`${file}: ${crash === undefined ? "done" : `${crash.kind}: ${crash.text}`}`);
    if (crash === undefined) continue;
    status = 2;
    for (const frame of crash.stack) console.log(`    ${frame}`);
  }
  return status;
}

async function campaign(target: Target, options: Options, blocks: () => number): Promise<number> {
  const { FunctionExecutor } = await import("./executor.ts");
  const { Campaign } = await import("../campaign/index.ts");
  const executor = new FunctionExecutor(target);
  const found: Found[] = [];
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  const seeds = [
    ...target.seeds(),
    ...readInputs(`${CORPUS}/${target.name}`),
    ...(options.corpus === undefined ? [] : readInputs(options.corpus)),
  ];
  const run = new Campaign({
    executor,
    seed: options.seed,
    seeds,
    dictionary: target.dictionary,
    finds: {
      kept: ({ name, input }) => {
        if (options.corpus !== undefined) saveInput(options.corpus, name, input);
      },
      crashed: (crash) => {
        found.push({ ...crash, seconds: seconds() });
        console.error(`${seconds().toFixed(1)} s: ${crash.report.kind}: ${crash.report.text}`);
        // Of a planted bug, the first is all that is asked for.
        return options.plant === undefined;
      },
      minimised: (crash) => {
        if (options.corpus !== undefined) saveCrash(options.corpus, crash);
      },
    },
  });
  while (seconds() < options.time && (options.plant === undefined || found.length === 0)) {
    run.advance(run.runs + RUNS);
    if (run.failure !== undefined) throw new Error(run.failure);
  }
  const counts = run.counts();
  const result = {
    target: target.name,
    seconds: Number(seconds().toFixed(1)),
    runs: counts.runs,
    runs_per_s: Math.round(counts.runs / seconds()),
    edges: counts.edges,
    blocks: blocks(),
    corpus: counts.corpus,
    crashes: counts.crashes,
    hangs: counts.hangs,
    equal: counts.repeated === 0 ? 1 : counts.repeatedEqual / counts.repeated,
    found: found.map(({ key, report, seconds, run }) => ({ key, ...report, seconds, run })),
  };
  if (options.json === true) console.log(JSON.stringify(result));
  else {
    console.log(
      `${target.name}: ${result.runs} runs in ${result.seconds} s, ${result.runs_per_s}/s, ` +
        `${result.edges} of ${result.blocks} blocks, ${result.corpus} inputs kept, ` +
        `${result.crashes} crashes, ${result.hangs} hangs, ` +
        `${(100 * result.equal).toFixed(1)} % of repeated runs equal`,
    );
  }
  return found.length > 0 ? 2 : 0;
}
