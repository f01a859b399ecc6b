/**
 * The inputs that a campaign keeps, and how much work each of them gets: often the favoured ones (the
 * smallest set that touches all edges), rare edges, cheap runs, large coverage, deep and fresh inputs.
 * After AFL's queue, AFLFast and FairFuzz. There is no clock in it: the same finds give the same schedule.
 */
import type { Random } from "./random.ts";

/** Runs that an entry gets at a time. */
const ENERGY = 128;
const MIN_ENERGY = 16;
const MAX_ENERGY = 2048;
/** The schedule follows the edges' frequencies after so many selections. */
const REFRESH = 256;

export interface Entry {
  readonly name: string;
  readonly input: Uint8Array;
  /** Mutations of mutations since a seed. */
  readonly depth: number;
  /** The name of what it was made from. */
  readonly parent?: string;
  readonly edgeCount: number;
  /** Of one run, in the executor's unit. */
  readonly cost: number;
  /** Whether all its runs were equal. */
  readonly stable: boolean;
  /** How often it was selected. */
  selected: number;
  favoured: boolean;
  /** Only while it is the best for some edge. */
  edges?: Uint32Array;
  /** Edges that it is the best for. */
  bestOf: number;
}

/** A factor from how a value compares with the mean: more for a small one, or for a large one. */
function ladder(ratio: number): number {
  if (ratio >= 4) return 0.25;
  if (ratio >= 2) return 0.5;
  if (ratio > 0.5) return 1;
  return ratio > 0.25 ? 2 : 3;
}

function depthFactor(depth: number): number {
  if (depth < 4) return 1;
  if (depth < 8) return 2;
  return depth < 14 ? 3 : 4;
}

export class Corpus {
  readonly entries: Entry[] = [];
  private readonly byName = new Map<string, Entry>();
  /** For each edge, the entry that touches it at the least price, as its index + 1. */
  private readonly best: Uint32Array;
  private readonly frequency: Float64Array;
  /** Edges that have a best entry. */
  private readonly touched: number[] = [];
  private readonly covered: Uint8Array;
  private totalCost = 0;
  private totalEdges = 0;
  private samples = 0;
  private stale = true;
  private selections = 0;
  private sinceCycle = 0;
  /** How often each entry could have had its turn. */
  cycles = 0;
  /** How many are favoured, when somebody was selected last. Asking changes nothing. */
  favoured = 0;
  private sums = new Float64Array(64);

  /** @param mapSize places of the executor's map */
  constructor(mapSize: number) {
    this.best = new Uint32Array(mapSize);
    this.frequency = new Float64Array(mapSize);
    this.covered = new Uint8Array(mapSize);
  }

  get size(): number {
    return this.entries.length;
  }

  has(name: string): boolean {
    return this.byName.has(name);
  }

  /** @param edges that it touches; they are copied. */
  add(
    facts: Pick<Entry, "name" | "input" | "depth" | "parent" | "cost" | "stable">,
    edges: Uint32Array,
  ): Entry {
    const entry: Entry = {
      ...facts,
      edgeCount: edges.length,
      selected: 0,
      favoured: false,
      bestOf: 0,
    };
    this.entries.push(entry);
    this.byName.set(entry.name, entry);
    this.totalCost += entry.cost;
    this.totalEdges += edges.length;
    for (const edge of edges) this.challenge(entry, edge);
    if (entry.bestOf > 0) entry.edges = edges.slice();
    this.stale = true;
    return entry;
  }

  /** The edges of a run that was taken as a sample. */
  sample(edges: Uint32Array): void {
    this.samples++;
    for (let i = 0; i < edges.length; i++) this.frequency[edges[i]]++;
  }

  /** Whose turn it is. There must be an entry. */
  select(random: Random): Entry {
    if (this.selections++ % REFRESH === 0) this.stale = true;
    this.refresh();
    if (++this.sinceCycle >= this.entries.length) {
      this.sinceCycle = 0;
      this.cycles++;
    }
    const count = this.entries.length;
    const wanted = ((random.next() >>> 0) / 2 ** 32) * this.sums[count - 1];
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.sums[middle] > wanted) high = middle;
      else low = middle + 1;
    }
    return this.entries[low];
  }

  /** Any entry. */
  any(random: Random): Entry {
    return this.entries[random.below(this.entries.length)];
  }

  /** Runs that the entry gets now. */
  energy(entry: Entry): number {
    const count = this.entries.length;
    const speed = ladder((entry.cost * count) / Math.max(1, this.totalCost));
    const width = 1 / ladder((entry.edgeCount * count) / Math.max(1, this.totalEdges));
    let energy = ENERGY * speed * Math.min(3, Math.max(0.25, width)) * depthFactor(entry.depth);
    energy *= this.rarity(entry);
    if (entry.selected === 0) energy *= 2;
    if (!entry.stable) energy /= 2;
    return Math.round(Math.min(MAX_ENERGY, Math.max(MIN_ENERGY, energy)));
  }

  private price(entry: Entry): number {
    return (entry.cost + 1) * (entry.input.length + 1);
  }

  private challenge(entry: Entry, edge: number): void {
    const holder = this.best[edge] === 0 ? undefined : this.entries[this.best[edge] - 1];
    if (holder === undefined) this.touched.push(edge);
    else {
      if (this.price(holder) <= this.price(entry)) return;
      if (--holder.bestOf === 0) holder.edges = undefined;
    }
    this.best[edge] = this.entries.length;
    entry.bestOf++;
  }

  /** From 1/2 to 4: how seldom its rarest edge is touched. */
  private rarity(entry: Entry): number {
    if (entry.edges === undefined) return 0.5;
    let least = Infinity;
    for (const edge of entry.edges) least = Math.min(least, this.frequency[edge]);
    const share = (least + 1) / (this.samples + 1);
    return Math.min(4, Math.max(0.5, Math.log2(1 / share) / 2));
  }

  private refresh(): void {
    if (!this.stale) return;
    this.stale = false;
    this.favour();
    if (this.sums.length < this.entries.length)
      this.sums = new Float64Array(2 * this.entries.length);
    let sum = 0;
    for (let i = 0; i < this.entries.length; i++) {
      const entry = this.entries[i];
      const weight =
        this.rarity(entry) * (entry.favoured ? 16 : 1) * (entry.selected === 0 ? 4 : 1);
      sum += weight / Math.log2(2 + entry.selected);
      this.sums[i] = sum;
    }
  }

  /** A small set of entries that touches all edges together. */
  private favour(): void {
    for (const entry of this.entries) entry.favoured = false;
    this.covered.fill(0);
    this.favoured = 0;
    for (const edge of this.touched) {
      if (this.covered[edge] !== 0) continue;
      const entry = this.entries[this.best[edge] - 1];
      entry.favoured = true;
      this.favoured++;
      for (const other of entry.edges!) this.covered[other] = 1;
    }
  }
}
