/** One process' part of a campaign: its executor, its seeds, its loop between other things to do. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Executor, Verdict } from "../executor.ts";
import { type Opening, type Origin, readBundles, writeMinimised } from "./bundle.ts";
import { Campaign, type Seed } from "./campaign.ts";
import type { Entry } from "./corpus.ts";
import { DEATH, NO_END } from "./crash.ts";
import { readDictionary } from "./dictionary.ts";
import { CampaignFolder, FolderError } from "./folder.ts";
import { mapInflight } from "./inflight.ts";

/** Milliseconds between two looks at anything else. */
const PIECE = 25;
/** Milliseconds between two looks at what others found. */
const SHARE_EVERY = 1000;

const turn = () => new Promise<void>((done) => setImmediate(done));

/** What a worker is told: JSON. */
export interface Job {
  readonly folder: string;
  readonly opening: Opening;
  readonly origin: Pick<Origin, "target" | "digest" | "engine" | "library">;
  readonly seed: number;
  /** Runs after which it ends; absent: never. */
  readonly runs?: number;
  /** A folder of inputs to begin with. */
  readonly seeds?: string;
  /** A file in AFL's format. */
  readonly dictionary?: string;
  readonly unit?: number;
  /** A file for the input of the run that is under way (inflight.ts). */
  readonly inflight?: string;
  /** Whether others use the folder too. */
  readonly shared: boolean;
  /** Whether a worker's process gives up all but the folder (confine.ts). */
  readonly confined?: boolean;
}

/**
 * @param opened given to the executor's function, which calls it when it has opened all that it will use,
 * and before anything runs that is not to be trusted
 * @throws Error: a sentence
 */
export async function openExecutor(
  { module, name = "open", argument }: Opening,
  opened: () => void = () => {},
): Promise<Executor> {
  const loaded = (await import(module)) as Record<string, unknown>;
  const open = loaded[name];
  if (typeof open !== "function") throw new Error(`${module} exports no function ${name}.`);
  return (await (open as (...given: unknown[]) => unknown)(argument, opened)) as Executor;
}

/** The files of a folder, as seeds. @throws FolderError */
export function readSeeds(folder: string): Uint8Array[] {
  try {
    const entries = readdirSync(folder, { withFileTypes: true });
    const files = entries.filter((entry) => entry.isFile()).map(({ name }) => name);
    return files.sort().map((name) => new Uint8Array(readFileSync(join(folder, name))));
  } catch (error) {
    throw new FolderError(`can't read the seeds ${folder}: ${(error as Error).message}.`);
  }
}

/**
 * A campaign that goes on from what is in its folder, before its first run.
 * @param opened as `openExecutor` has it
 */
export async function openCampaign(
  job: Job,
  kept: (entry: Entry) => void = () => {},
  opened: () => void = () => {},
): Promise<{ campaign: Campaign; folder: CampaignFolder; executor: Executor }> {
  const folder = new CampaignFolder(job.folder);
  const dictionary = job.dictionary === undefined ? [] : readDictionary(job.dictionary);
  const given = job.seeds === undefined ? [] : readSeeds(job.seeds);
  const entries = folder.readState()?.entries ?? {};
  const executor = await openExecutor(job.opening, opened);
  const stored = folder
    .arrived()
    .map(({ name, input }): Seed => ({ input, depth: entries[name]?.depth ?? 0 }));
  const trace = executor.trace && ((input: Uint8Array) => executor.trace!(input, input.length));
  const inflight =
    job.inflight === undefined ? undefined : mapInflight(job.inflight, executor.maxInput);
  const campaign = new Campaign({
    inflight,
    ...{ executor, dictionary, seed: job.seed, unit: job.unit, seeds: [...stored, ...given] },
    finds: folder.finds({ ...job.origin, opening: job.opening, trace }, kept),
  });
  know(campaign, folder);
  return { campaign, folder, executor };
}

function know(campaign: Campaign, folder: CampaignFolder): void {
  const { crashes, hangs } = folder.keys();
  for (const key of crashes) campaign.knows(key, false);
  for (const key of hangs) campaign.knows(key, true);
}

/** Has what a session that was killed left as it was found be made small. */
function shrinkRest(campaign: Campaign, parent: string): void {
  for (const { report, input, minimised } of readBundles(parent)) {
    if (minimised !== undefined || [DEATH, NO_END].includes(report.kind)) continue;
    const verdict = report.ending === "hang" ? Verdict.TIMEOUT : Verdict.CRASH;
    campaign.shrink(verdict, report.key, input, (small) => {
      if (small !== undefined) writeMinimised(parent, report.key, small);
    });
  }
}

/** Takes over what others found since the last time. */
export function share(campaign: Campaign, folder: CampaignFolder): void {
  know(campaign, folder);
  for (const { input } of folder.arrived()) campaign.offer(input);
}

export interface DriveOptions {
  readonly stopped: () => boolean;
  /** Called between pieces of work. */
  readonly between?: () => void;
}

/** Runs a campaign in pieces, until it is stopped, its runs are done, or it failed. */
export async function drive(
  job: Job,
  campaign: Campaign,
  folder: CampaignFolder,
  { stopped, between = () => {} }: DriveOptions,
): Promise<void> {
  const limit = job.runs ?? Infinity;
  const going = () => !stopped() && campaign.failure === undefined;
  let piece = 64;
  /** Some runs, about as many as fit between two turns. */
  const work = async <T>(run: (until: number) => T): Promise<T> => {
    const before = performance.now();
    const result = run(campaign.runs + piece);
    const took = performance.now() - before;
    if (took < PIECE) piece *= 2;
    else if (took > 2 * PIECE) piece = Math.max(1, piece >> 1);
    between();
    await turn();
    return result;
  };
  while (going() && !(await work((until) => campaign.begin(until))));
  for (const parent of [folder.crashes, folder.hangs]) shrinkRest(campaign, parent);
  let shared = performance.now();
  while (going() && campaign.runs < limit) {
    await work((until) => campaign.step(Math.min(limit, until)));
    const now = performance.now();
    if (job.shared && now - shared >= SHARE_EVERY) {
      share(campaign, folder);
      shared = performance.now();
    }
  }
  while (going() && !(await work((until) => campaign.finish(until))));
}
