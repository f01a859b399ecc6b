/**
 * What instrumented code calls. One function is fuzzed at a time, in one thread, so all of it is module
 * state; nothing here allocates while a run goes on, but for compares that are traced.
 */

/** Places of the coverage map: more than the source could have. */
export const MAP_SIZE = 2 ** 18;
/** Comparisons that one run tells, and of them, of one place. */
const COMPARES_MAX = 4096;
const COMPARES_OF_SITE = 16;

/** How often each place was reached in this run, up to 255. */
export const hits = new Uint8Array(MAP_SIZE);
/** The places that were, in the order in which they were first. */
export const touched = new Uint32Array(MAP_SIZE);
let count = 0;

/** A run goes on. */
let running = false;
/** Steps that are left of the run, and bytes. */
let steps = 0;
let bytes = 0;
let budget = 0;
/** Steps of budgets that were filled up again. */
let spent = 0;
/** What was used up first. It stays: code that catches everything must not go on. */
let exceeded: LimitError | undefined;

/** A run took more steps, or more memory, than it may. */
export class LimitError extends Error {
  override name = "LimitError";
  readonly limit: "steps" | "memory";

  constructor(limit: "steps" | "memory") {
    super(limit === "steps" ? "the budget of steps is used up" : "it allocates without a bound");
    this.limit = limit;
  }
}

/** Begins a run. */
export function begin(stepBudget: number, byteBudget: number): void {
  forget();
  steps = budget = stepBudget;
  spent = 0;
  bytes = byteBudget;
  exceeded = undefined;
  running = true;
}

/** What was reached so far belongs to no run: it was made ready for one. */
export function forget(): void {
  for (let i = 0; i < count; i++) hits[touched[i]] = 0;
  count = 0;
  spent = 0;
  steps = budget;
}

/** The run's next request: it may take as many steps as the ones before. */
export function refill(): void {
  spent += budget - steps;
  steps = budget;
}

/** What stands for the host works for nothing: its steps are none of the run's. */
export function uncounted(work: () => void): void {
  const left = steps;
  steps = Infinity;
  try {
    work();
  } finally {
    steps = left;
  }
}

/** Steps that the run took so far. */
export function stepsTaken(): number {
  return spent + budget - steps;
}

/** Ends it. @returns the limit that it passed, if it did, caught or not */
export function end(): LimitError | undefined {
  running = false;
  return exceeded;
}

/** Places that were reached. */
export function touchedCount(): number {
  return count;
}

/** A block of code is entered. */
export function hit(place: number): void {
  const before = hits[place];
  if (before === 0) touched[count++] = place;
  if (before !== 255) hits[place] = before + 1;
  if (--steps < 0) exhausted("steps");
}

function exhausted(limit: "steps" | "memory"): void {
  if (!running) return;
  exceeded ??= new LimitError(limit);
  throw exceeded;
}

/** Something of `length` elements, `width` bytes each, is to be allocated. */
export function allocate(width: number, length: unknown): unknown {
  if (typeof length === "number" && length > 0 && (bytes -= width * length) < 0) {
    exhausted("memory");
  }
  return length;
}

// --- comparisons

export interface TracedCompare {
  readonly site: number;
  readonly left: unknown;
  readonly right: unknown;
}

/** Comparisons are told. */
export let tracing = false;
let traced: TracedCompare[] = [];
const perSite = new Map<number, number>();

export function traceCompares(): void {
  tracing = true;
  traced = [];
  perSite.clear();
}

export function tracedCompares(): readonly TracedCompare[] {
  tracing = false;
  return traced;
}

function note(site: number, left: unknown, right: unknown): void {
  if (traced.length >= COMPARES_MAX) return;
  const before = perSite.get(site) ?? 0;
  if (before >= COMPARES_OF_SITE) return;
  perSite.set(site, before + 1);
  traced.push({ site, left, right });
}

// Operands as they come: the operators don't mind.
type Operand = number;

export function eq(site: number, a: unknown, b: unknown): boolean {
  if (tracing) note(site, a, b);
  return a === b;
}

export function ne(site: number, a: unknown, b: unknown): boolean {
  if (tracing) note(site, a, b);
  return a !== b;
}

export function lt(site: number, a: Operand, b: Operand): boolean {
  if (tracing) note(site, a, b);
  return a < b;
}

export function le(site: number, a: Operand, b: Operand): boolean {
  if (tracing) note(site, a, b);
  return a <= b;
}

export function gt(site: number, a: Operand, b: Operand): boolean {
  if (tracing) note(site, a, b);
  return a > b;
}

export function ge(site: number, a: Operand, b: Operand): boolean {
  if (tracing) note(site, a, b);
  return a >= b;
}

/** What a switch looks at, and what its cases are. */
export function choose<T>(site: number, value: T, cases: readonly unknown[]): T {
  for (const one of cases) note(site, value, one);
  return value;
}
