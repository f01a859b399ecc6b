/** Where this project lies, whether its sources run or a bundle of them (build/). */
import { existsSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

// In a bundle, import.meta.dir is where it was built; what is run is src/vctl/index.ts or itself.
const here = process.env.VMD_BUNDLED === "yes" ? dirname(Bun.main) : import.meta.dir;

/** The project's folder. */
export const root = here.replace(/\/(?:src|build)\/(?:vctl|vmd|vmm)(?:\/.*)?$/, "");

/**
 * A program's bundle in build/, which loads in a third of the time, unless a source is newer.
 * @param source its path under src/.
 * @returns the path of what to run.
 */
export function programPath(source: string): string {
  const found = paths.get(source) ?? findProgram(source);
  paths.set(source, found);
  return found;
}

/** All sources are looked at once: a daemon starts many processes. */
const paths = new Map<string, string>();

function findProgram(source: string): string {
  const path = join(root, "src", source);
  const bundle = join(root, "build", source.replace(/\.ts$/, ".js"));
  if (!existsSync(bundle)) return path;
  return statSync(bundle).mtimeMs >= newest(join(root, "src")) ? bundle : path;
}

function newest(folder: string): number {
  let latest = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    const time = entry.isDirectory() ? newest(path) : statSync(path).mtimeMs;
    if (time > latest) latest = time;
  }
  return latest;
}
