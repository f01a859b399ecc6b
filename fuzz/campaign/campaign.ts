/**
 * One campaign: takes an input of its corpus, mutates it, runs it, keeps it if it showed something new. All
 * that it decides comes from its seed: the same seed, executor and inputs give the same run. It knows no
 * clock and no file.
 */
import { type Executor, Novelty, Verdict } from "../executor.ts";
import { type Substitution, substitutions, tokensOf } from "./compare-guided.ts";
import { Corpus, type Entry } from "./corpus.ts";
import { type Crash, crashKey, inputName } from "./crash.ts";
import { Dictionary } from "./dictionary.ts";
import { type Inflight, privateInflight } from "./inflight.ts";
import { minimise, minimising, type Steps } from "./minimise.ts";
import { Mutator } from "./mutator.ts";
import { Random } from "./random.ts";

/** A kept input is run so often again, to see whether all runs are equal. */
const REPEATS = 8;
/** Every so many runs, their edges are counted. */
const SAMPLE = 64;
/** Runs that making an input shorter may cost: a kept one, a crash, a hang (each takes its whole budget). */
const TRIM_RUNS = 96;
const CRASH_RUNS = 4096;
const HANG_RUNS = 128;
/** Runs of making an input's bytes differ from each other. */
const COLOUR_RUNS = 64;
/** Runs of one entry's compare-guided inputs. */
const GUIDED_RUNS = 4096;
/** Different hangs: what is one is less clear than with crashes. */
const MAX_HANGS = 64;

/** Where finds go, as soon as they are made. */
export interface Finds {
  kept?(entry: Entry): void;
  /** A crash or hang that this campaign didn't know. False: somebody else found it before. */
  crashed?(crash: Crash): boolean | void;
  /** The same once more, with `minimised`. */
  minimised?(crash: Crash): void;
}

/** What a campaign begins with: an input, and how many mutations it is away from the first ones. */
export type Seed = Uint8Array | { readonly input: Uint8Array; readonly depth: number };

export interface CampaignOptions {
  readonly executor: Executor;
  /** 32 bits; 1 if absent. */
  readonly seed?: number;
  /** What to begin with. Longer ones than the executor takes are cut off. */
  readonly seeds?: readonly Seed[];
  readonly dictionary?: readonly Uint8Array[];
  /** Bytes that belong together in the target's inputs: 4 for a `Decoder`; 1 if absent. */
  readonly unit?: number;
  readonly finds?: Finds;
  /** Where the input of each run is, for others to see. */
  readonly inflight?: Inflight;
}

/** Told of the smallest input; undefined if not even the first one does it any more. */
type Shrunk = (small: Uint8Array | undefined) => void;

/** Counts of a campaign, without a clock's. */
export interface Counts {
  readonly runs: number;
  readonly edges: number;
  readonly mapSize: number;
  readonly corpus: number;
  readonly favoured: number;
  readonly crashes: number;
  readonly hangs: number;
  /** Runs that ended in any crash or hang. */
  readonly crashingRuns: number;
  readonly hangingRuns: number;
  readonly cycles: number;
  /** Kept inputs that were run again, and runs equal to the first. */
  readonly repeated: number;
  readonly repeatedEqual: number;
  /** Resets that were compared with the snapshot, and equal ones. */
  readonly resetsChecked: number;
  readonly resetsEqual: number;
  readonly tokens: number;
}

export class Campaign {
  readonly corpus: Corpus;
  readonly seed: number;
  /** All runs so far. */
  runs = 0;
  /** Why it can't go on: a sentence. */
  failure: string | undefined;
  private readonly executor: Executor;
  private readonly random: Random;
  private readonly mutator: Mutator;
  private readonly inflight: Inflight;
  private readonly dictionary: Dictionary;
  private readonly finds: Finds;
  private readonly unit: number;
  private readonly crashes = new Map<string, Crash | undefined>();
  private readonly hangs = new Map<string, Crash | undefined>();
  private crashingRuns = 0;
  private hangingRuns = 0;
  private repeated = 0;
  private repeatedEqual = 0;
  private entry: Entry | undefined;
  private energy = 0;
  /** What to begin with, and how many of it were run. */
  private waiting: Extract<Seed, { input: Uint8Array }>[];
  private began = 0;
  /** What its comparisons suggest for the entry, and how many more of them are tried. */
  private suggestions: Iterator<Substitution> | undefined;
  private coloured: Uint8Array = new Uint8Array(0);
  private suggestionsLeft = 0;
  /** What is made small, one after the other. */
  private readonly shrinking: { steps: Steps<Uint8Array | undefined>; done: Shrunk }[] = [];

