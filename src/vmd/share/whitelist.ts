/**
 * What of a directory is shared: globs over paths relative to it.
 *
 * - Without an `allow` all is allowed. With some, a path is allowed that one of them matches.
 * - `deny` wins, and takes with it all that is below what it matches.
 * - `**`, as a name of its own, is any number of names, none too: `src/**` is src and all below it.
 *   A `/` at the end means the same. Others are in glob.ts; `*` matches names with a dot, too.
 * - A directory in which something may be allowed can be passed through and listed, no more.
 *
 * A path is hidden, a passage or allowed by its names alone. So whoever could rename a directory
 * could give what is below it another answer: `sameBelow` says when that can't be.
 */
import { characters, compileName, GlobError, type NameGlob } from "./glob.ts";

export { GlobError } from "./glob.ts";

const GLOBS_MAX = 256;
const NAMES_MAX = 128;
/** Characters of all of them: they go in one message. */
const CHARACTERS_MAX = 8192;

export interface WhitelistGlobs {
  allow?: readonly string[];
  deny?: readonly string[];
}

export type Verdict = "hidden" | "passage" | "allowed";

/** `**`, or one name. */
type Step = "any" | NameGlob;

/** A glob, and how many of its steps have been matched. */
interface Position {
  id: number;
  steps: readonly Step[];
  at: number;
}

/** What the globs make of a path, and what they may make of those below it. */
export interface Place {
  readonly verdict: Verdict;
  /** Equal where every path below has the same verdict. */
  readonly key: string;
  readonly allow: readonly Position[];
  readonly deny: readonly Position[];
}

const HIDDEN: Place = { verdict: "hidden", key: "-", allow: [], deny: [] };
/** All below is allowed. */
const OPEN = "+";

export class Whitelist {
  /** Without `allow`. */
  readonly #all: boolean;
  /** The share's root: always there, though nothing may be in it. */
  readonly root: Place;

  /** @throws GlobError */
  constructor({ allow = [], deny = [] }: WhitelistGlobs = {}) {
    if (allow.length + deny.length > GLOBS_MAX) throw new GlobError(`more than ${GLOBS_MAX} globs`);
    const length = [...allow, ...deny].reduce((sum, glob) => sum + glob.length, 0);
    if (length > CHARACTERS_MAX) throw new GlobError("the globs are too long");
    this.#all = allow.length === 0;
    const compile = (globs: readonly string[]) =>
      globs.map((glob, id) => ({ id, steps: compilePath(glob), at: 0 }));
    const root = this.#place(spread(compile(allow)), spread(compile(deny)));
    this.root = root.verdict === "hidden" ? { ...root, verdict: "passage" } : root;
  }

  /** Only to see whether globs can be read: sentences are for who wrote them. @throws GlobError */
  static check(globs: WhitelistGlobs): void {
    void new Whitelist(globs);
  }

  /** The place of a name in a directory. @param name a character a byte */
  step(place: Place, name: string): Place {
    const { allow, deny } = place;
    if (place.key === OPEN) return place;
    if (place.verdict === "hidden" || place.key === HIDDEN.key) return HIDDEN;
    const letters = characters(name);
    return this.#place(advance(allow, letters), advance(deny, letters));
  }

  /** The place of a path of names with slashes between; "" is the root. */
  of(path: string): Place {
    let place = this.root;
    if (path === "" || place.key === OPEN) return place;
    for (const name of path.split("/")) place = this.step(place, name);
    return place;
  }

  /** Whether a directory can go from one place to the other, and all that is below it is what it was. */
  sameBelow(a: Place, b: Place): boolean {
    return a.verdict === "allowed" && b.verdict === "allowed" && a.key === b.key;
  }

  #place(allow: readonly Position[], deny: readonly Position[]): Place {
    if (deny.some(isMatched)) return HIDDEN;
    const matched = this.#all || allow.some(isMatched);
    if (!matched && allow.length === 0) return HIDDEN;
    const open = deny.length === 0 && (this.#all || allow.some(takesAll));
    const names = (positions: readonly Position[]) =>
      positions.map(({ id, at }) => `${id}.${at}`).join(",");
    return {
      verdict: matched ? "allowed" : "passage",
      key: open ? OPEN : `${names(allow)}|${names(deny)}`,
      allow,
      deny,
    };
  }
}

const isMatched = ({ steps, at }: Position) => at === steps.length;
const takesAll = ({ steps, at }: Position) => at === steps.length - 1 && steps[at] === "any";

/** Every position that is reached without another name: `**` may be none. */
function spread(positions: readonly Position[]): Position[] {
  const all = new Map<string, Position>();
  for (let { id, steps, at } of positions) {
    all.set(`${id}.${at}`, { id, steps, at });
    while (steps[at] === "any") {
      at++;
      all.set(`${id}.${at}`, { id, steps, at });
    }
  }
  return [...all.values()].sort((a, b) => a.id - b.id || a.at - b.at);
}

function advance(positions: readonly Position[], name: readonly number[]): Position[] {
  const next: Position[] = [];
  for (const { id, steps, at } of positions) {
    const step = steps[at];
    if (step === undefined) continue;
    if (step === "any") next.push({ id, steps, at });
    else if (step(name)) next.push({ id, steps, at: at + 1 });
  }
  return spread(next);
}

function compilePath(glob: string): Step[] {
  const names = glob.replace(/\/$/, "/**").split("/");
  if (names[0] === "") names.shift();
  const steps: Step[] = [];
  for (const name of names) {
    if (name === ".") continue;
    if (name === "" || name === ".." || name.includes("\0")) {
      throw new GlobError(`glob "${glob}" is no path below the share`);
    }
    if (name !== "**") steps.push(compileName(name));
    else if (steps.at(-1) !== "any") steps.push("any");
  }
  if (steps.length === 0 || steps.length > NAMES_MAX) {
    throw new GlobError(`glob "${glob}" is no path below the share`);
  }
  return steps;
}
