/**
 * vctl: controls virtual machines from the command line. One file a command; what they share is in
 * cli.ts. A bundle of this is made (build/), so nothing here waits at the top level.
 */
import { complain, fail } from "./cli.ts";
import { makeProgram } from "./program.ts";

const USAGE = "usage:\tvctl [-v] command [arg ...]\n";
const program = makeProgram();

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
