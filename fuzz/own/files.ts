/** Where inputs of our own targets lie. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inputName, readSeeds } from "../campaign/index.ts";
import type { Target } from "./target.ts";

/** Regressions, in a folder for each target. */
export const CORPUS = fileURLToPath(new URL("../corpus", import.meta.url));

/** The files of a folder, by name; none if it isn't there. */
export function inputFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .sort()
    .map((name) => join(folder, name));
}

/** What a target's campaign begins with: its own seeds, and what once found a bug. */
export function seedsOf(target: Target): Uint8Array[] {
  const folder = join(CORPUS, target.name);
  return [...target.seeds(), ...(existsSync(folder) ? readSeeds(folder) : [])];
}

/** Puts inputs into a folder, in their order. */
export function writeSeeds(folder: string, seeds: readonly Uint8Array[]): void {
  mkdirSync(folder, { recursive: true });
  for (const [index, seed] of seeds.entries()) {
    const name = `${String(index).padStart(4, "0")}-${inputName(seed).slice(0, 8)}`;
    writeFileSync(join(folder, name), seed);
  }
}

/** Byte strings as a dictionary in AFL's format. */
export function writeDictionary(file: string, tokens: readonly Uint8Array[]): void {
  const line = (token: Uint8Array, index: number) => {
    const bytes = Array.from(token, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`);
    return `token${index}="${bytes.join("")}"\n`;
  };
  writeFileSync(file, tokens.map(line).join(""));
}
