/** vctl exits: statistics of a recorded exit trace, and checks against it. */
import { Command, Option } from "commander";
import { ENGINES, type EngineName } from "../../vmm/engine-library.ts";
import type { Trace } from "../../vmm/trace.ts";
import { print, say, UsageError } from "../cli.ts";

interface ExitsOptions {
  json?: boolean;
  replay?: boolean;
  crossCheck?: EngineName;
}

async function check(trace: Trace, options: ExitsOptions): Promise<void> {
  if (options.replay) {
    const { replay } = await import("../../vmd/replay.ts");
    const { exits, difference } = replay(trace);
    if (difference !== undefined) throw new UsageError(difference);
    say(`${exits} exits replayed: every answer is the recorded one`);
  }
  if (options.crossCheck !== undefined) {
    const { follow, followLimits } = await import("../../vmd/follow.ts");
    const limits = followLimits(trace, options.crossCheck);
    if (limits !== undefined) say(limits);
    const { equal, difference, ending, failed } = follow(trace, options.crossCheck);
    if (difference !== undefined) throw new UsageError(difference);
    const result = `${equal} exits are equal on engine ${options.crossCheck}: ${ending}`;
    if (failed) throw new UsageError(result);
    say(result);
  }
}

export function exitsCommand(): Command {
  return new Command("exits")
    .description("Show statistics of a trace that start --trace-exits recorded")
    .argument("<file>", "the trace")
    .option("--json", "one JSON object")
    .option("--replay", "run the device models again from the trace, and compare their answers")
    .addOption(
      new Option(
        "--cross-check <engine>",
        "run the guest again on this engine, against the trace",
      ).choices(ENGINES),
    )
    .action(async (file: string, options: ExitsOptions) => {
      const { Trace } = await import("../../vmm/trace.ts");
      const trace = Trace.open(file);
      if (options.replay || options.crossCheck !== undefined) {
        return await check(trace, options);
      }
      const { exitStatistics, printStatistics } = await import("../exit-statistics.ts");
      const statistics = exitStatistics(trace);
      if (options.json) {
        print(`${JSON.stringify({ ...trace.header, exits: statistics })}\n`);
      } else {
        printStatistics(statistics);
      }
    });
}
