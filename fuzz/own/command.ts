/** The command line of `bun fuzz`. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command, CommanderError, Option } from "commander";
import {
  addCampaignOptions,
  type CampaignFlags,
  CampaignFolder,
  campaignOptions,
  DictionaryError,
  FolderError,
  fuzz,
  minimiseFolder,
  openExecutor,
  readDictionary,
  readSeeds,
  ServerError,
} from "../campaign/index.ts";
import { seedsOf, writeDictionary, writeSeeds } from "./files.ts";
import { PLANTED } from "./planted.ts";
import type { Target } from "./target.ts";

interface Flags extends CampaignFlags {
  plant?: string;
  replay?: string[];
}

/** Seconds of a campaign, and of looking for a planted bug, unless it is said. */
const TIME = 60;
const PLANTED_TIME = 300;
const OPEN = join(import.meta.dir, "open.ts");

/** @returns the exit status: 1 for what can't be done, 2 when something was found */
export async function main(args: readonly string[]): Promise<number> {
  let status = 0;
  const program = new Command("bun fuzz")
    .description("Fuzzes a target of our own code. Without one, lists them.")
    .argument("[target]")
    .option("--replay <file...>", "run these inputs, and nothing else")
    .addOption(
      new Option("--plant <class>", "look for a planted bug").choices(Object.keys(PLANTED)),
    )
    .exitOverride()
    .action(async (name: string | undefined, flags: Flags) => {
      status = await run(name, flags);
    });
  addCampaignOptions(program);
  try {
    await program.parseAsync([...args], { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    if (!isExpected(error)) throw error;
    console.error(`fuzz: ${error.message}`);
    return 1;
  }
  return status;
}

function isExpected(error: unknown): error is Error {
  return [FolderError, DictionaryError, ServerError].some((one) => error instanceof one);
}

async function run(name: string | undefined, flags: Flags): Promise<number> {
  // Before anything of src/ is loaded.
  if (flags.plant !== undefined) process.env.VMD_PLANT = flags.plant;
  await import("./plugin.ts");
  const { loadTarget, TARGETS } = await import("../targets/index.ts");
  if (name === undefined) {
    for (const one of TARGETS) {
      const { about } = (await loadTarget(one)) as Target;
      console.log(`${one.padEnd(20)} ${about}`);
    }
    return 0;
  }
  const target = await loadTarget(name);
  if (target === undefined) {
    console.error(`fuzz: there is no target "${name}"; bun fuzz lists them.`);
    return 1;
  }
  if (flags.replay !== undefined) return await replay(target, flags.replay);
  if (flags.plant !== undefined) return await planted(target, flags);
  return await campaign(target, flags);
}

/** Runs inputs, and says what came of each. */
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

async function planted(target: Target, flags: Flags): Promise<number> {
  const { findPlanted } = await import("./planted-run.ts");
  const result = findPlanted(target, flags.seed ?? 1, flags.time ?? PLANTED_TIME);
  const { seconds, runs, found } = result;
  if (flags.json === true) console.log(JSON.stringify(result));
  else {
    const what = found === undefined ? "nothing found" : `${found.kind}: ${found.text}`;
    console.log(`${flags.plant}, ${target.name}: ${what}; ${seconds.toFixed(1)} s, ${runs} runs`);
  }
  return found === undefined ? 0 : 2;
}

async function campaign(target: Target, flags: Flags): Promise<number> {
  const { name } = target;
  const scratch = mkdtempSync(join(tmpdir(), "fuzz-"));
  const folder = flags.corpus ?? join(scratch, "corpus");
  const opening = { module: OPEN, argument: { target: name } };
  let keep = false;
  try {
    if (flags.cmin === true) {
      const open = () => openExecutor(opening);
      const { before, after } = await minimiseFolder(new CampaignFolder(folder), open);
      console.log(`${after} of ${before} inputs are needed for all edges.`);
      return 0;
    }
    const seeds = join(scratch, "seeds");
    const given = flags.seeds === undefined ? [] : readSeeds(flags.seeds);
    writeSeeds(seeds, [...seedsOf(target), ...given]);
    const dictionary = join(scratch, "dictionary");
    const tokens = flags.dictionary === undefined ? [] : readDictionary(flags.dictionary);
    writeDictionary(dictionary, [...(target.dictionary ?? []), ...tokens]);
    const options = {
      ...flags,
      seeds,
      dictionary,
      time: flags.time ?? (flags.runs === undefined ? TIME : undefined),
    };
    const { failure } = await fuzz({
      folder,
      ...campaignOptions(options, { target: name, opening }),
    });
    if (failure !== undefined) {
      console.error(`fuzz: ${failure}`);
      return 1;
    }
    const { crashes, hangs } = new CampaignFolder(folder).keys();
    keep = crashes.length + hangs.length > 0;
    if (!keep) return 0;
    for (const key of [...crashes, ...hangs]) console.error(`fuzz: found ${key}, in ${folder}`);
    return 2;
  } finally {
    if (!keep || flags.corpus !== undefined) rmSync(scratch, { recursive: true, force: true });
  }
}
