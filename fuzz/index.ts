/** `bun fuzz`: fuzzes a target of our own code; docs/fuzzing-own.md. */
import { main } from "./own/command.ts";

process.exitCode = await main(process.argv.slice(2));
