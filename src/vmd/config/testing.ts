/** Configuration files of tests, in a folder of their own. */
import { expect } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { Accounts } from "../accounts.ts";
import { type Config, format, parseConfig, type ParseResult } from "./index.ts";

export const accounts = new Accounts(
  [
    { name: "root", uid: 0, gid: 0 },
    { name: "alice", uid: 1000, gid: 1000 },
  ],
  [
    { name: "wheel", gid: 0, members: [] },
    { name: "staff", gid: 50, members: ["alice"] },
  ],
);

export const folder = mkdtempSync(join(tmpdir(), "config-"));
export const file = join(folder, "vm.conf");

/** To be called after all tests of a file. */
export const cleanUp = () => rmSync(folder, { recursive: true, force: true });

/** Paths that begin so are not there. */
const exists = (path: string) => !path.startsWith("/missing");

/** Writes a file beside the configuration; its path. */
export function put(name: string, text: string): string {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  return path;
}

export function parse(text: string, macros?: Record<string, string>): ParseResult {
  put("vm.conf", text);
  return parseConfig(file, { accounts, exists, macros });
}

/** A configuration without errors. */
export function config(text: string, macros?: Record<string, string>): Config {
  const { config: found, errors } = parse(text, macros);
  expect(errors.map(format)).toEqual([]);
  return found as Config;
}

/** What is wrong with one: "line: message". */
export function errors(text: string): string[] {
  const result = parse(text);
  expect(result.config).toBeUndefined();
  return result.errors.map((error) => format(error).replace(`${file}:`, ""));
}

/** A VM of these statements, each on a line, from line 2 on. */
export function vm(...lines: string[]): string {
  return `vm "test" {\n${lines.map((line) => `\t${line}\n`).join("")}}\n`;
}
