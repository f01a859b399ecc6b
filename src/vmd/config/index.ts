/**
 * config/: vm.conf(5). It reads files and knows who users are; it opens no disk, starts nothing, and
 * fails only with messages: "file:line: what is wrong", all of a file in one run.
 */
import { Accounts } from "../accounts.ts";
import { buildConfig, type PathCheck, pathExists } from "./build.ts";
import type { Config, ConfigMessage } from "./config.ts";
import { parseTokens } from "./grammar.ts";
import { type PlacedToken, readSource } from "./source.ts";

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
  const { macros, accounts = Accounts.read(), exists = pathExists } = options;
  const source = readSource(path, macros);
  const { tree, broken } = parseTokens(source.tokens);
  const { config, errors } = buildConfig(tree, accounts, exists);
  const all = [...source.errors, ...broken.map(syntaxError), ...errors];
  const distinct = new Map(all.map((one) => [format(one), one]));
  const sorted = [...distinct.values()].sort((a, b) => (a.file === b.file ? a.line - b.line : 0));
  const { warnings } = source;
  return sorted.length === 0 ? { config, errors: [], warnings } : { errors: sorted, warnings };
}

/** "file:line: message". */
export function format({ file, line, message }: ConfigMessage): string {
  return line === 0 ? `${file}: ${message}` : `${file}:${line}: ${message}`;
}

function syntaxError(token: unknown): ConfigMessage {
  const { file, line } = (token as PlacedToken).payload;
  return { file, line, message: "syntax error" };
}
