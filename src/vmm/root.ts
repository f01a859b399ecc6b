/** Where this project lies, whether its sources run or a bundle of them (build/). */
import { readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

// In a bundle, import.meta.dir is where it was built; what is run is src/vctl/index.ts or itself.
const here = process.env.VMD_BUNDLED === "yes" ? dirname(Bun.main) : import.meta.dir;

/** The project's folder. */
export const root = here.replace(/\/(?:src|build)\/(?:vctl|vmd|vmm)(?:\/.*)?$/, "");

/**
 * A program's bundle in build/, which loads in a third of the time, unless one of the sources that it was
 * made of is newer.
 * @param source its path under src/.
 * @param part the path, under src/, of a part of it that will do, of which there may be a bundle
 * @returns the path of what to run.
 */
export function programPath(source: string, part?: string): string {
  const found = paths.get(part ?? source);
  if (found !== undefined) return found;
  const path = (part && bundleOf(part)) ?? bundleOf(source) ?? join(root, "src", source);
  paths.set(part ?? source, path);
  return path;
}

/** Each is looked for once: a daemon starts many processes. */
const paths = new Map<string, string>();

function bundleOf(source: string): string | undefined {
  const bundle = join(root, "build", source.replace(/\.ts$/, ".js"));
  try {
    const made = statSync(bundle).mtimeMs;
    const sources = readFileSync(`${bundle}.sources`, "utf8").split("\n");
    const fresh = sources.every((name) => statSync(join(root, name)).mtimeMs <= made);
    return fresh ? bundle : undefined;
  } catch {
    // It isn't made, or a source is gone.
    return undefined;
  }
}
