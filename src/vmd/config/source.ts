/**
 * From files to one row of tokens: includes are read, macros are put in, and every token knows the
 * file and line that it is of.
 */
import { type IToken, Lexer, type TokenType } from "chevrotain";
import { dirname, resolve } from "node:path";
import type { Place } from "./config.ts";
import { FileError, readBounded } from "./file.ts";
import type { Messages } from "./messages.ts";
import {
  Equals,
  isKeyword,
  keyword,
  LeftBrace,
  Macro,
  Newline,
  Quoted,
  RightBrace,
  TOKENS,
  Unfinished,
  unquote,
  Word,
} from "./tokens.ts";

/** All files together have no more tokens, and are no more. */
const MOST_TOKENS = 200_000;
const MOST_FILES = 1000;
const DEEPEST_INCLUDE = 16;
/** Characters: macros of macros double it at each line. */
const LONGEST_VALUE = 8191;
// oxlint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)/;

/** A token, where it is of, and its place in the row as its offset. */
export type PlacedToken = IToken & { payload: Place };

interface MacroDefinition extends Place {
  value: string;
  used: boolean;
  /** Of the command line: no file changes it. */
  fixed: boolean;
}

let lexer: Lexer | undefined;

function makeLexer(validate: boolean): Lexer {
  return new Lexer(TOKENS, {
    positionTracking: "onlyStart",
    // A carriage return is space: it must not count as a line of its own.
    lineTerminatorsPattern: /\n/g,
    lineTerminatorCharacters: ["\n"],
    ensureOptimizations: false,
    skipValidations: !validate,
  });
}

function tokenize(text: string): IToken[] {
  lexer ??= makeLexer(false);
  return lexer.tokenize(text).tokens;
}

/** For tests: looks for mistakes in the words' patterns. @throws Error that names them */
export function checkTokens(): void {
  lexer = makeLexer(true);
}

/** Reads a file and what it includes. Never throws. */
export function readSource(
  path: string,
  messages: Messages,
  defined: Record<string, string> = {},
): PlacedToken[] {
  const reader = new Reader(messages, defined);
  reader.file(path, [], { file: path, line: 0 });
  return reader.end();
}

class Reader {
  readonly #tokens: PlacedToken[] = [];
  readonly #messages: Messages;
  readonly #macros = new Map<string, MacroDefinition>();
  /** Braces that are open. */
  #depth = 0;
  #files = 0;

  constructor(messages: Messages, defined: Record<string, string>) {
    this.#messages = messages;
    for (const [name, value] of Object.entries(defined)) {
      const place = { file: "command line", line: 0 };
      this.#macros.set(name, { value, used: true, fixed: true, ...place });
    }
  }

  /** @param outer the files that include this one. @param at where. */
  file(path: string, outer: readonly string[], at: Place): void {
    this.#files++;
    this.#messages.file(path);
    const source = this.#read(path, at);
    if (source === undefined) return;
    const tokens = tokenize(source);
    let start = 0;
    while (start < tokens.length && !this.#isFull) {
      let end = start;
      while (end < tokens.length && tokens[end].tokenType !== Newline) end++;
      this.#line(path, outer, tokens.slice(start, Math.min(end + 1, tokens.length)));
      start = end + 1;
    }
    // The last line may lack its end.
    this.#put(Newline, "\n", { file: path, line: lastLine(source) });
  }

  end(): PlacedToken[] {
    for (const [name, { used, ...place }] of this.#macros) {
      if (!used) this.#messages.warning(place, `macro '${name}' not used`);
    }
    return this.#tokens;
  }

