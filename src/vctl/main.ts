/**
 * vctl: controls virtual machines from the command line. One file a command; what they share is in
 * cli.ts. A bundle of this is made (build/), so nothing here waits at the top level.
 */
import { COMMANDS } from "./commands/index.ts";
import { run } from "./run.ts";

run(COMMANDS);
