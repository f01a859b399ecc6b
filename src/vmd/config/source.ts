/**
 * From files to one row of tokens: includes are read, macros are put in, and every token knows the
 * file and line that it is of.
 */
import { type IToken, Lexer } from "chevrotain";
import { fstatSync, openSync, closeSync, readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { ConfigMessage, Place } from "./config.ts";
import {
  Equals,
  isKeyword,
  keyword,
  Macro,
  Newline,
  Quoted,
  TOKENS,
  unquote,
  Word,
} from "./tokens.ts";

/** A file is no longer, bytes; all together have no more tokens. */
const LONGEST_FILE = 2 ** 20;
const MOST_TOKENS = 500_000;
const DEEPEST_INCLUDE = 16;
const DEEPEST_MACRO = 16;

/** A token and where it is of. */
export type PlacedToken = IToken & { payload: Place };

export interface Source {
  tokens: PlacedToken[];
  errors: ConfigMessage[];
  warnings: ConfigMessage[];
}

interface MacroDefinition extends Place {
  value: string;
  used: boolean;
  /** Of the command line: no file changes it. */
  fixed: boolean;
}

let lexer: Lexer | undefined;

/** Reads a file and what it includes. Never throws. */
export function readSource(path: string, defined: Record<string, string> = {}): Source {
  const reader = new Reader(defined);
  reader.file(path, [], { file: path, line: 0 });
  return reader.end();
}

class Reader {
  readonly #tokens: PlacedToken[] = [];
  readonly #errors: ConfigMessage[] = [];
  readonly #macros = new Map<string, MacroDefinition>();

  constructor(defined: Record<string, string>) {
    for (const [name, value] of Object.entries(defined)) {
      const place = { file: "command line", line: 0 };
      this.#macros.set(name, { value, used: true, fixed: true, ...place });
    }
  }

  /** @param outer the files that include this one. @param at where. */
  file(path: string, outer: readonly string[], at: Place): void {
    const text = this.#read(path, at);
    if (text === undefined) return;
    lexer ??= new Lexer(TOKENS, { ensureOptimizations: false, positionTracking: "onlyStart" });
    const { tokens, errors } = lexer.tokenize(text);
    for (const { line, message } of errors) {
      const unfinished = /["']/.test(message.slice(0, 40));
      this.#error(
        { file: path, line: line ?? 1 },
        unfinished ? "string without end" : "syntax error",
      );
    }
    let start = 0;
    while (start < tokens.length) {
      let end = start;
      while (end < tokens.length && tokens[end].tokenType !== Newline) end++;
      this.#line(path, outer, tokens.slice(start, Math.min(end + 1, tokens.length)));
      start = end + 1;
    }
    // The last line may lack its end.
    this.#put({ ...NEWLINE, payload: { file: path, line: lastLine(text) } });
  }

  end(): Source {
    const warnings = [...this.#macros]
      .filter(([, { used }]) => !used)
      .map(([name, { file, line }]) => ({ file, line, message: `macro '${name}' not used` }));
    return { tokens: this.#tokens, errors: this.#errors, warnings };
  }

  #line(path: string, outer: readonly string[], tokens: readonly IToken[]): void {
    const [first, second, third] = tokens;
    const place = { file: path, line: first.startLine ?? 1 };
    if (second?.tokenType === Equals) {
      this.#define(place, first, tokens.slice(2));
    } else if (first.tokenType === keyword.include) {
      const name = second === undefined ? undefined : text(second);
      if (name === undefined || (third !== undefined && third.tokenType !== Newline)) {
        this.#error(place, "syntax error");
      } else {
        this.#include(name, path, outer, place);
      }
    } else {
      for (const token of tokens)
        this.#expand(token, { file: path, line: token.startLine ?? 1 }, 0);
    }
  }

  #define(place: Place, name: IToken, rest: readonly IToken[]): void {
    const values = rest.filter((token) => token.tokenType !== Newline);
    if (isKeyword(name.image)) {
      this.#error(place, `'${name.image}' is a keyword, no macro`);
      return;
    }
    if (name.tokenType !== Word || !/^[A-Za-z0-9_]+$/.test(name.image) || values.length === 0) {
      this.#error(place, "syntax error");
      return;
    }
    const parts = values.map((token) =>
      token.tokenType === Macro ? this.#value(token, place) : (text(token) ?? token.image),
    );
    if (this.#macros.get(name.image)?.fixed) return;
    const value = parts.filter((part) => part !== undefined).join(" ");
    this.#macros.set(name.image, { value, used: false, fixed: false, ...place });
  }

  #value(token: IToken, place: Place): string | undefined {
    const macro = this.#macros.get(token.image.slice(1));
    if (macro === undefined) {
      this.#error(place, `macro '${token.image.slice(1)}' not defined`);
      return undefined;
    }
    macro.used = true;
    return macro.value;
  }

  #expand(token: IToken, place: Place, depth: number): void {
    if (token.tokenType !== Macro) {
      this.#put({ ...token, payload: place });
      return;
    }
    const value = this.#value(token, place);
    if (value === undefined) {
      // Something stood there: the rest of the statement is looked at all the same.
      this.#put({ ...token, tokenType: Word, tokenTypeIdx: Word.tokenTypeIdx!, payload: place });
      return;
    }
    if (depth === DEEPEST_MACRO) {
      this.#error(place, "macros are nested too deeply");
      return;
    }
    // As in vmd, what a macro holds is read again: it may be several words.
    for (const inner of lexer!.tokenize(value).tokens) this.#expand(inner, place, depth + 1);
  }

  #put(token: PlacedToken): void {
    if (this.#tokens.length > MOST_TOKENS) return;
    if (this.#tokens.length === MOST_TOKENS) this.#error(token.payload, "configuration too long");
    this.#tokens.push(token);
  }

  #include(name: string, from: string, outer: readonly string[], at: Place): void {
    const path = resolve(dirname(from), name);
    if (outer.includes(path) || resolve(from) === path) {
      this.#error(at, `${name} includes itself`);
    } else if (outer.length >= DEEPEST_INCLUDE) {
      this.#error(at, "includes are nested too deeply");
    } else {
      this.file(path, [...outer, resolve(from)], at);
    }
  }

  #read(path: string, at: Place): string | undefined {
    let descriptor: number | undefined;
    try {
      descriptor = openSync(path, "r");
      const status = fstatSync(descriptor);
      if (status.isDirectory()) throw Object.assign(new Error(), { code: "is a directory" });
      if (status.size > LONGEST_FILE) throw Object.assign(new Error(), { code: "too long" });
      const text = readFileSync(descriptor, "utf8");
      if (text.length <= LONGEST_FILE) return text;
      throw Object.assign(new Error(), { code: "too long" });
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const why =
        code === "ENOENT" ? "no such file" : code === "EACCES" ? "permission denied" : code;
      this.#error(at, at.line === 0 ? `${why}` : `${path}: ${why}`);
      return undefined;
    } finally {
      if (descriptor !== undefined) closeSync(descriptor);
    }
  }

  #error(place: Place, message: string): void {
    this.#errors.push({ file: place.file, line: place.line, message });
  }
}

const NEWLINE: IToken = {
  image: "\n",
  startOffset: 0,
  tokenType: Newline,
  tokenTypeIdx: Newline.tokenTypeIdx!,
};

function lastLine(text: string): number {
  const lines = text.split("\n").length;
  return text.endsWith("\n") && lines > 1 ? lines - 1 : lines;
}

/** What a word or a string says; undefined for other tokens. */
export function text(token: IToken): string | undefined {
  if (token.tokenType === Quoted) return unquote(token.image);
  return token.tokenType === Word ? token.image : undefined;
}
