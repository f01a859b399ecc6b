/** Errors and warnings of a configuration: bounded, and in the order of its lines. */
import { sentence } from "../sentence.ts";
import type { ConfigMessage, Place } from "./config.ts";

/** So many errors are told; whoever made more has another file in hand. */
export const MOST_ERRORS = 200;

export class Messages {
  readonly #errors: ConfigMessage[] = [];
  #last: ConfigMessage | undefined;
  readonly #warnings: ConfigMessage[] = [];
  readonly #seen = new Set<string>();
  /** Files in the order in which they are read. */
  readonly #ranks = new Map<string, number>();

  /** A file begins. */
  file(path: string): void {
    if (!this.#ranks.has(path)) this.#ranks.set(path, this.#ranks.size);
  }

  error({ file, line }: Place, message: string): void {
    const error = { file, line, message: sentence(message) };
    if (this.#last !== undefined || this.#seen.has(format(error))) return;
    this.#seen.add(format(error));
    if (this.#errors.length < MOST_ERRORS) this.#errors.push(error);
    else this.tooMany(error);
  }

  /** No more errors than these: here whoever looks for them gave up. */
  tooMany({ file, line }: Place): void {
    this.#last ??= { file, line, message: "too many errors" };
  }

  warning({ file, line }: Place, message: string): void {
    if (this.#warnings.length > MOST_ERRORS) return;
    this.#warnings.push({ file, line, message: sentence(message) });
  }

  /** By file and line; that there are more, last. */
  get errors(): ConfigMessage[] {
    const errors = this.#sorted(this.#errors);
    return this.#last === undefined ? errors : [...errors, this.#last];
  }

  get warnings(): ConfigMessage[] {
    return this.#sorted(this.#warnings);
  }

  #sorted(messages: readonly ConfigMessage[]): ConfigMessage[] {
    const rank = ({ file }: ConfigMessage) => this.#ranks.get(file) ?? -1;
    return [...messages].sort((a, b) => rank(a) - rank(b) || a.line - b.line);
  }
}

/** "file:line: message". */
export function format({ file, line, message }: ConfigMessage): string {
  return line === 0 ? `${file}: ${message}` : `${file}:${line}: ${message}`;
}
