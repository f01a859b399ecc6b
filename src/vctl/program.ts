/** The program of vctl: what its help, its completions and its manual say, too. */
import { Command, type CommanderError } from "commander";
import packageFile from "../../package.json" with { type: "json" };
import { complain, print, setVerbose } from "./cli.ts";

/** What makes each command. */
export type Commands = Record<string, (program: Command) => Promise<Command>>;

/**
 * @param commands that there are
 * @param wanted the only command that there is to be; absent: all, as help and completions need them
 */
export async function makeProgram(commands: Commands, wanted?: string): Promise<Command> {
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
  const alone = wanted !== undefined && wanted !== "completion" && wanted in commands;
  for (const name of alone ? [wanted] : Object.keys(commands)) {
    const command = (await commands[name](program)).copyInheritedSettings(program);
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
