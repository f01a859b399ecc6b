/** Which inputs of a corpus can go without an edge being lost. */
import { type Executor, Verdict } from "../executor.ts";
import type { CampaignFolder } from "./folder.ts";

/** An input, what it touches, and what it costs to keep it. */
export interface Candidate<T> {
  readonly value: T;
  readonly edges: Uint32Array;
  readonly price: number;
}

/** A minimal set of the candidates that touches all edges: none of it can be left out. */
export function minset<T>(candidates: readonly Candidate<T>[]): T[] {
  const best = new Map<number, Candidate<T>>();
  const holders = new Map<number, number>();
  for (const candidate of candidates) {
    for (const edge of candidate.edges) {
      const holder = best.get(edge);
      if (holder === undefined || candidate.price < holder.price) best.set(edge, candidate);
      holders.set(edge, (holders.get(edge) ?? 0) + 1);
    }
  }
  // Rare edges first: they leave the least choice.
  const edges = [...best.keys()].sort((a, b) => holders.get(a)! - holders.get(b)! || a - b);
  const counts = new Map<number, number>();
  const chosen = new Set<Candidate<T>>();
  for (const edge of edges) {
    if (counts.has(edge)) continue;
    const candidate = best.get(edge)!;
    chosen.add(candidate);
    for (const touched of candidate.edges) counts.set(touched, (counts.get(touched) ?? 0) + 1);
  }
  const dearestFirst = [...chosen].sort((a, b) => b.price - a.price);
  for (const candidate of dearestFirst) {
    if (!candidate.edges.every((edge) => counts.get(edge)! > 1)) continue;
    chosen.delete(candidate);
    for (const edge of candidate.edges) counts.set(edge, counts.get(edge)! - 1);
  }
  return candidates.filter((candidate) => chosen.has(candidate)).map(({ value }) => value);
}

/** The inputs that are enough for all edges that they touch together. Those that don't end are left out. */
export function minimiseCorpus<T extends { readonly input: Uint8Array }>(
  executor: Executor,
  entries: readonly T[],
): T[] {
  const candidates: Candidate<T>[] = [];
  for (const value of entries) {
    const length = Math.min(value.input.length, executor.maxInput);
    if (executor.run(value.input, length) !== Verdict.DONE) continue;
    const cost = executor.cost?.() ?? 0;
    candidates.push({ value, edges: executor.edges().slice(), price: (cost + 1) * (length + 1) });
  }
  return minset(candidates);
}

/**
 * Takes inputs out of a campaign's queue that aren't needed for its edges.
 * @param open called when no campaign can begin to work there any more; the executor is closed here
 * @throws FolderError if a campaign is at work there; an Error if the executor can't go on
 */
export async function minimiseFolder(
  folder: CampaignFolder,
  open: () => Promise<Executor>,
): Promise<{ readonly before: number; readonly after: number }> {
  const unlock = folder.lock();
  let executor: Executor | undefined;
  try {
    executor = await open();
    const entries = folder.arrived();
    const kept = new Set(minimiseCorpus(executor, entries));
    // An executor that can't go on says nothing about the rest.
    if (executor.failure !== undefined) throw new Error(executor.failure);
    for (const entry of entries) if (!kept.has(entry)) folder.remove(entry.name);
    return { before: entries.length, after: kept.size };
  } finally {
    executor?.close?.();
    unlock();
  }
}
