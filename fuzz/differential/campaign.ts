/** Runs cases on two engines and keeps what differs, by cause. */
import type { EngineName } from "../../src/vmm/engine.ts";
import type { Cause } from "./cause.ts";
import { causeOf } from "./causes.ts";
import { differences, isIdentical } from "./compare.ts";
import { explain, isComparable } from "./explain.ts";
import type { Finding } from "./finding.ts";
import { Generator } from "./generate.ts";
import { MODES, type Mode } from "./layout.ts";
import { Ending, Target } from "./target.ts";

/** Cases of one cause, or of one kind without a cause. */
export interface Group {
  /** Undefined: nobody has explained it yet. */
  readonly cause: Cause | undefined;
  /** "IMUL rflags.SF", what a difference without a cause is grouped by. */
  readonly key: string;
  count: number;
  /** The first case, and what it showed. */
  readonly first: number;
  readonly example: Finding | undefined;
}

export interface Totals {
  cases: number;
  same: number;
  /** Nothing but undefined flags differed. */
  undefinedOnly: number;
  /** One of the engines can't run an instruction of it. */
  notRun: number;
  /** One of the engines ran it for too long. */
  endless: number;
  differ: number;
  unexplained: number;
}

export class Campaign implements Disposable {
  readonly totals: Totals = {
    cases: 0,
    same: 0,
    undefinedOnly: 0,
    notRun: 0,
    endless: 0,
    differ: 0,
    unexplained: 0,
  };
  readonly groups = new Map<string, Group>();
  readonly a: Target;
  readonly b: Target;
  readonly #generator: Generator;
  readonly #engines: readonly [EngineName, EngineName];

  /** @throws EngineError */
  constructor(
    engines: readonly [EngineName, EngineName],
    seed: number,
    modes: readonly Mode[] = MODES,
  ) {
    this.#engines = engines;
    this.a = new Target(engines[0]);
    this.b = new Target(engines[1]);
    this.#generator = new Generator(seed, modes);
  }

  /** Runs one case. @returns what differed. */
  one(index: number): Finding | undefined {
    const { a, b, totals } = this;
    const it = this.#generator.make(index);
    totals.cases++;
    a.run(it);
    b.run(it);
    if (!isComparable(a, b)) {
      if (a.ending === Ending.NOT_RUN || b.ending === Ending.NOT_RUN) totals.notRun++;
      else totals.endless++;
      return undefined;
    }
    const all = isIdentical(a, b, it) ? [] : differences(a, b, it);
    if (all.length === 0) {
      totals.same++;
      return undefined;
    }
    const found = explain(a, b, it, this.#engines, all);
    if (found === undefined) {
      totals.undefinedOnly++;
      return undefined;
    }
    totals.differ++;
    if ("explanation" in found) {
      this.#keep(index, found, undefined);
      return undefined;
    }
    this.#keep(index, causeOf(found), found);
    return found;
  }

  #keep(index: number, cause: Cause | undefined, found: Finding | undefined): void {
    const key = cause?.name ?? keyOf(found!);
    if (cause === undefined) this.totals.unexplained++;
    const group = this.groups.get(key);
    if (group !== undefined) group.count++;
    else this.groups.set(key, { cause, key, count: 1, first: index, example: found });
  }

  [Symbol.dispose](): void {
    this.a[Symbol.dispose]();
    this.b[Symbol.dispose]();
  }
}

// Fine enough that a cause of one is a cause of all.
function keyOf(found: Finding): string {
  const { mnemonic, differences, endings, mode, at } = found;
  const what = differences.map((one) => one.what).join(" ");
  const ends = endings.map(short).join("/");
  const rip = differences.find((one) => one.what === "frame.rip");
  const at0 = rip === undefined ? "" : ` at ${[rip.a, rip.b].map((one) => Number(one) === at)}`;
  return `${mnemonic} ${what} ${ends}${at0} ${mode}`;
}

// An exit without its operands.
function short(ending: string): string {
  return ending.split(" ")[0];
}