  constructor(options: CampaignOptions) {
    this.executor = options.executor;
    this.seed = options.seed ?? 1;
    this.finds = options.finds ?? {};
    this.unit = options.unit ?? 1;
    this.random = new Random(this.seed);
    this.dictionary = new Dictionary(options.dictionary);
    this.corpus = new Corpus(this.executor.mapSize);
    this.inflight = options.inflight ?? privateInflight(this.executor.maxInput);
    this.mutator = new Mutator(this.inflight.input, this.random, this.dictionary, this.unit);
    const seeds = options.seeds ?? [];
    this.waiting = seeds.map((seed) =>
      seed instanceof Uint8Array ? { input: seed, depth: 0 } : seed,
    );
  }

  /**
   * Runs what the campaign begins with, or a part of it: until there were `until` runs in all. True when
   * all is done. `advance` does it all if nobody else did.
   */
  begin(until = Infinity): boolean {
    while (this.failure === undefined && this.began < this.waiting.length) {
      if (this.runs >= until || !this.finish(until)) return false;
      const { input, depth } = this.waiting[this.began++];
      this.offer(input, depth);
    }
    if (!this.finish(until)) return false;
    if (this.corpus.size === 0 && this.failure === undefined)
      this.beginSimply(this.waiting[0]?.input);
    this.waiting = [];
    this.began = 0;
    return true;
  }

  /** Runs until there were `until` runs in all (a little more: a find is worked on to its end), or it failed. */
  advance(until: number): void {
    this.begin();
    this.step(until);
    this.finish();
  }

  /** ... and a crash may be left as it is meanwhile: `finish`, or the next step, goes on with it. */
  step(until: number): void {
    const { executor, mutator } = this;
    if (!this.begin(until)) return;
    while (this.runs < until) {
      if (!this.finish(until) || this.failure !== undefined) return;
      if (this.suggestions !== undefined) {
        this.suggested();
        continue;
      }
      if (this.energy === 0) {
        this.next();
        continue;
      }
      this.energy--;
      mutator.load(this.entry!.input);
      mutator.havoc();
      const verdict = this.run(mutator.buffer, mutator.length);
      if (verdict !== Verdict.DONE) this.ended(verdict);
      else if (executor.novelty() !== Novelty.NONE) this.keep(this.entry);
      else if (this.runs % SAMPLE === 0) this.corpus.sample(executor.edges());
    }
  }

  /** Runs an input from elsewhere, of this depth; true if it is kept. */
  offer(input: Uint8Array, depth = 0): boolean {
    this.mutator.load(input.subarray(0, this.executor.maxInput));
    return this.tryOut(undefined, depth);
  }

  /** A crash or hang that somebody else found: it is nothing new here. */
  knows(key: string, hang: boolean): void {
    const found = hang ? this.hangs : this.crashes;
    if (!found.has(key)) found.set(key, undefined);
  }

  /** Has `finish` look for the smallest input that still does what a known crash or hang did. */
  shrink(verdict: Verdict, key: string, input: Uint8Array, done: Shrunk): void {
    const begun = input.slice(0, this.executor.maxInput);
    this.shrinking.push({ steps: this.again(verdict, key, begun), done });
  }

  /** Makes crashes small, until there were `until` runs in all. True when there is nothing left to do. */
  finish(until = Infinity): boolean {
    for (let first; (first = this.shrinking.at(0)) !== undefined;) {
      if (this.failure !== undefined) break;
      if (this.runs >= until) return false;
      const { done, value } = first.steps.next();
      if (!done) continue;
      this.shrinking.shift();
      first.done(value as Uint8Array | undefined);
    }
    return true;
  }

