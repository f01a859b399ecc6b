/** Counts the exits of a trace. */
import type { ExitCount } from "../vmd/exit-counter.ts";
import { exitName, ExitReason } from "../vmm/exit.ts";
import type { ExitRecord, Trace } from "../vmm/trace.ts";
import { print } from "./cli.ts";
import { formatTable } from "./table.ts";

/** Exits of one reason at one place. */
export type ExitStatistic = ExitCount;

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

/** What a trace holds. */
export interface TraceStatistics {
  /** How often the machine was started: once, and at each of its resets. */
  runs: number;
  /** Its exits in all runs, most frequent first. */
  exits: ExitStatistic[];
}

/** Counts a trace's runs and exits. @throws TraceError */
export function exitStatistics(trace: Trace): TraceStatistics {
  const found = new Map<string, ExitStatistic>();
  let runs = 1;
  for (const record of trace.records()) {
    if (record.kind === "reset") runs++;
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
  const exits = [...found.values()];
  exits.sort((a, b) => b.count - a.count || (a.where < b.where ? -1 : 1));
  return { runs, exits };
}

/** The statistics as a table on standard output. */
export function printStatistics(statistics: readonly ExitStatistic[]): void {
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
  print(formatTable(rows, { head, align: [...align] }));
}
