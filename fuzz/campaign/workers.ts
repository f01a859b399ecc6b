/** Several processes at one campaign. One that dies is replaced; what it found is in the folder. */
import { join } from "node:path";
import type { Counts } from "./campaign.ts";
import { mergeCounts, NO_COUNTS } from "./figures.ts";
import type { Job } from "./job.ts";
import { mixSeed } from "./random.ts";
import type { FromWorker, ToWorker } from "./worker.ts";

/** A worker that dies so often without having reported anything can't work at all. */
const MAX_STILLBORN = 3;
/** Milliseconds that a worker has to end by itself. */
const PATIENCE = 10_000;

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
}

export interface WorkersOptions {
  /** The command of one worker: it calls `serveWorker`. */
  readonly command?: readonly string[];
  readonly kept?: (entry: EntryFacts) => void;
}

export class Workers implements Crew {
  replaced = 0;
  readonly done: Promise<string | undefined>;
  private readonly workers: (Worker | undefined)[] = [];
  private dead: Counts = NO_COUNTS;
  private stillborn = 0;
  private stopping = false;
  private failure: string | undefined;
  private finish!: (failure: string | undefined) => void;

  constructor(
    private readonly job: Job,
    private readonly count: number,
    private readonly options: WorkersOptions = {},
  ) {
    this.done = new Promise((done) => (this.finish = done));
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
    const { command = [process.execPath, join(import.meta.dir, "worker.ts")] } = this.options;
    const generation = this.replaced;
    const child = Bun.spawn([...command], {
      stdin: "ignore",
      // Standard output may be one object a line: a target's own words go elsewhere.
      stdout: 2,
      stderr: "inherit",
      ipc: (message: FromWorker) => this.hear(worker, message),
      onExit: (_, code, signal) =>
        this.gone(index, worker, signal === null ? `status ${code}` : `signal ${signal}`),
    });
    const worker: Worker = { process: child, ended: false };
    this.workers[index] = worker;
    const runs = this.job.runs === undefined ? undefined : Math.ceil(this.job.runs / this.count);
    const seed = mixSeed(this.job.seed, index + generation * this.count);
    child.send({ job: { ...this.job, runs, seed, shared: true } } satisfies ToWorker);
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
    worker.ended = true;
    if (message.failure === undefined) return;
    this.failure ??= message.failure;
    this.stop();
  }

  private gone(index: number, worker: Worker, how: string): void {
    this.workers[index] = undefined;
    if (worker.counts !== undefined) {
      this.dead = { ...mergeCounts([this.dead, worker.counts]), cycles: worker.counts.cycles };
    }
    if (!worker.ended && !this.stopping) {
      if (worker.counts !== undefined || ++this.stillborn < MAX_STILLBORN) {
        this.replaced++;
        this.start(index);
        return;
      }
      this.failure ??= `workers end at once, with ${how}.`;
      this.stop();
    }
    if (this.workers.every((other) => other === undefined)) this.finish(this.failure);
  }
}
