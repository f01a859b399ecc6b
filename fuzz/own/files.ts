/** Where inputs of our own targets lie. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Crash } from "../campaign/index.ts";

/** Regressions, in a folder for each target. */
export const CORPUS = fileURLToPath(new URL("../corpus", import.meta.url));

export interface Found extends Crash {
  readonly seconds: number;
}

/** The files of a folder, by name; none if it isn't there. */
export function readInputs(folder: string): Uint8Array[] {
  return inputFiles(folder).map((file) => new Uint8Array(readFileSync(file)));
}

/** Their paths. */
export function inputFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => join(folder, name))
    .sort();
}

export function saveInput(folder: string, name: string, input: Uint8Array): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, name), input);
}

/** A crash's input as it was and as small as it became, and what happened. */
export function saveCrash(folder: string, { key, report, input, minimised }: Crash): void {
  const place = join(folder, "crashes", key);
  mkdirSync(place, { recursive: true });
  writeFileSync(join(place, "input"), input);
  if (minimised !== undefined) writeFileSync(join(place, "minimised"), minimised);
  writeFileSync(join(place, "report.json"), `${JSON.stringify(report, undefined, 2)}\n`);
}
