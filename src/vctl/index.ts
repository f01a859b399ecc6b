#!/usr/bin/env bun
/**
 * vctl: controls virtual machines from the command line. One file a command; what they share is
 * here and in cli.ts.
 */
import { Command } from "commander";
import packageFile from "../../package.json" with { type: "json" };
import { fail } from "./cli.ts";
import { createCommand } from "./commands/create.ts";
import { exitsCommand } from "./commands/exits.ts";
import { hostCommand } from "./commands/host.ts";
import { startCommand } from "./commands/start.ts";

const program = new Command("vctl")
  .description("Control virtual machines")
  .showHelpAfterError()
  .helpCommand(false)
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, "vctl: ")) })
  .version(packageFile.version, "-V, --version");
for (const command of [startCommand(), createCommand(), hostCommand(), exitsCommand()]) {
  program.addCommand(command.copyInheritedSettings(program));
}

/** vmctl's fingers: any prefix that names one command. */
function expandPrefix(argv: string[]): string[] {
  const at = argv.findIndex((argument) => !argument.startsWith("-"));
  if (at < 0) return argv;
  const word = argv[at];
  const names = program.commands.map((command) => command.name());
  if (names.includes(word)) return argv;
  const matches = names.filter((name) => name.startsWith(word));
  if (matches.length > 1) program.error(`vctl: ambiguous argument: ${word}`, { exitCode: 1 });
  if (matches.length === 0) program.error(`vctl: unknown argument: ${word}`, { exitCode: 1 });
  return argv.with(at, matches[0]);
}

if (process.argv.length <= 2) {
  program.outputHelp({ error: true });
  process.exit(1);
}
try {
  await program.parseAsync(expandPrefix(process.argv.slice(2)), { from: "user" });
} catch (error) {
  fail(error);
}
