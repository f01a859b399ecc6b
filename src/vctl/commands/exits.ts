/** vctl exits: what a running VM exits for, or a recorded trace: statistics, and checks against it. */
import { Command, InvalidArgumentError, Option } from "commander";
import { existsSync } from "node:fs";
import { ENGINES, type EngineName } from "../../vmm/engine-library.ts";
import { print, say, vmReference } from "../cli.ts";
import { Client } from "../client.ts";
import type { ExitStatistic } from "../exit-statistics.ts";

interface ExitsOptions {
  time?: number;
  json?: boolean;
  replay?: boolean;
  crossCheck?: EngineName;
  sandbox: boolean;
}

/** Runs again what it is of, in a process of its own. */
async function check(path: string, options: ExitsOptions): Promise<void> {
  const { openTrace } = await import("../../vmm/trace.ts");
  const { runConfined } = await import("../guest-host.ts");
  const { replay, crossCheck, sandbox } = options;
  const job = { kind: "trace", path, replay, crossCheck } as const;
  process.exitCode = await runConfined(job, [openTrace(path)], sandbox);
}

/** A running VM's exits, for a while. */
function live(
  id: string,
  { time = 1000, json }: ExitsOptions,
  printStatistics: (statistics: readonly ExitStatistic[]) => void,
): void {
  const vm = vmReference(id);
  using client = Client.connect();
  const answer = client.call({ request: "exits", vm, time });
  if (json)
    print(`${JSON.stringify({ vm: answer.name, time: answer.time, counts: answer.counts })}\n`);
  else printStatistics(answer.counts);
}

function isReference(text: string): boolean {
  try {
    vmReference(text);
    return true;
  } catch {
    return false;
  }
}

function seconds(text: string): number {
  const value = Math.round(Number(text) * 1000);
  if (Number.isFinite(value) && value >= 10 && value <= 60_000) return value;
  throw new InvalidArgumentError("it is no time from 0.01 to 60 seconds.");
}

export function exitsCommand(): Command {
  return new Command("exits")
    .description("Count the exits of a running VM, or of a trace that start --trace-exits recorded")
    .argument("<file or id>", "a trace; where there is no such file, a VM's id or name")
    .addOption(
      new Option("-t, --time <seconds>", "count a running VM's for so long (default: 1)").argParser(
        seconds,
      ),
    )
    .option("--json", "one JSON object")
    .option("--replay", "run the device models again from the trace, and compare their answers")
    .addOption(
      new Option(
        "--cross-check <engine>",
        "run the guest again on this engine, against the trace",
      ).choices(ENGINES),
    )
    .option(
      "--no-sandbox",
      "with these two: the process keeps this user, its files and system calls",
    )
    .addHelpText(
      "after",
      "\nExamples:\n  vctl exits web\n  vctl exits -t 10 --json 3\n  vctl exits boot.trace --replay",
    )
    .action(async (file: string, options: ExitsOptions) => {
      const { exitStatistics, printStatistics } = await import("../exit-statistics.ts");
      const checking = options.replay === true || options.crossCheck !== undefined;
      if (!checking && !existsSync(file) && isReference(file)) {
        return live(file, options, printStatistics);
      }
      if (checking) return await check(file, options);
      const { Trace } = await import("../../vmm/trace.ts");
      const trace = Trace.open(file);
      const { runs, exits } = exitStatistics(trace);
      if (options.json) {
        print(`${JSON.stringify({ ...trace.header, runs, exits })}\n`);
      } else {
        printStatistics(exits);
        if (runs > 1) say(`of ${runs} runs: the machine was reset ${runs - 1} times`);
      }
    });
}
