/** vctl exits: statistics of a recorded exit trace. */
import { Command, Option } from "commander";
import { follow } from "../../vmd/follow.ts";
import { replay } from "../../vmd/replay.ts";
import { ENGINES, type EngineName } from "../../vmm/engine.ts";
import { exitName, ExitReason } from "../../vmm/exit.ts";
import { say, UsageError } from "../cli.ts";
import { formatTable } from "../table.ts";
import { Trace, type ExitRecord } from "../../vmm/trace.ts";

/** Exits of one reason at one place. */
export interface ExitStatistic {
  reason: string;
  /** "out 0x3f8/1", "read 0xfee00030/4"; empty for exits that have no place. */
  where: string;
  count: number;
  /** Host time spent on answers, ns. */
  handled: number;
}

function place(exit: ExitRecord): string {
  const address = `0x${exit.address.toString(16)}`;
  switch (exit.reason) {
    case ExitReason.IO:
      return `${exit.direction === 1 ? "out" : "in"} ${address}/${exit.size}`;
    case ExitReason.MMIO:
      return `${exit.direction === 1 ? "write" : "read"} ${address}/${exit.size}`;
    case ExitReason.RDMSR:
    case ExitReason.WRMSR:
      return address;
    default:
      return "";
  }
}

/** Counts a trace's exits, most frequent first. */
export function exitStatistics(trace: Trace): ExitStatistic[] {
  const found = new Map<string, ExitStatistic>();
  for (const record of trace.records()) {
    if (record.kind !== "exit") continue;
    const reason = exitName(record.reason);
    const where = place(record);
    const key = `${reason} ${where}`;
    let statistic = found.get(key);
    if (statistic === undefined) {
      statistic = { reason, where, count: 0, handled: 0 };
      found.set(key, statistic);
    }
    statistic.count++;
    statistic.handled += record.handled;
  }
  return [...found.values()].sort((a, b) => b.count - a.count || (a.where < b.where ? -1 : 1));
}

function print(statistics: readonly ExitStatistic[]): void {
  const total = statistics.reduce((sum, { count }) => sum + count, 0);
  const handled = statistics.reduce((sum, statistic) => sum + statistic.handled, 0);
  const row = (reason: string, where: string, count: number, time: number) => [
    reason,
    where,
    count,
    ((100 * count) / Math.max(1, total)).toFixed(1),
    (time / 1e6).toFixed(2),
    Math.round(time / Math.max(1, count)),
  ];
  const rows = statistics.map((s) => row(s.reason, s.where, s.count, s.handled));
  rows.push(row("all", "", total, handled));
  const head = ["REASON", "WHERE", "COUNT", "%", "TIME MS", "NS EACH"];
  const align = ["left", "left", "right", "right", "right", "right"] as const;
  process.stdout.write(formatTable(rows, { head, align: [...align] }));
}

interface ExitsOptions {
  json?: boolean;
  replay?: boolean;
  crossCheck?: EngineName;
}

function check(trace: Trace, options: ExitsOptions): void {
  if (options.replay) {
    const { exits, difference } = replay(trace);
    if (difference !== undefined) throw new UsageError(difference);
    say(`${exits} exits replayed: every answer is the recorded one`);
  }
  if (options.crossCheck !== undefined) {
    const { equal, difference, ending } = follow(trace, options.crossCheck);
    if (difference !== undefined) throw new UsageError(difference);
    say(`${equal} exits are equal on engine ${options.crossCheck}: ${ending}`);
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
    .action((file: string, options: ExitsOptions) => {
      const trace = Trace.open(file);
      if (options.replay || options.crossCheck !== undefined) {
        check(trace, options);
        return;
      }
      const statistics = exitStatistics(trace);
      if (options.json) {
        process.stdout.write(`${JSON.stringify({ ...trace.header, exits: statistics })}\n`);
      } else {
        print(statistics);
      }
    });
}
