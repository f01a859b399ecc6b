/**
 * Byte strings that mean something to a target: from a file in AFL's format (one `name="value"` a line,
 * `\xNN`, `\\` and `\"` in it, the name optional, `@LEVEL` after it ignored, # begins a comment), and
 * those that a target was seen to compare with.
 */
import { readFileSync } from "node:fs";
import type { Random } from "./random.ts";

/** Longer ones are no words any more. */
const MAX_TOKEN = 128;
/** Of those that were found. */
const MAX_FOUND = 512;

export class DictionaryError extends Error {
  override readonly name = "DictionaryError";
}

const LINE = /^(?:[\w.-]+(?:@\d+)?\s*=\s*)?"(.*)"$/;
const PART = /\\x([0-9a-fA-F]{2})|\\(\\|")|([^\\"])|(.)/gsu;

function token(text: string, where: string): Uint8Array {
  const bytes: number[] = [];
  for (const [, hex, escaped, plain, wrong] of text.matchAll(PART)) {
    if (wrong !== undefined)
      throw new DictionaryError(`${where}: ${JSON.stringify(wrong)} is no \\xNN, \\\\ or \\".`);
    if (hex !== undefined) bytes.push(Number.parseInt(hex, 16));
    else bytes.push(...new TextEncoder().encode(escaped ?? plain));
  }
  if (bytes.length === 0) throw new DictionaryError(`${where}: the token is empty.`);
  if (bytes.length > MAX_TOKEN)
    throw new DictionaryError(`${where}: the token has more than ${MAX_TOKEN} bytes.`);
  return Uint8Array.from(bytes);
}

/** @throws DictionaryError with `name` and the line */
export function parseDictionary(text: string, name: string): Uint8Array[] {
  const tokens: Uint8Array[] = [];
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    const where = `${name}:${index + 1}`;
    const match = LINE.exec(line);
    if (match === null) throw new DictionaryError(`${where}: this is no name="value".`);
    tokens.push(token(match[1], where));
  }
  return tokens;
}

/** @throws DictionaryError */
export function readDictionary(file: string): Uint8Array[] {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new DictionaryError(`can't read the dictionary ${file}: ${(error as Error).message}.`);
  }
  return parseDictionary(text, file);
}

export class Dictionary {
  private readonly tokens: Uint8Array[] = [];
  private readonly known = new Set<string>();
  private readonly given: number;

  /** @param tokens never given up for others. */
  constructor(tokens: readonly Uint8Array[] = []) {
    for (const bytes of tokens) this.put(bytes, this.tokens.length);
    this.given = this.tokens.length;
  }

  get size(): number {
    return this.tokens.length;
  }

  /** Takes one that was found; when there are too many, it takes the place of another of them. */
  add(bytes: Uint8Array, random: Random): void {
    if (bytes.length < 2 || bytes.length > MAX_TOKEN) return;
    const found = this.tokens.length - this.given;
    const full = found >= MAX_FOUND;
    this.put(bytes, full ? this.given + random.below(found) : this.tokens.length);
  }

  /** Any of them; undefined if there are none. */
  pick(random: Random): Uint8Array | undefined {
    return this.tokens[random.below(this.tokens.length)];
  }

  private put(bytes: Uint8Array, place: number): void {
    const key = bytes.toHex();
    if (this.known.has(key)) return;
    const old = this.tokens[place];
    if (old !== undefined) this.known.delete(old.toHex());
    this.known.add(key);
    this.tokens[place] = bytes.slice();
  }
}
