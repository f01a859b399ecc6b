/** Looks for a planted bug: until something is found, in this process, the same for the same seed. */
import { Campaign, type Crash } from "../campaign/index.ts";
import { FunctionExecutor } from "./executor.ts";
import { seedsOf } from "./files.ts";
import type { Target } from "./target.ts";

/** Runs between two looks at the clock. */
const RUNS = 200;

export interface PlantedResult {
  /** Of processor time. */
  readonly seconds: number;
  readonly runs: number;
  /** What it was found by. */
  readonly found?: Pick<Crash["report"], "kind" | "text" | "stack">;
}

/** @param seconds of processor time after which it gives up: a host may be busy with other things */
export function findPlanted(target: Target, seed: number, seconds: number): PlantedResult {
  const start = process.cpuUsage();
  const passed = () => {
    const { user, system } = process.cpuUsage(start);
    return (user + system) / 1e6;
  };
  const results: PlantedResult[] = [];
  const campaign = new Campaign({
    executor: new FunctionExecutor(target),
    seed,
    seeds: seedsOf(target).map((input) => ({ input, depth: 0 })),
    dictionary: target.dictionary,
    finds: {
      crashed: ({ run, report }) => {
        results.push({ seconds: passed(), runs: run, found: report });
        // It needn't be made small.
        return false;
      },
    },
  });
  while (results.length === 0 && passed() < seconds) campaign.advance(campaign.runs + RUNS);
  return results[0] ?? { seconds: passed(), runs: campaign.runs };
}
