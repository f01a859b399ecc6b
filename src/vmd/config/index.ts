/**
 * config/: vm.conf(5). It reads files and knows who users are; it opens no disk, starts nothing, and
 * fails only with messages: "file:line: what is wrong", all of a file in one run.
 */
import { existsSync } from "node:fs";
import { Accounts } from "../accounts.ts";
import { buildConfig, type PathCheck } from "./build.ts";
import type { Config, ConfigMessage, Place } from "./config.ts";
import { parseTokens } from "./grammar.ts";
import { Messages, MOST_ERRORS } from "./messages.ts";
import { readSource } from "./source.ts";

export { format } from "./messages.ts";
export type * from "./config.ts";

export interface ParseOptions {
  /** Macros over those of the files. */
  macros?: Record<string, string>;
  accounts?: Accounts;
  exists?: PathCheck;
}

export interface ParseResult {
  /** Absent when there are errors. */
  config?: Config;
  /** In the order of the files' lines. */
  errors: ConfigMessage[];
  warnings: ConfigMessage[];
}

/** Reads a configuration file. Never throws, whatever is in it. */
export function parseConfig(path: string, options: ParseOptions = {}): ParseResult {
  const { macros, accounts = Accounts.read(), exists = existsSync } = options;
  const messages = new Messages();
  const tokens = readSource(path, messages, macros);
  const { tree, broken } = parseTokens(tokens);
  for (const { payload } of broken) messages.error(payload as Place, "syntax error");
  // The parser gives up then.
  if (broken.length >= MOST_ERRORS) messages.tooMany(broken.at(-1)?.payload as Place);
  const config = buildConfig(tree, { accounts, exists, messages });
  const { errors, warnings } = messages;
  return errors.length === 0 ? { config, errors, warnings } : { errors, warnings };
}
