/**
 * vctl: controls virtual machines from the command line. One file a command; what they share is
 * here and in cli.ts. A bundle of it is made (build/), so nothing here waits at the top level.
 */
import { Command, type CommanderError } from "commander";
import packageFile from "../../package.json" with { type: "json" };
import { complain, fail, print } from "./cli.ts";
import { completionCommand } from "./commands/completion.ts";
import { consoleCommand } from "./commands/console.ts";
import { createCommand } from "./commands/create.ts";
import { loadCommand, logCommand, reloadCommand, resetCommand } from "./commands/daemon.ts";
import { exitsCommand } from "./commands/exits.ts";
import { hostCommand } from "./commands/host.ts";
import { metricsCommand } from "./commands/metrics.ts";
import { pauseCommand, unpauseCommand } from "./commands/pause.ts";
import { showCommand } from "./commands/show.ts";
import { startCommand } from "./commands/start.ts";
import { statusCommand } from "./commands/status.ts";
import { stopCommand } from "./commands/stop.ts";
import { topCommand } from "./commands/top.ts";
import { waitCommand } from "./commands/wait.ts";

const commands = [
  consoleCommand,
  createCommand,
  exitsCommand,
  hostCommand,
  loadCommand,
  logCommand,
  metricsCommand,
  pauseCommand,
  reloadCommand,
  resetCommand,
  showCommand,
  startCommand,
  statusCommand,
  stopCommand,
  topCommand,
  unpauseCommand,
  waitCommand,
];

const USAGE = "usage:\tvctl [-v] command [arg ...]\n";

const program = new Command("vctl")
  .description("Control virtual machines")
  .usage("[-v] command [arg ...]")
  .option("-v, --verbose", "say more")
  .helpCommand(false)
  .configureOutput({
    writeOut: print,
    writeErr: complain,
    outputError: (text, write) => write(text.replace(/^error: /, "vctl: ")),
  })
  .version(packageFile.version, "-V, --version");
for (const make of [...commands, () => completionCommand(program)]) {
  const command = make().copyInheritedSettings(program);
  command.exitOverride((error: CommanderError) => {
    if (error.exitCode !== 0) {
      complain(`usage:\tvctl [-v] ${command.name()} ${command.usage()}\n`);
    }
    process.exit(error.exitCode);
  });
  program.addCommand(command);
}

/** vmctl's fingers: any prefix that names one command. */
function expandPrefix(argv: string[]): string[] {
  const at = argv.findIndex((argument) => !argument.startsWith("-"));
  if (at < 0) return argv;
  const word = argv[at];
  const names = program.commands.map((command) => command.name());
  if (names.includes(word)) return argv;
  const matches = names.filter((name) => name.startsWith(word));
  if (matches.length === 1) return argv.with(at, matches[0]);
  const what = matches.length > 1 ? "ambiguous" : "unknown";
  complain(`vctl: ${what} argument: ${word}\n${USAGE}`);
  process.exit(1);
}

const words = process.argv.slice(2);
if (words.every((word) => /^(-v+|--verbose)$/.test(word))) {
  complain(USAGE);
  process.exit(1);
}
program.parseAsync(expandPrefix(words), { from: "user" }).catch(fail);
