/** Several processes at one campaign. One that dies is replaced; what it found is in the folder. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { Verdict } from "../executor.ts";
import type { Counts } from "./campaign.ts";
import { crashKey, DEATH, NO_END } from "./crash.ts";
import { mergeCounts, NO_COUNTS } from "./figures.ts";
import { CampaignFolder } from "./folder.ts";
import { readInflight } from "./inflight.ts";
import type { Job } from "./job.ts";
import { mixSeed } from "./random.ts";
import type { FromWorker, ToWorker } from "./worker.ts";

/** A worker that dies so often without having reported anything can't work at all. */
const MAX_STILLBORN = 3;
/** Milliseconds that a worker has to end by itself. */
const PATIENCE = 10_000;
/** Milliseconds that a run has. */
const RUN_PATIENCE = 60_000;
/** Signals that come from outside, and say nothing of the run. */
const FROM_OUTSIDE: ReadonlySet<unknown> = new Set([
  "SIGKILL",
  "SIGTERM",
  "SIGINT",
  "SIGHUP",
  "SIGQUIT",
]);

/** Who does a campaign's work: one process, or several. */
export interface Crew {
  counts(): Counts;
  readonly replaced: number;
  /** Resolves when all is done, with the reason if it failed. */
  readonly done: Promise<string | undefined>;
  stop(): void;
}

export type EntryFacts = {
  readonly name: string;
  readonly depth: number;
  readonly parent?: string;
};

interface Worker {
  readonly process: Bun.Subprocess;
  counts?: Counts;
  ended: boolean;
  /** A signal from outside ended it, in its own good time. */
  signalled: boolean;
  /** The run that was under way when somebody looked, and since when. */
  run?: { readonly number: number; readonly since: number };
  /** It was ended because its run didn't. */
  stuck: boolean;
}

export interface WorkersOptions {
  /** The command of one worker: it calls `serveWorker`. */
  readonly command?: readonly string[];
  readonly kept?: (entry: EntryFacts) => void;
  /** Milliseconds after which a run is a hang whatever its executor says. */
  readonly runPatience?: number;
}

export class Workers implements Crew {
  replaced = 0;
  readonly done: Promise<string | undefined>;
  private readonly workers: (Worker | undefined)[] = [];
  private dead: Counts = NO_COUNTS;
  /** Of those that were replaced, at each place. */
  private readonly runsBefore: number[] = [];
  private stillborn = 0;
  private stopping = false;
  private failure: string | undefined;
  private readonly watching: Timer;
  private finish!: (failure: string | undefined) => void;

  constructor(
    private readonly job: Job,
    private readonly count: number,
    private readonly options: WorkersOptions = {},
  ) {
    this.done = new Promise((done) => (this.finish = done));
    this.watching = setInterval(() => this.watch(), Math.min(1000, this.runPatience / 4));
    for (let index = 0; index < count; index++) this.start(index);
  }

  /** The workers' process ids. */
  get pids(): number[] {
    return this.workers.flatMap((worker) => (worker === undefined ? [] : [worker.process.pid]));
  }

  counts(): Counts {
    const live = this.workers.flatMap((worker) => worker?.counts ?? []);
    const cycles = live.length === 0 ? this.dead.cycles : mergeCounts(live).cycles;
    return { ...mergeCounts([...live, this.dead]), cycles };
  }

  stop(): void {
    if (this.stopping) return;
    this.stopping = true;
    for (const worker of this.workers) if (worker !== undefined) this.stopOne(worker);
  }

  private get runPatience(): number {
    return this.options.runPatience ?? RUN_PATIENCE;
  }

  private inflight(index: number): string {
    return join(this.job.folder, `.worker-${index}`);
  }

  /** Ends workers that are in one run for too long: their executor has no budget for what they do. */
  private watch(): void {
    const now = performance.now();
    for (const [index, worker] of this.workers.entries()) {
      if (worker === undefined || worker.ended) continue;
      const number = readInflight(this.inflight(index))?.runs ?? 0;
      if (number === 0) continue;
      if (worker.run?.number !== number) worker.run = { number, since: now };
      else if (now - worker.run.since > this.runPatience) {
        worker.stuck = true;
        worker.process.kill("SIGKILL");
      }
    }
  }

