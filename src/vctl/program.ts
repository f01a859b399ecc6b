/** vctl's commands and their options: what its help, its completions and its manual say, too. */
import { Command, type CommanderError } from "commander";
import packageFile from "../../package.json" with { type: "json" };
import { complain, print, setVerbose } from "./cli.ts";
import { balloonCommand } from "./commands/balloon.ts";
import { captureCommand } from "./commands/capture.ts";
import { completionCommand } from "./commands/completion.ts";
import { consoleCommand } from "./commands/console.ts";
import { createCommand } from "./commands/create.ts";
import { loadCommand, logCommand, reloadCommand, resetCommand } from "./commands/daemon.ts";
import { exitsCommand } from "./commands/exits.ts";
import { forkCommand } from "./commands/fork.ts";
import { fuzzCommand } from "./commands/fuzz.ts";
import { hostCommand } from "./commands/host.ts";
import { mergeCommand } from "./commands/merge.ts";
import { metricsCommand } from "./commands/metrics.ts";
import { pauseCommand, unpauseCommand } from "./commands/pause.ts";
import { receiveCommand } from "./commands/receive.ts";
import { replayCommand } from "./commands/replay.ts";
import { restoreCommand } from "./commands/restore.ts";
import { sendCommand } from "./commands/send.ts";
import { showCommand } from "./commands/show.ts";
import { snapshotCommand } from "./commands/snapshot.ts";
import { startCommand } from "./commands/start.ts";
import { statusCommand } from "./commands/status.ts";
import { stopCommand } from "./commands/stop.ts";
import { topCommand } from "./commands/top.ts";
import { waitCommand } from "./commands/wait.ts";

const commands = [
  balloonCommand,
  captureCommand,
  consoleCommand,
  createCommand,
  exitsCommand,
  forkCommand,
  fuzzCommand,
  hostCommand,
  loadCommand,
  logCommand,
  mergeCommand,
  metricsCommand,
  pauseCommand,
  receiveCommand,
  reloadCommand,
  replayCommand,
  resetCommand,
  restoreCommand,
  sendCommand,
  showCommand,
  snapshotCommand,
  startCommand,
  statusCommand,
  stopCommand,
  topCommand,
  unpauseCommand,
  waitCommand,
];

export function makeProgram(): Command {
  const program = new Command("vctl")
    .description("Control virtual machines")
    .usage("[-v] command [arg ...]")
    .option("-v, --verbose", "say what is done")
    .on("option:verbose", setVerbose)
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
  return program;
}