  get #isFull(): boolean {
    return this.#tokens.length > MOST_TOKENS;
  }

  #line(path: string, outer: readonly string[], tokens: readonly IToken[]): void {
    const [first, second] = tokens;
    const place = { file: path, line: first.startLine ?? 1 };
    // No block holds a VM: before one, a brace is missing.
    if (first.tokenType === keyword.vm) this.#depth = 0;
    const top = this.#depth === 0;
    if (top && second?.tokenType === Equals) {
      this.#define(place, first, withoutEnd(tokens.slice(2)));
    } else if (top && first.tokenType === keyword.include) {
      this.#include(withoutEnd(tokens.slice(1)), path, outer, place);
    } else {
      for (const token of tokens) this.#expand(token, { file: path, line: token.startLine ?? 1 });
    }
  }

  #define(place: Place, name: IToken, values: readonly IToken[]): void {
    if (isKeyword(name.image)) {
      this.#messages.error(place, `'${name.image}' is a keyword, no macro`);
      return;
    }
    if (name.tokenType !== Word || !/^[A-Za-z0-9_]+$/.test(name.image) || values.length === 0) {
      this.#messages.error(place, "syntax error");
      return;
    }
    const parts = values.map((token) => {
      if (token.tokenType === Unfinished) this.#messages.error(place, "string without end");
      return token.tokenType === Macro ? this.#value(token, place) : (text(token) ?? token.image);
    });
    if (this.#macros.get(name.image)?.fixed) return;
    let value = parts.filter((part) => part !== undefined).join(" ");
    if (value.length > LONGEST_VALUE) {
      this.#messages.error(place, `macro '${name.image}' too long`);
      value = "";
    }
    this.#macros.set(name.image, { value, used: false, fixed: false, ...place });
  }

  #value(token: IToken, place: Place): string | undefined {
    const macro = this.#macros.get(token.image.slice(1));
    if (macro === undefined) {
      this.#messages.error(place, `macro '${token.image.slice(1)}' not defined`);
      return undefined;
    }
    macro.used = true;
    return macro.value;
  }

  #expand({ tokenType, image, ...token }: IToken, place: Place): void {
    if (tokenType !== Macro) {
      this.#put(tokenType, image, place);
      return;
    }
    const value = this.#value({ tokenType, image, ...token }, place);
    // Something stood there: the rest of the statement is looked at all the same.
    if (value === undefined) this.#put(Word, image, place);
    // As in vmd, what a macro holds is read again: it may be several words. A path with a space is
    // a string, quoted or not; a macro within isn't put in.
    else for (const inner of tokenize(value)) this.#put(inner.tokenType, inner.image, place);
  }

  #put(tokenType: TokenType, image: string, place: Place): void {
    if (this.#isFull) return;
    if (this.#tokens.length === MOST_TOKENS) this.#messages.error(place, "configuration too long");
    if (tokenType === Unfinished) {
      this.#messages.error(place, "string without end");
      this.#put(Quoted, image + image[0], place);
      return;
    }
    if (tokenType === LeftBrace) this.#depth++;
    if (tokenType === RightBrace) this.#depth = Math.max(0, this.#depth - 1);
    this.#tokens.push({
      image,
      startOffset: this.#tokens.length,
      tokenType,
      tokenTypeIdx: tokenType.tokenTypeIdx!,
      payload: place,
    });
  }

  #include(names: readonly IToken[], from: string, outer: readonly string[], at: Place): void {
    const parts = names.map((token) =>
      token.tokenType === Macro ? this.#value(token, at) : text(token),
    );
    const name = parts.join("");
    if (name === "" || parts.includes(undefined)) {
      this.#messages.error(at, "syntax error");
      return;
    }
    const path = resolve(dirname(from), name);
    if (outer.includes(path) || resolve(from) === path) {
      this.#messages.error(at, `${name} includes itself`);
    } else if (outer.length >= DEEPEST_INCLUDE) {
      this.#messages.error(at, "includes are nested too deeply");
    } else if (this.#files >= MOST_FILES) {
      this.#messages.error(at, "too many includes");
    } else {
      this.file(path, [...outer, resolve(from)], at);
    }
  }

  #read(path: string, at: Place): string | undefined {
    try {
      const source = readBounded(path);
      const control = CONTROL.exec(source);
      if (control === null) return source;
      const line = source.slice(0, control.index).split("\n").length;
      this.#messages.error({ file: path, line }, "control character");
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      this.#messages.error(at, at.line === 0 ? error.message : `${path}: ${error.message}`);
    }
    return undefined;
  }
}

function withoutEnd(tokens: readonly IToken[]): IToken[] {
  return tokens.filter(({ tokenType }) => tokenType !== Newline);
}

function lastLine(source: string): number {
  const lines = source.split("\n").length;
  return source.endsWith("\n") && lines > 1 ? lines - 1 : lines;
}

/** What a word or a string says; undefined for other tokens. */
export function text(token: IToken): string | undefined {
  if (token.tokenType === Quoted) return unquote(token.image);
  return token.tokenType === Word ? token.image : undefined;
}
