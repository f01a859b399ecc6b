/** vctl host: what this host offers. */
import { Command } from "commander";
import { print } from "../cli.ts";

export function hostCommand(): Command {
  return new Command("host")
    .description("Show what this host offers: engines, versions, sandbox and network facilities")
    .option("--json", "one JSON object")
    .addHelpText("after", "\nExamples:\n  vctl host\n  vctl host --json")
    .action(async (options: { json?: boolean }) => {
      const { hostReport, printHostReport } = await import("../host-report.ts");
      const report = hostReport();
      if (options.json) print(`${JSON.stringify(report, undefined, 2)}\n`);
      else printHostReport(report);
    });
}
