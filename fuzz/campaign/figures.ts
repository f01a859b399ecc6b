/** A campaign in numbers, at a moment: what the views show, and `--json` prints one of a line. */
import type { Counts } from "./campaign.ts";

/** Over which the rate of now is taken. */
const WINDOW = 5000;

export interface Figures extends Counts {
  readonly target: string;
  readonly engine?: string;
  readonly seed: number;
  readonly workers: number;
  /** Workers that ended by themselves and were replaced. */
  readonly replaced: number;
  /** Seconds of this session; `totalRuns` and `totalSeconds` are of all. */
  readonly seconds: number;
  readonly totalRuns: number;
  readonly totalSeconds: number;
  readonly runsPerSecond: number;
  readonly meanRunsPerSecond: number;
  /** Seconds since the last input that showed something new, and since the last crash or hang. */
  readonly sinceFind: number | null;
  readonly sinceCrash: number | null;
  /** Of repeated runs, those equal to the first: 0 to 1. */
  readonly stability: number | null;
  /** Of checked resets, those equal to the snapshot: 0 to 1. */
  readonly fidelity: number | null;
  /** What there is to say of the exchange with other machines. */
  readonly exchange?: string;
}

export const NO_COUNTS: Counts = {
  runs: 0,
  edges: 0,
  mapSize: 0,
  corpus: 0,
  favoured: 0,
  crashes: 0,
  hangs: 0,
  crashingRuns: 0,
  hangingRuns: 0,
  cycles: 0,
  repeated: 0,
  repeatedEqual: 0,
  resetsChecked: 0,
  resetsEqual: 0,
  tokens: 0,
};

const SUMS = [
  "runs",
  "crashingRuns",
  "hangingRuns",
  "repeated",
  "repeatedEqual",
  "resetsChecked",
  "resetsEqual",
] as const;

/** Several workers' counts: work adds up, what they all know doesn't. `cycles` is the least. */
export function mergeCounts(all: readonly Counts[]): Counts {
  if (all.length === 0) return NO_COUNTS;
  const merged: Record<string, number> = {};
  for (const key of Object.keys(NO_COUNTS) as (keyof Counts)[]) {
    merged[key] = Math.max(...all.map((counts) => counts[key]));
  }
  for (const key of SUMS) merged[key] = all.reduce((sum, counts) => sum + counts[key], 0);
  merged.cycles = Math.min(...all.map(({ cycles }) => cycles));
  return merged as unknown as Counts;
}

/** What the counts leave out. */
export interface Facts {
  readonly target: string;
  readonly engine?: string;
  readonly seed: number;
  readonly workers: number;
  /** Of the sessions before. */
  readonly runsBefore?: number;
  readonly secondsBefore?: number;
}

const share = (part: number, whole: number) => (whole === 0 ? null : part / whole);

/** Turns counts into figures, by a clock. */
export class Meter {
  private readonly started: number;
  private readonly points: { readonly at: number; readonly runs: number }[] = [];
  private seen: { corpus: number; edges: number; crashes: number } | undefined;
  private lastFind: number | undefined;
  private lastCrash: number | undefined;

  /** @param now milliseconds, of a clock that never goes back */
  constructor(
    private readonly facts: Facts,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.started = now();
    this.points.push({ at: this.started, runs: 0 });
  }

  figures(counts: Counts, rest: { replaced?: number; exchange?: string } = {}): Figures {
    const { started, facts } = this;
    const now = this.now();
    this.see(counts, now);
    const seconds = (now - started) / 1000;
    const since = (at: number | undefined) => (at === undefined ? null : (now - at) / 1000);
    return {
      ...{ target: facts.target, engine: facts.engine, seed: facts.seed, workers: facts.workers },
      ...counts,
      replaced: rest.replaced ?? 0,
      seconds,
      totalRuns: counts.runs + (facts.runsBefore ?? 0),
      totalSeconds: seconds + (facts.secondsBefore ?? 0),
      runsPerSecond: this.rate(counts.runs, now),
      meanRunsPerSecond: seconds > 0 ? counts.runs / seconds : 0,
      sinceFind: since(this.lastFind),
      sinceCrash: since(this.lastCrash),
      stability: share(counts.repeatedEqual, counts.repeated),
      fidelity: share(counts.resetsEqual, counts.resetsChecked),
      exchange: rest.exchange,
    };
  }

  /** What was there at first is no find. */
  private see(counts: Counts, now: number): void {
    const { corpus, edges } = counts;
    const crashes = counts.crashes + counts.hangs;
    const seen = (this.seen ??= { corpus, edges, crashes });
    if (corpus > seen.corpus || edges > seen.edges) this.lastFind = now;
    if (crashes > seen.crashes) this.lastCrash = now;
    seen.corpus = Math.max(seen.corpus, corpus);
    seen.edges = Math.max(seen.edges, edges);
    seen.crashes = Math.max(seen.crashes, crashes);
  }

  private rate(runs: number, now: number): number {
    const { points } = this;
    while (points.length > 1 && now - points[1].at >= WINDOW) points.shift();
    const [{ at, runs: before }] = points;
    if (now - points.at(-1)!.at >= WINDOW / 20) points.push({ at: now, runs });
    return now > at ? Math.max(0, (1000 * (runs - before)) / (now - at)) : 0;
  }
}