  counts(): Counts {
    const { executor, corpus } = this;
    return {
      runs: this.runs,
      edges: executor.edgesSeen,
      mapSize: executor.mapSize,
      corpus: corpus.size,
      favoured: corpus.favoured,
      crashes: this.crashes.size,
      hangs: this.hangs.size,
      crashingRuns: this.crashingRuns,
      hangingRuns: this.hangingRuns,
      cycles: corpus.cycles,
      repeated: this.repeated,
      repeatedEqual: this.repeatedEqual,
      resetsChecked: executor.fidelity?.checked ?? 0,
      resetsEqual: executor.fidelity?.equal ?? 0,
      tokens: this.dictionary.size,
    };
  }

  private beginSimply(seed: Uint8Array | undefined): void {
    const simple = [new Uint8Array(0), new Uint8Array(Math.min(16, this.executor.maxInput))];
    for (const input of simple) this.offer(input);
    // A target that shows nothing at all, or only crashes, needs something to be mutated too.
    if (this.corpus.size === 0) this.put((seed ?? simple[1]).slice(0, this.executor.maxInput));
  }

  private put(input: Uint8Array): void {
    const facts = { name: inputName(input), input, depth: 0, cost: 0, stable: true };
    this.corpus.add(facts, new Uint32Array(0));
  }

  /** One run, counted. The input ends up in the mutator's buffer, wherever it is. */
  private run(input: Uint8Array, length: number): Verdict {
    // A last failed run is no reason for another one.
    if (this.failure !== undefined) return Verdict.FAILED;
    const { executor, mutator, inflight } = this;
    if (input !== mutator.buffer) {
      mutator.buffer.set(length === input.length ? input : input.subarray(0, length));
    }
    inflight.head[0] = length;
    inflight.head[1] = ++this.runs;
    const verdict = executor.run(mutator.buffer, length);
    if (verdict === Verdict.FAILED) this.failure = executor.failure ?? "the target can't go on.";
    return verdict;
  }

  /** Runs what is in the mutator's buffer; true if it is kept. */
  private tryOut(parent: Entry | undefined, depth?: number): boolean {
    const verdict = this.run(this.mutator.buffer, this.mutator.length);
    if (verdict !== Verdict.DONE) this.ended(verdict, parent);
    else if (this.executor.novelty() !== Novelty.NONE) return this.keep(parent, depth);
    return false;
  }

  private next(): void {
    const { corpus, random } = this;
    const entry = corpus.select(random);
    this.energy = corpus.energy(entry);
    this.entry = entry;
    this.mutator.partner = corpus.any(random).input;
    if (entry.selected++ === 0) this.guide(entry);
  }

  /** The last run, of what is in the mutator's buffer, showed something new. */
  private keep(parent: Entry | undefined, depth = (parent?.depth ?? -1) + 1): boolean {
    const { executor, mutator } = this;
    const hash = executor.coverageHash();
    const cost = executor.cost?.() ?? 0;
    const edges = executor.edges().slice();
    const input = mutator.buffer.slice(0, mutator.length);
    // What is told once can't be told again of a smaller one.
    const once = executor.once === true;
    const stable = once || this.repeat(input, hash);
    const trimmed = stable && !once ? this.trim(input, hash) : input;
    const name = inputName(trimmed);
    if (this.failure !== undefined || this.corpus.has(name)) return false;
    const entry = this.corpus.add(
      { name, input: trimmed, depth, parent: parent?.name, cost: cost || edges.length, stable },
      edges,
    );
    this.finds.kept?.(entry);
    return true;
  }

  /** Whether all of several more runs are equal to the first. */
  private repeat(input: Uint8Array, hash: number): boolean {
    let equal = 0;
    for (let i = 0; i < REPEATS; i++) {
      const verdict = this.run(input, input.length);
      if (verdict === Verdict.FAILED) return false;
      if (verdict === Verdict.DONE && this.executor.coverageHash() === hash) equal++;
      // Edges that come and go by themselves are no news later.
      if (verdict === Verdict.DONE) this.executor.novelty();
    }
    this.repeated += REPEATS;
    this.repeatedEqual += equal;
    return equal === REPEATS;
  }

  private trim(input: Uint8Array, hash: number): Uint8Array {
    const smallest = 2 ** Math.floor(Math.log2(Math.max(1, input.length / 32)));
    return minimise(input, {
      holds: (candidate, length) =>
        this.run(candidate, length) === Verdict.DONE && this.executor.coverageHash() === hash,
      maxRuns: TRIM_RUNS,
      unit: Math.max(this.unit, smallest),
    });
  }

