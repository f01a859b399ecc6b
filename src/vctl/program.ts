/** vctl's commands and their options: what its help, its completions and its manual say, too. */
import { Command, type CommanderError } from "commander";
import packageFile from "../../package.json" with { type: "json" };
import { complain, print, setVerbose } from "./cli.ts";

/** What makes each command: its modules are loaded when it is wanted, since they are most of vctl. */
const COMMANDS: Record<string, (program: Command) => Promise<Command>> = {
  balloon: async () => (await import("./commands/balloon.ts")).balloonCommand(),
  capture: async () => (await import("./commands/capture.ts")).captureCommand(),
  console: async () => (await import("./commands/console.ts")).consoleCommand(),
  create: async () => (await import("./commands/create.ts")).createCommand(),
  exits: async () => (await import("./commands/exits.ts")).exitsCommand(),
  fork: async () => (await import("./commands/fork.ts")).forkCommand(),
  fuzz: async () => (await import("./commands/fuzz.ts")).fuzzCommand(),
  host: async () => (await import("./commands/host.ts")).hostCommand(),
  load: async () => (await import("./commands/daemon.ts")).loadCommand(),
  log: async () => (await import("./commands/daemon.ts")).logCommand(),
  merge: async () => (await import("./commands/merge.ts")).mergeCommand(),
  metrics: async () => (await import("./commands/metrics.ts")).metricsCommand(),
  pause: async () => (await import("./commands/pause.ts")).pauseCommand(),
  receive: async () => (await import("./commands/receive.ts")).receiveCommand(),
  reload: async () => (await import("./commands/daemon.ts")).reloadCommand(),
  replay: async () => (await import("./commands/replay.ts")).replayCommand(),
  reset: async () => (await import("./commands/daemon.ts")).resetCommand(),
  restore: async () => (await import("./commands/restore.ts")).restoreCommand(),
  send: async () => (await import("./commands/send.ts")).sendCommand(),
  show: async () => (await import("./commands/show.ts")).showCommand(),
  snapshot: async () => (await import("./commands/snapshot.ts")).snapshotCommand(),
  start: async () => (await import("./commands/start.ts")).startCommand(),
  status: async () => (await import("./commands/status.ts")).statusCommand(),
  stop: async () => (await import("./commands/stop.ts")).stopCommand(),
  top: async () => (await import("./commands/top.ts")).topCommand(),
  unpause: async () => (await import("./commands/pause.ts")).unpauseCommand(),
  wait: async () => (await import("./commands/wait.ts")).waitCommand(),
  completion: async (program) =>
    (await import("./commands/completion.ts")).completionCommand(program),
};

/** The names of all commands. */
export const names = Object.keys(COMMANDS);

/** @param wanted the only command that there is to be; absent: all, as help and completions need them */
export async function makeProgram(wanted?: string): Promise<Command> {
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
  const alone = wanted !== undefined && wanted !== "completion" && wanted in COMMANDS;
  for (const name of alone ? [wanted] : names) {
    const command = (await COMMANDS[name](program)).copyInheritedSettings(program);
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
