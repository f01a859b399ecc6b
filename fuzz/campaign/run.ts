/** A whole campaign: its folder, its workers, its views, until it is stopped. */
import { availableParallelism } from "node:os";
import type { Origin } from "./bundle.ts";
import type { Campaign, Counts } from "./campaign.ts";
import { type Facts, type Figures, Meter, NO_COUNTS } from "./figures.ts";
import { CampaignFolder, type CampaignState, FolderError } from "./folder.ts";
import { drive, type Job, openCampaign } from "./job.ts";
import { mixSeed } from "./random.ts";
import { FiguresServer } from "./server.ts";
import { type Output, TerminalView } from "./terminal.ts";
import { type Crew, type EntryFacts, Workers } from "./workers.ts";

/** Milliseconds between two looks at the figures. */
const SHOW_EVERY = 1000;
/** Milliseconds between two writings of campaign.json. */
const SAVE_EVERY = 10_000;

/** Carries finds to other machines, and theirs into the folder. */
export interface Link {
  /** One exchange; never rejects. */
  sync(): Promise<void>;
  readonly status: string;
  close(): void;
}

export interface RunOptions
  extends
    Omit<Job, "origin" | "seed" | "shared">,
    Pick<Origin, "target" | "digest" | "engine" | "library"> {
  /** Absent: that of the sessions before, or any. */
  readonly seed?: number;
  /**
   * Processes; absent: as many as processors. With 1 the runs are repeatable, and made in this process
   * unless it is to be confined.
   */
  readonly workers?: number;
  /** Of one worker (`WorkersOptions`). */
  readonly command?: readonly string[];
  /** Seconds after which it ends. */
  readonly time?: number;
  /** Prints figures, one JSON object a line, in place of the view. */
  readonly json?: boolean;
  readonly output?: Output;
  /** Shows figures by HTTP. */
  readonly http?: { readonly port: number; readonly hostname?: string };
  readonly link?: (folder: CampaignFolder) => Link;
  /** Stops it, like SIGINT and SIGTERM. */
  readonly signal?: AbortSignal;
}

export interface Outcome {
  readonly figures: Figures;
  /** Why it couldn't go on. */
  readonly failure?: string;
}

/** The work done in this process. */
class Alone implements Crew {
  readonly replaced = 0;
  readonly done: Promise<string | undefined>;
  private campaign: Campaign | undefined;
  private stopped = false;

  constructor(job: Job, kept: (entry: EntryFacts) => void) {
    this.done = this.work(job, kept);
  }

  counts(): Counts {
    return this.campaign?.counts() ?? NO_COUNTS;
  }

  stop(): void {
    this.stopped = true;
  }

  private async work(job: Job, kept: (entry: EntryFacts) => void): Promise<string | undefined> {
    try {
      const { campaign, folder, executor } = await openCampaign(job, kept);
      this.campaign = campaign;
      await drive(job, campaign, folder, { stopped: () => this.stopped });
      // Figures are asked for once more, after the end.
      const counts = campaign.counts();
      this.counts = () => counts;
      executor.close?.();
      return campaign.failure;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }
}

/** What was there before, in this folder. @throws FolderError if it is another target's */
function before(folder: CampaignFolder, { target, digest }: RunOptions): CampaignState | undefined {
  const state = folder.readState();
  if (state === undefined) return undefined;
  if (state.target !== target)
    throw new FolderError(`the corpus ${folder.path} is ${state.target}'s, not ${target}'s.`);
  if (digest !== undefined && state.digest !== undefined && digest !== state.digest)
    throw new FolderError(`the corpus ${folder.path} is of another state of ${target}.`);
  return state;
}

/** Calls `stop` at the first of the ways to end a campaign; what is returned takes that back. */
function whenToStop({ time, signal }: RunOptions, stop: () => void): () => void {
  const timer = time === undefined ? undefined : setTimeout(stop, time * 1000);
  // A second one ends the process as usual.
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  signal?.addEventListener("abort", stop);
  if (signal?.aborted) stop();
  return () => {
    clearTimeout(timer);
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
    signal?.removeEventListener("abort", stop);
  };
}

/** One session: the state on disk and the views of what the crew does. */
class Session {
  private readonly meter: Meter;
  private readonly server: FiguresServer | undefined;
  private readonly view: TerminalView;
  private readonly entries: CampaignState["entries"];
  private readonly link: Link | undefined;
  private linking: Promise<void> | undefined;
  private saved = performance.now();

