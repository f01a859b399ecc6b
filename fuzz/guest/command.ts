/** What `vctl fuzz` does. */
import { createHash } from "node:crypto";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import {
  type CampaignFlags,
  CampaignFolder,
  campaignOptions,
  drcov,
  fuzz,
  minimiseFolder,
  type Opening,
  readBundle,
  unconfined,
} from "../campaign/index.ts";
import { confine } from "../campaign/confine.ts";
import { type Executor, Verdict } from "../executor.ts";
import { compareEngines } from "./compare.ts";
import { coveredBlocks } from "./covered.ts";
import { openGuest } from "./index.ts";
import { linesOf } from "./lines.ts";
import { FuzzError } from "./machine.ts";
import type { GuestOptions } from "./options.ts";
import { imageOf, Symbols } from "./symbols.ts";
import { tryGuest } from "./trial.ts";

export interface Request extends Omit<GuestOptions, "length" | "disks"> {
  readonly disk?: readonly string[];
  readonly length?: string;
  readonly campaign: CampaignFlags;
  /** Inputs, or crashes' folders. */
  readonly run?: readonly string[];
  readonly drcov?: string;
  readonly lcov?: string;
  readonly pages?: boolean;
  readonly compare?: "kvm" | "unicorn";
}

type Print = (text: string) => void;
/** Something was found, or differs. */
const FOUND = 2;

/**
 * @param print takes text for standard output
 * @param say takes sentences for people
 * @returns the exit status
 * @throws FuzzError and others whose message is a sentence
 */
export async function main(request: Request, print: Print, say: Print): Promise<number> {
  const options = guestOptions(request);
  if (request.run !== undefined)
    return await runInputs(request.run, options, request.pages === true, print);
  const { corpus } = request.campaign;
  if (request.drcov !== undefined || request.lcov !== undefined) {
    return await writeCoverage(needed(corpus), options, request, say);
  }
  if (request.compare !== undefined) {
    return await compareEngines(needed(corpus), options, request.compare, print, say);
  }
  if (request.campaign.cmin === true) {
    const folder = needed(corpus);
    const open = () => openGuest(options, () => confine(folder));
    const { before, after } = await minimiseFolder(new CampaignFolder(folder), open);
    say(`${after} of ${before} inputs are needed for all edges`);
    return 0;
  }
  return await campaign(request, options, say);
}

function needed(corpus: string | undefined): string {
  if (corpus === undefined) throw new FuzzError("which corpus? --corpus says it");
  return resolve(corpus);
}

/** What another process can be told: paths are absolute. */
function guestOptions(request: Request): GuestOptions {
  const { file, engine, memory, cmdline, initrd, symbols, type, start, input, length } = request;
  const disks = request.disk?.map((name) => resolve(name));
  const { end, crash, coverage, budget, verify } = request;
  const path = (name: string | undefined) => (name === undefined ? undefined : resolve(name));
  return {
    ...{ file: resolve(file), engine, memory, cmdline, initrd: path(initrd), disks, start },
    ...{ input, length, end, crash, coverage, budget, verify },
    type: type?.replaceAll("\\n", "\n"),
    symbols: symbols?.map((name) => resolve(name)),
    blocks: path(request.blocks),
    structure: path(request.structure),
  };
}

async function campaign(request: Request, options: GuestOptions, say: Print): Promise<number> {
  // What can't be done is said before any worker is started.
  const engine = await tryGuest(options);
  const missing = unconfined();
  if (missing !== undefined) say(missing);
  const opening: Opening = {
    module: join(import.meta.dir, "index.ts"),
    name: "openGuest",
    argument: options,
  };
  const scratch =
    request.campaign.corpus === undefined ? mkdtempSync(join(tmpdir(), "vmd-fuzz-")) : "";
  const folder = scratch === "" ? needed(request.campaign.corpus) : scratch;
  const target = request.file.split("/").at(-1) as string;
  const digest = digestOf(options);
  const before = new CampaignFolder(folder).keys();
  let found = 0;
  try {
    const { failure } = await fuzz({
      folder,
      // Of a structure's choices each is four bytes.
      unit: options.structure === undefined ? undefined : 4,
      ...campaignOptions(request.campaign, { target, opening, digest, engine }),
      confined: true,
    });
    if (failure !== undefined) throw new FuzzError(failure);
    const after = new CampaignFolder(folder).keys();
    found = after.crashes.length - before.crashes.length;
    const hangs = after.hangs.length - before.hangs.length;
    say(`${found} new crashes, ${hangs} new hangs in ${folder}`);
  } finally {
    // What was found stays.
    if (scratch !== "" && found === 0) rmSync(scratch, { recursive: true, force: true });
  }
  return found > 0 ? FOUND : 0;
}

