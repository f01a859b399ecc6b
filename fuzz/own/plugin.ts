/**
 * Instruments the files of src/ as they are loaded: import it, or `--preload` it, before anything of
 * src/ is. With VMD_PLANT=CLASS in the environment, the bug of that class is put in first.
 */
import { plugin } from "bun";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { MAP_SIZE } from "./counters.ts";
import { instrument } from "./instrument.ts";
import { plant } from "./planted.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const src = join(root, "src");
const counters = fileURLToPath(new URL("./counters.ts", import.meta.url));
/** No file has more blocks than one in so many bytes. */
const BYTES_OF_BLOCK = 10;

/** By file: its first place, and how many it may have. */
const ranges = new Map<string, { first: number; most: number }>();
let next = 1;
for (const file of readdirSync(src, { recursive: true, encoding: "utf8" }).sort()) {
  if (!file.endsWith(".ts") || file.endsWith(".test.ts")) continue;
  // Places depend on the files only, not on the order in which they are loaded.
  const most = Math.ceil(statSync(join(src, file)).size / BYTES_OF_BLOCK) + 16;
  ranges.set(join(src, file), { first: next, most });
  next += most;
}
if (next > MAP_SIZE) throw new RangeError(`src/ needs a coverage map of ${next} places`);

/** By file: the lines of its blocks, from its first place on. */
const linesOf = new Map<string, readonly number[]>();

function load(path: string): string {
  const source = plant(relative(root, path), readFileSync(path, "utf8"), process.env.VMD_PLANT);
  const range = ranges.get(path);
  if (range === undefined) return source;
  const { code, lines } = instrument(source, path, range.first, counters);
  if (lines.length > range.most) {
    throw new RangeError(`${path}: ${lines.length} blocks, more than ${range.most}`);
  }
  linesOf.set(path, lines);
  return code;
}

plugin({
  name: "coverage",
  setup(build) {
    build.onLoad({ filter: new RegExp(`^${RegExp.escape(src)}/.*(?<!\\.test)\\.ts$`) }, (args) => ({
      contents: load(args.path),
      loader: "ts",
    }));
  },
});

/** Blocks of the files that were loaded. */
export function blocks(): number {
  let sum = 0;
  for (const lines of linesOf.values()) sum += lines.length;
  return sum;
}

/** Where a place of the map is: "src/vmd/virtio/queue.ts:88"; undefined for none. */
export function placeOf(place: number): string | undefined {
  for (const [path, lines] of linesOf) {
    const { first } = ranges.get(path)!;
    if (place >= first && place < first + lines.length) {
      return `${relative(root, path)}:${lines[place - first]}`;
    }
  }
  return undefined;
}