  constructor(
    private readonly options: RunOptions,
    private readonly folder: CampaignFolder,
    private readonly facts: Facts,
    private readonly sessions: number,
    entries: CampaignState["entries"],
  ) {
    const { http, output = process.stdout, link } = options;
    this.entries = { ...entries };
    this.meter = new Meter(facts);
    this.view = new TerminalView(output);
    this.server = http === undefined ? undefined : new FiguresServer(http.port, http.hostname);
    if (this.server !== undefined) process.stderr.write(`figures at ${this.server.url}\n`);
    this.link = link?.(folder);
  }

  kept({ name, depth, parent }: EntryFacts): void {
    this.entries[name] = { depth, parent };
  }

  figures(crew: Crew): Figures {
    const keys = this.folder.keys();
    const counts = { ...crew.counts(), crashes: keys.crashes.length, hangs: keys.hangs.length };
    const { replaced } = crew;
    return this.meter.figures(counts, { replaced, exchange: this.link?.status });
  }

  tick(crew: Crew): void {
    const figures = this.figures(crew);
    this.server?.show(figures);
    if (this.options.json) this.print(figures);
    else this.view.show(figures);
    if (performance.now() - this.saved > SAVE_EVERY) this.save(figures);
    if (this.link !== undefined && this.linking === undefined) {
      this.linking = this.link.sync().finally(() => (this.linking = undefined));
    }
  }

  async end(crew: Crew): Promise<Figures> {
    await this.linking;
    // What was found last goes out too.
    await this.link?.sync();
    const figures = this.figures(crew);
    this.save(figures);
    this.server?.show(figures);
    if (this.options.json) this.print(figures);
    else this.view.end(figures);
    return figures;
  }

  async close(): Promise<void> {
    this.link?.close();
    await this.server?.close();
  }

  save(figures: Pick<Figures, "totalRuns" | "totalSeconds">): void {
    this.saved = performance.now();
    const { target, digest } = this.options;
    const { totalRuns: runs, totalSeconds: seconds } = figures;
    const { sessions, entries } = this;
    const { seed } = this.facts;
    this.folder.writeState({ format: 1, target, digest, seed, sessions, runs, seconds, entries });
  }

  private print(figures: Figures): void {
    (this.options.output ?? process.stdout).write(`${JSON.stringify(figures)}\n`);
  }
}

/**
 * Fuzzes until the time or the runs are used up, a signal comes, or the target can't go on. All that was
 * found is in the folder then, and the next session goes on from there.
 * @throws FolderError, ServerError
 */
export async function fuzz(options: RunOptions): Promise<Outcome> {
  const folder = new CampaignFolder(options.folder);
  const unlock = folder.lock();
  try {
    return await fuzzIn(folder, options);
  } finally {
    unlock();
  }
}

async function fuzzIn(folder: CampaignFolder, options: RunOptions): Promise<Outcome> {
  const { target, engine, digest, library, workers = availableParallelism() } = options;
  const state = before(folder, options);
  const any = crypto.getRandomValues(new Uint32Array(1))[0];
  const seed = (options.seed ?? state?.seed ?? any) >>> 0;
  const sessions = state?.sessions ?? 0;
  const facts = { target, engine, seed, workers };
  const past = { runsBefore: state?.runs, secondsBefore: state?.seconds };
  const { opening, runs, seeds, dictionary, unit, confined } = options;
  const job: Job = {
    ...{ folder: options.folder, opening, runs, seeds, dictionary, unit, confined },
    origin: { target, digest, engine, library },
    seed: sessions === 0 ? seed : mixSeed(seed, sessions),
    shared: workers > 1 || options.link !== undefined,
  };
  const entries = state?.entries ?? {};
  const session = new Session(options, folder, { ...facts, ...past }, sessions + 1, entries);
  // A session that is killed has been one.
  session.save({ totalRuns: state?.runs ?? 0, totalSeconds: state?.seconds ?? 0 });
  const kept = (entry: EntryFacts) => session.kept(entry);
  const crew: Crew =
    workers > 1 || confined === true
      ? new Workers(job, workers, { command: options.command, kept })
      : new Alone(job, kept);
  const forget = whenToStop(options, () => crew.stop());
  const timer = setInterval(() => session.tick(crew), SHOW_EVERY);
  try {
    const failure = await crew.done;
    return { figures: await session.end(crew), failure };
  } finally {
    clearInterval(timer);
    forget();
    await session.close();
  }
}
