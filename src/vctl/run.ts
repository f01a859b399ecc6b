/** From the words of a command line to the command that they mean. */
import { complain, fail } from "./cli.ts";
import { type Commands, makeProgram } from "./program.ts";

const USAGE = "usage:\tvctl [-v] command [arg ...]\n";

/** vmctl's fingers: any prefix that names one command. @returns the words, and which command is meant */
function expandPrefix(
  argv: string[],
  names: readonly string[],
): { argv: string[]; command?: string } {
  const at = argv.findIndex((argument) => !argument.startsWith("-"));
  if (at < 0) return { argv };
  const word = argv[at];
  if (names.includes(word)) return { argv, command: word };
  const matches = names.filter((name) => name.startsWith(word));
  if (matches.length === 1) return { argv: argv.with(at, matches[0]), command: matches[0] };
  const what = matches.length > 1 ? "ambiguous" : "unknown";
  complain(`vctl: ${what} argument: ${word}\n${USAGE}`);
  process.exit(1);
}

async function main(commands: Commands): Promise<void> {
  const words = process.argv.slice(2);
  if (words.every((word) => /^(-v+|--verbose)$/.test(word))) {
    complain(USAGE);
    process.exit(1);
  }
  const { argv, command } = expandPrefix(words, Object.keys(commands));
  // Help before a command is about all of them.
  const help = words
    .slice(0, words.indexOf(command ?? ""))
    .some((word) => /^(-h|--help)$/.test(word));
  const program = await makeProgram(commands, help ? undefined : command);
  await program.parseAsync(argv, { from: "user" });
}

/** Runs vctl with the commands that it is to have. */
export function run(commands: Commands): void {
  main(commands).catch(fail);
}