/** Of the file that runs begin from, and of how they do. */
function digestOf(options: GuestOptions): string {
  const hash = createHash("sha256");
  const descriptor = openSync(options.file, "r");
  const piece = Buffer.alloc(2 ** 20);
  try {
    for (;;) {
      const read = readSync(descriptor, piece, 0, piece.length, null);
      if (read === 0) break;
      hash.update(piece.subarray(0, read));
    }
  } finally {
    closeSync(descriptor);
  }
  const { file: _, engine: __, symbols: ___, ...rest } = options;
  return hash.update(JSON.stringify(rest)).digest("hex");
}

function closing<T extends Executor>(value: T): { value: T } & Disposable {
  return { value, [Symbol.dispose]: () => value.close?.() };
}

function inputsOf(path: string): Uint8Array[] {
  let isFolder: boolean;
  try {
    isFolder = statSync(path).isDirectory();
  } catch (error) {
    throw new FuzzError((error as Error).message);
  }
  if (!isFolder) return [readFileSync(path)];
  const { input, minimised } = readBundle(path);
  return [minimised ?? input];
}

const ENDINGS = {
  [Verdict.DONE]: "done",
  [Verdict.TIMEOUT]: "timeout",
  [Verdict.CRASH]: "crash",
  [Verdict.FAILED]: "failed",
} as const;

async function runInputs(
  paths: readonly string[],
  options: GuestOptions,
  pages: boolean,
  print: Print,
): Promise<number> {
  const inputs = paths.flatMap((path) => inputsOf(path).map((input) => ({ path, input })));
  // Nothing is opened from here on.
  using executor = closing(await openGuest(options, () => confine()));
  const { value } = executor;
  let status = 0;
  for (const { path, input } of inputs) {
    const verdict = value.run(input, Math.min(input.length, value.maxInput));
    const crash = value.crash();
    const edges = value.edges().length;
    const what = crash === undefined ? "" : `: ${crash.kind}: ${crash.text}`;
    const unit = value.machine.life.engine.name === "kvm" ? "ns" : "blocks";
    print(`${path}: ${ENDINGS[verdict]}${what} (${value.cost()} ${unit}, ${edges} edges)\n`);
    for (const frame of crash?.stack ?? []) print(`    ${frame}\n`);
    if (pages) {
      const written = value.writtenPages().map((page) => `0x${page.toString(16)}`);
      print(`    written: ${written.join(" ")}\n`);
    }
    if (verdict !== Verdict.DONE) status = FOUND;
  }
  return status;
}

async function writeCoverage(
  folder: string,
  options: GuestOptions,
  files: Pick<Request, "drcov" | "lcov">,
  say: Print,
): Promise<number> {
  const blocks = await coveredBlocks(folder, options);
  const path = options.symbols?.[0] ?? options.file;
  const addresses = [...blocks.keys()].sort((a, b) => Number(a > b) - Number(a < b));
  if (files.drcov !== undefined) {
    // Where no file says it, from the first page that was entered.
    const first = Symbols.all(options.symbols ?? []).address("_text") ?? addresses[0] & ~0xfffn;
    const { base, end } = imageOf(path) ?? {
      base: first,
      end: addresses[addresses.length - 1] + 1n,
    };
    const list = Array.from(blocks, ([address, { size }]) => ({ address, size })).filter(
      ({ address }) => address >= base && address < end,
    );
    writeFileSync(files.drcov, drcov([{ path, base, end }], list));
    const some = list.length < blocks.size ? `${list.length} of ${blocks.size}` : list.length;
    say(`${files.drcov}: ${some} blocks, from 0x${base.toString(16)} on`);
  }
  if (files.lcov !== undefined) {
    const counts = new Map(Array.from(blocks, ([address, { count }]) => [address, count]));
    writeFileSync(files.lcov, linesOf(path, counts));
    say(`${files.lcov}: the lines of ${blocks.size} blocks`);
  }
  return 0;
}