  /** Keeps the input with which a worker died. */
  private save(index: number, { stuck }: Worker, how: string): void {
    const run = readInflight(this.inflight(index));
    if (run === undefined) return;
    const seconds = this.runPatience / 1000;
    const verdict = stuck ? Verdict.TIMEOUT : Verdict.CRASH;
    const report = stuck
      ? { kind: NO_END, text: `the run didn't end in ${seconds} s.`, stack: [] }
      : { kind: DEATH, text: `the worker ended with ${how}.`, stack: [how] };
    const key = crashKey(verdict, report);
    const { origin, opening, seed } = this.job;
    const folder = new CampaignFolder(this.job.folder);
    const finds = folder.finds({ ...origin, opening });
    finds.crashed?.({ key, verdict, report, input: run.input, seed, run: run.runs });
  }

  private stopOne({ process: child }: Worker): void {
    try {
      child.send({ stop: true } satisfies ToWorker);
    } catch {
      // It is gone already.
    }
    const timer = setTimeout(() => child.kill("SIGKILL"), PATIENCE);
    timer.unref();
    void child.exited.then(() => clearTimeout(timer));
  }

  private start(index: number): void {
    const { command = [process.execPath, join(import.meta.dir, "worker-process.ts")] } =
      this.options;
    const generation = this.replaced;
    const inflight = this.inflight(index);
    rmSync(inflight, { force: true });
    const child = Bun.spawn([...command], {
      stdin: "ignore",
      // Standard output may be one object a line: a target's own words go elsewhere.
      stdout: 2,
      stderr: "inherit",
      ipc: (message: FromWorker) => this.hear(worker, message),
      onExit: () => this.gone(index, worker),
    });
    const worker: Worker = { process: child, ended: false, signalled: false, stuck: false };
    this.workers[index] = worker;
    const share = this.job.runs === undefined ? undefined : Math.ceil(this.job.runs / this.count);
    const runs = share && Math.max(1, share - (this.runsBefore[index] ?? 0));
    const { job } = this;
    const turn = index + generation * this.count;
    // One that is alone does what it would do in its parent's process.
    const alone = this.count === 1 && turn === 0;
    const seed = alone ? job.seed : mixSeed(job.seed, turn);
    const shared = job.shared || !alone;
    child.send({ job: { ...job, runs, seed, inflight, shared } } satisfies ToWorker);
  }

  private hear(worker: Worker, message: FromWorker): void {
    if ("entry" in message) {
      this.options.kept?.(message.entry);
      return;
    }
    if (message.counts !== undefined) {
      worker.counts = message.counts;
      this.stillborn = 0;
    }
    if (!("ended" in message)) return;
    worker.signalled = message.signalled;
    worker.ended = !message.signalled;
    if (message.failure === undefined) return;
    this.failure ??= message.failure;
    this.stop();
  }

  private gone(index: number, worker: Worker): void {
    const { signalCode, exitCode } = worker.process;
    const how = signalCode === null ? `status ${exitCode}` : `signal ${signalCode}`;
    this.workers[index] = undefined;
    if (worker.counts !== undefined) {
      this.runsBefore[index] = (this.runsBefore[index] ?? 0) + worker.counts.runs;
      this.dead = { ...mergeCounts([this.dead, worker.counts]), cycles: worker.counts.cycles };
    }
    if (!worker.ended && (!this.stopping || worker.stuck)) {
      const outside = worker.signalled || FROM_OUTSIDE.has(signalCode);
      if (worker.stuck || !outside) this.save(index, worker, how);
    }
    rmSync(this.inflight(index), { force: true });
    if (!worker.ended && !this.stopping) {
      if (worker.counts !== undefined || ++this.stillborn < MAX_STILLBORN) {
        this.replaced++;
        this.start(index);
        return;
      }
      this.failure ??= `workers end at once, with ${how}.`;
      this.stop();
    }
    if (this.workers.some((other) => other !== undefined)) return;
    clearInterval(this.watching);
    this.finish(this.failure);
  }
}
