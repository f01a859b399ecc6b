/**
 * A crash as a folder: `input`, `minimised`, `report.json`, `trace` if there is one, and `crash.test.ts`,
 * which replays it under `bun test` and passes when the bug is gone.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { isAbsolute, join, relative } from "node:path";
import * as v from "valibot";
import { type CrashReport, type Executor, Verdict } from "../executor.ts";
import { type Crash, crashKey } from "./crash.ts";
import { temporaryName, writeWhole } from "./files.ts";

const FORMAT = 1;

/** How an executor is made: a module, what it exports, and what that is called with (JSON). */
export interface Opening {
  /** An absolute path, or a package's name. */
  readonly module: string;
  /** `open` if absent. It gives an `Executor`, or a promise of one. */
  readonly name?: string;
  readonly argument?: unknown;
}

/** What a bundle says of the campaign that it comes from. */
export interface Origin {
  readonly target: string;
  readonly opening?: Opening;
  /** Of the snapshot, or of whatever the runs begin from. */
  readonly digest?: string;
  readonly engine?: string;
  /** Records a run of an input: its exit trace. */
  readonly trace?: (input: Uint8Array) => Uint8Array | undefined;
  /** The module that exports `replayBundle`, where it isn't this one's index.ts. */
  readonly library?: string;
}

const ReportSchema = v.object({
  format: v.literal(FORMAT),
  key: v.string(),
  ending: v.picklist(["crash", "hang"]),
  kind: v.string(),
  text: v.string(),
  stack: v.array(v.string()),
  target: v.string(),
  digest: v.optional(v.string()),
  engine: v.optional(v.string()),
  seed: v.number(),
  run: v.number(),
  parent: v.optional(v.string()),
  found: v.string(),
});

export type BundleReport = v.InferOutput<typeof ReportSchema>;

export interface Bundle {
  readonly folder: string;
  readonly report: BundleReport;
  readonly input: Uint8Array;
  readonly minimised?: Uint8Array;
}

export class BundleError extends Error {
  override readonly name = "BundleError";
}

function specifier(folder: string, module: string): string {
  if (!isAbsolute(module)) return module;
  const path = relative(folder, module);
  return path.startsWith(".") ? path : `./${path}`;
}

function testSource(folder: string, { kind, text }: CrashReport, origin: Origin): string {
  const { opening, library = join(import.meta.dir, "index.ts") } = origin;
  if (opening === undefined) return "";
  const { module, name = "open", argument } = opening;
  const title = JSON.stringify(text === "" ? kind : `${kind}: ${text}`);
  const call = argument === undefined ? "" : JSON.stringify(argument);
  return `// Passes when the input doesn't lead to this any more.
import { expect, test } from "bun:test";
import { replayBundle } from ${JSON.stringify(specifier(folder, library))};
import { ${name} } from ${JSON.stringify(specifier(folder, module))};

test(${title}, async () => {
  const executor = await ${name}(${call});
  expect(replayBundle(import.meta.dir, executor).crash).toBeUndefined();
}, 60_000);
`;
}

/** Writes a new one, whole; false if there is one of this key. */
export function writeBundle(parent: string, crash: Crash, origin: Origin): boolean {
  const folder = join(parent, crash.key);
  if (existsSync(folder)) return false;
  const { key, verdict, report, seed, run } = crash;
  const { target, digest, engine } = origin;
  const written: BundleReport = {
    format: FORMAT,
    key,
    ending: verdict === Verdict.TIMEOUT ? "hang" : "crash",
    ...{ kind: report.kind, text: report.text, stack: [...report.stack] },
    ...{ target, digest, engine, seed, run, parent: crash.parent },
    found: new Date().toISOString(),
  };
  const files: Record<string, Uint8Array | string | undefined> = {
    input: crash.input,
    minimised: crash.minimised,
    "report.json": `${JSON.stringify(written, null, 2)}\n`,
    "crash.test.ts": testSource(folder, report, origin) || undefined,
    trace: origin.trace?.(crash.input),
  };
  return writeFolder(folder, files);
}

/** Writes a folder at once; false if it is there. */
export function writeFolder(
  folder: string,
  files: Readonly<Record<string, Uint8Array | string | undefined>>,
): boolean {
  const temporary = temporaryName(join(folder, ".."), "new");
  mkdirSync(temporary);
  try {
    for (const [name, data] of Object.entries(files)) {
      if (data !== undefined) writeFileSync(join(temporary, name), data, { flush: true });
    }
    renameSync(temporary, folder);
    return true;
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOTEMPTY" || code === "EEXIST") return false;
    throw error;
  }
}

export function writeMinimised(parent: string, key: string, minimised: Uint8Array): void {
  writeWhole(join(parent, key, "minimised"), minimised);
}

/** @throws BundleError */
export function readBundle(folder: string): Bundle {
  const read = (name: string) => {
    try {
      return readFileSync(join(folder, name));
    } catch (error) {
      throw new BundleError(`can't read ${join(folder, name)}: ${(error as Error).message}.`);
    }
  };
  const file = join(folder, "report.json");
  let json: unknown;
  try {
    json = JSON.parse(read("report.json").toString());
  } catch (error) {
    if (error instanceof BundleError) throw error;
    throw new BundleError(`${file}: this is no JSON.`);
  }
  const parsed = v.safeParse(ReportSchema, json);
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw new BundleError(`${file}: ${v.getDotPath(issue) ?? "report"}: ${issue.message}.`);
  }
  const minimised = existsSync(join(folder, "minimised")) ? read("minimised") : undefined;
  return { folder, report: parsed.output, input: read("input"), minimised };
}

/** The bundles of a folder, by key. @throws BundleError */
export function readBundles(parent: string): Bundle[] {
  if (!existsSync(parent)) return [];
  const names = readdirSync(parent).filter((name) => !name.startsWith("."));
  return names.sort().map((name) => readBundle(join(parent, name)));
}

export interface Replayed {
  readonly verdict: Verdict;
  /** What the run ended in; undefined if it came to its end. */
  readonly crash?: CrashReport;
  /** Whether it is the bundle's crash. */
  readonly same: boolean;
}

/**
 * Runs a bundle's input, the small one first; if that does nothing any more, the one that was found.
 * @throws BundleError; an Error if the executor can't go on
 */
export function replayBundle(folder: string, executor: Executor): Replayed {
  const { report, input, minimised } = readBundle(folder);
  let replayed: Replayed = { verdict: Verdict.DONE, same: false };
  for (const one of minimised === undefined ? [input] : [minimised, input]) {
    const verdict = executor.run(one, Math.min(one.length, executor.maxInput));
    if (verdict === Verdict.FAILED) throw new Error(executor.failure ?? "the target can't go on.");
    if (verdict === Verdict.DONE) continue;
    const crash = executor.crash();
    const same = crash !== undefined && crashKey(verdict, crash) === report.key;
    replayed = { verdict, crash, same };
    break;
  }
  return replayed;
}
