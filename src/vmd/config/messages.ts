/** Errors and warnings of a configuration: bounded, and in the order of its lines. */
import type { ConfigMessage, Place } from "./config.ts";

/** So many errors are told; whoever made more has another file in hand. */
export const MOST_ERRORS = 200;
const LONGEST_MESSAGE = 500;

export class Messages {
  readonly #errors: ConfigMessage[] = [];
  readonly #warnings: ConfigMessage[] = [];
  readonly #seen = new Set<string>();
  /** Files in the order in which they are read. */
  readonly #ranks = new Map<string, number>();

  /** A file begins. */
  file(path: string): void {
    if (!this.#ranks.has(path)) this.#ranks.set(path, this.#ranks.size);
  }

  error({ file, line }: Place, message: string): void {
    if (this.#errors.length > MOST_ERRORS) return;
    const error = { file, line, message: shortened(message) };
    if (this.#seen.has(format(error))) return;
    this.#seen.add(format(error));
    if (this.#errors.length === MOST_ERRORS) error.message = "too many errors";
    this.#errors.push(error);
  }

  warning({ file, line }: Place, message: string): void {
    if (this.#warnings.length > MOST_ERRORS) return;
    this.#warnings.push({ file, line, message: shortened(message) });
  }

  /** By file and line. */
  get errors(): ConfigMessage[] {
    return this.#sorted(this.#errors);
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

function shortened(message: string): string {
  return message.length > LONGEST_MESSAGE ? `${message.slice(0, LONGEST_MESSAGE)}...` : message;
}
