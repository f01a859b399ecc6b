/**
 * Globs over one name of a path: `*` any characters, `?` one, `[a-z]` one of these, `[!a-z]` one of
 * the others, `\` takes the next character as it is.
 *
 * Not Bun.Glob: what it makes of braces, dots and bytes that are no UTF-8 is its own affair, and a
 * whitelist needs an answer for every name. Names are bytes. They are matched as UTF-8, so that `?`
 * is one character; a byte that isn't part of any stands for itself.
 */

/** What a glob in a configuration is told by who can't read it. */
export class GlobError extends Error {
  override name = "GlobError";
}

type Item =
  | { kind: "any" }
  | { kind: "one" }
  | { kind: "character"; code: number }
  | { kind: "class"; not: boolean; ranges: readonly (readonly [number, number])[] };

/** Lone bytes are these codes and up: no character has them. */
const BYTE = 0x110000;

/** Whether a name, as characters, matches. */
export type NameGlob = (name: readonly number[]) => boolean;

/** @throws GlobError */
export function compileName(glob: string): NameGlob {
  const items = parse(
    [...glob].map((character) => character.codePointAt(0) as number),
    glob,
  );
  return (name) => matches(items, name);
}

const code = (character: string) => character.charCodeAt(0);
const [STAR, ONE, OPEN, CLOSE, NOT, CARET, MINUS, ESCAPE] = [..."*?[]!^-\\"].map(code);
const BRACES = [code("{"), code("}")];

function parse(glob: readonly number[], text: string): Item[] {
  const items: Item[] = [];
  for (let i = 0; i < glob.length; i++) {
    const c = glob[i];
    if (c === STAR) {
      // Two in a row are one; more matching would be the same.
      if (items.at(-1)?.kind !== "any") items.push({ kind: "any" });
    } else if (c === ONE) items.push({ kind: "one" });
    else if (c === OPEN) {
      const [item, end] = parseClass(glob, i + 1, text);
      items.push(item);
      i = end;
    } else if (c === ESCAPE) {
      if (++i === glob.length) throw new GlobError(`glob "${text}" ends with a backslash`);
      items.push({ kind: "character", code: glob[i] });
    } else if (BRACES.includes(c)) {
      throw new GlobError(`glob "${text}" has a brace: write two globs, or \\{ for the character`);
    } else items.push({ kind: "character", code: c });
  }
  return items;
}

/** A class from behind its bracket; and where its end is. */
function parseClass(glob: readonly number[], from: number, text: string): [Item, number] {
  let i = from;
  const not = glob[i] === NOT || glob[i] === CARET;
  if (not) i++;
  const ranges: [number, number][] = [];
  const take = (): number => {
    if (glob[i] === ESCAPE) i++;
    if (i >= glob.length) throw new GlobError(`glob "${text}" has a [ without a ]`);
    return glob[i++];
  };
  // A bracket that comes first is one of the class.
  for (let first = true; first || glob[i] !== CLOSE; first = false) {
    const low = take();
    if (glob[i] === MINUS && i + 1 < glob.length && glob[i + 1] !== CLOSE) {
      i++;
      const high = take();
      if (high < low) throw new GlobError(`glob "${text}" has a range that goes down`);
      ranges.push([low, high]);
    } else ranges.push([low, low]);
  }
  return [{ kind: "class", not, ranges }, i];
}

// Only the last star is ever tried again, so a name takes items × characters at most.
function matches(items: readonly Item[], name: readonly number[]): boolean {
  let item = 0;
  let at = 0;
  let star = -1;
  let starAt = 0;
  while (at < name.length) {
    const now = items[item];
    if (now?.kind === "any") {
      star = item++;
      starAt = at;
    } else if (now !== undefined && fits(now, name[at])) {
      item++;
      at++;
    } else if (star >= 0) {
      item = star + 1;
      at = ++starAt;
    } else return false;
  }
  while (items[item]?.kind === "any") item++;
  return item === items.length;
}

function fits(item: Item, c: number): boolean {
  switch (item.kind) {
    case "any":
    case "one":
      return true;
    case "character":
      return item.code === c;
    case "class":
      return item.ranges.some(([low, high]) => c >= low && c <= high) !== item.not;
  }
}

/** The characters of a name: one that has a character a byte. */
export function characters(name: string): number[] {
  const codes: number[] = [];
  for (let i = 0; i < name.length;) {
    const length = sequence(name, i);
    if (length === 0) codes.push(BYTE + name.charCodeAt(i++));
    else {
      codes.push(character(name, i, length));
      i += length;
    }
  }
  return codes;
}

/** How many bytes make one character of UTF-8 at `at`; 0: none do. Unicode 16, table 3-7. */
function sequence(name: string, at: number): number {
  const first = name.charCodeAt(at);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const second = name.charCodeAt(at + 1);
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  // Beyond the end it is NaN, which is in no range.
  if (!(second >= low && second <= high)) return 0;
  for (let i = 2; i < length; i++) {
    const next = name.charCodeAt(at + i);
    if (!(next >= 0x80 && next <= 0xbf)) return 0;
  }
  return length;
}

function character(name: string, at: number, length: number): number {
  const first = name.charCodeAt(at);
  if (length === 1) return first;
  let value = first & (0xff >> (length + 1));
  for (let i = 1; i < length; i++) value = (value << 6) | (name.charCodeAt(at + i) & 0x3f);
  return value;
}