  /** The last run, of what is in the mutator's buffer, didn't come to its end. */
  private ended(verdict: Verdict, parent = this.entry): void {
    if (verdict === Verdict.FAILED) return;
    const hang = verdict === Verdict.TIMEOUT;
    if (hang) this.hangingRuns++;
    else this.crashingRuns++;
    const report = this.executor.crash() ?? {
      kind: hang ? "timeout" : "crash",
      text: "",
      stack: [],
    };
    const key = crashKey(verdict, report);
    const found = hang ? this.hangs : this.crashes;
    if (found.has(key) || (hang && found.size >= MAX_HANGS)) return;
    const input = this.mutator.buffer.slice(0, this.mutator.length);
    const { seed, runs: run } = this;
    const crash: Crash = { key, verdict, report, input, seed, run, parent: parent?.name };
    found.set(key, crash);
    if (this.finds.crashed?.(crash) === false) return;
    const done: Shrunk = (minimised) => this.finds.minimised?.({ ...crash, minimised });
    this.shrinking.push({ steps: this.minimised(verdict, key, input), done });
  }

  /** Whether a run ends in this crash or hang. */
  private does(verdict: Verdict, key: string, input: Uint8Array, length: number): boolean {
    if (this.run(input, length) !== verdict) return false;
    const report = this.executor.crash();
    return report !== undefined && crashKey(verdict, report) === key;
  }

  private *again(verdict: Verdict, key: string, input: Uint8Array): Steps<Uint8Array | undefined> {
    const does = this.does(verdict, key, input, input.length);
    yield;
    return does ? yield* this.minimised(verdict, key, input) : undefined;
  }

  private minimised(verdict: Verdict, key: string, input: Uint8Array): Steps<Uint8Array> {
    return minimising(input, {
      holds: (candidate, length) => this.does(verdict, key, candidate, length),
      maxRuns: verdict === Verdict.TIMEOUT ? HANG_RUNS : CRASH_RUNS,
      unit: this.unit,
      simplify: true,
    });
  }

  /** Asks what the entry's run compares. */
  private guide(entry: Entry): void {
    const { executor, mutator, inflight } = this;
    if (executor.compares === undefined || executor.once === true) return;
    this.coloured = entry.stable ? this.colour(entry.input) : entry.input.slice();
    mutator.load(this.coloured);
    inflight.head[0] = mutator.length;
    inflight.head[1] = ++this.runs;
    const compares = executor.compares(mutator.buffer, mutator.length);
    for (const token of tokensOf(compares)) this.dictionary.add(token, this.random);
    this.suggestions = substitutions(this.coloured, compares);
    this.suggestionsLeft = GUIDED_RUNS;
  }

  /**
   * The input with other bytes, wherever its run is the same with them: what is compared then is found
   * where it comes from, not in any of many zeros. ("Colorization" in REDQUEEN.)
   */
  private colour(input: Uint8Array): Uint8Array {
    const coloured = input.slice();
    if (this.run(coloured, coloured.length) !== Verdict.DONE) return coloured;
    const hash = this.executor.coverageHash();
    const ranges: (readonly [start: number, end: number])[] = [[0, input.length]];
    for (let i = 0; i < ranges.length && i < COLOUR_RUNS; i++) {
      const [start, end] = ranges[i];
      for (let at = start; at < end; at++) coloured[at] ^= 1 + this.random.below(255);
      const verdict = this.run(coloured, coloured.length);
      if (verdict === Verdict.DONE && this.executor.coverageHash() === hash) continue;
      coloured.set(input.subarray(start, end), start);
      const middle = (start + end) >> 1;
      if (middle > start) ranges.push([start, middle], [middle, end]);
    }
    return coloured;
  }

  /** Tries the next suggestion. */
  private suggested(): void {
    const { mutator } = this;
    const { value, done } = this.suggestions!.next();
    if (done || this.suggestionsLeft-- === 0) {
      this.suggestions = undefined;
      return;
    }
    const { at, width, bytes } = value as Substitution;
    mutator.load(this.coloured);
    if (mutator.replace(at, width, bytes)) this.tryOut(this.entry);
  }
}
