// Programs of our own for guests, built from C.

import { mkdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { cache } from "./guest.ts";

/** Set where there is no compiler (the lab): a folder that has them built. */
const built = process.env.VMD_SMALL_GUESTS;

export const compiler = Bun.which("gcc");

/** Why none can be had here, as a sentence; undefined if they can. */
export function compilerMissing(): string | undefined {
  return compiler === null && built === undefined ? "there is no gcc" : undefined;
}

/**
 * Builds a program. @param name of its file. @param words for gcc, without the output.
 * @returns its path. @throws Error with what gcc says
 */
export function buildProgram(name: string, words: readonly string[]): string {
  if (built !== undefined) return join(built, name);
  const folder = join(cache, "small");
  mkdirSync(folder, { recursive: true });
  const path = join(folder, name);
  const draft = `${path}.${process.pid}`;
  const { exitCode, stderr } = Bun.spawnSync(["gcc", ...words, "-o", draft]);
  if (exitCode !== 0) throw new Error(`${name}: ${stderr.toString()}`);
  renameSync(draft, path);
  return path;
}
