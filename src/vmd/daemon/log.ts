/**
 * The daemon's log: a line an event, for people or, as JSON, for programs. What a guest can bring
 * about is throttled: no guest fills a disk.
 */
import { writeSync } from "node:fs";

export type LogLevel = "brief" | "verbose";
export type LogFormat = "text" | "json";

/** What an event has to say beside its message. */
export type LogFields = Record<string, string | number | boolean | undefined>;

/** Lines about a VM in WINDOW ms; the rest is counted. */
const LIMIT = 50;
const WINDOW = 10_000;

export class Log {
  level: LogLevel;
  readonly #format: LogFormat;
  #write: (line: string) => void;
  readonly #counts = new Map<string, { since: number; lines: number }>();

  constructor(level: LogLevel, format: LogFormat = "text", write = toStandardError) {
    this.level = level;
    this.#format = format;
    this.#write = write;
  }

  /** Writes to somebody else from now on. */
  to(write: (line: string) => void): void {
    this.#write = write;
  }

  /** Always written. */
  info(message: string, fields: LogFields = {}): void {
    this.#line("info", message, fields);
  }

  warn(message: string, fields: LogFields = {}): void {
    this.#line("warning", message, fields);
  }

  /** Written when the level is verbose. */
  debug(message: string, fields: LogFields = {}): void {
    if (this.level === "verbose") this.#line("debug", message, fields);
  }

  #line(severity: string, message: string, fields: LogFields): void {
    const { vm } = fields;
    if (typeof vm === "string" && this.#isTooMuch(vm)) return;
    if (this.#format === "json") {
      const time = new Date().toISOString();
      this.#write(`${JSON.stringify({ time, severity, ...fields, message })}\n`);
      return;
    }
    const about = vm === undefined ? "" : `${vm}: `;
    const rest = Object.entries(fields)
      .filter(([key, value]) => key !== "vm" && value !== undefined)
      .map(([key, value]) => ` ${key}=${quoted(value)}`)
      .join("");
    const note = severity === "warning" ? "warning: " : "";
    this.#write(`vmd: ${about}${note}${printable(message)}${rest}\n`);
  }

  #isTooMuch(vm: string): boolean {
    const now = performance.now();
    let count = this.#counts.get(vm);
    if (count === undefined || now - count.since > WINDOW) {
      const left = count === undefined ? 0 : count.lines - LIMIT;
      count = { since: now, lines: 0 };
      this.#counts.set(vm, count);
      if (left > 0) this.#line("warning", `${left} lines left out`, { vm });
    }
    return ++count.lines > LIMIT;
  }

  /** A VM is gone: so is what is known of its lines. */
  forget(vm: string): void {
    this.#counts.delete(vm);
  }
}

// A VM's process may say anything: no control characters on a terminal.
function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replaceAll(/[\x00-\x1f\x7f-\x9f]/g, "?");
}

function quoted(value: string | number | boolean | undefined): string {
  const text = printable(String(value));
  return /[\s"=]/.test(text) || text === "" ? JSON.stringify(text) : text;
}

function toStandardError(line: string): void {
  try {
    writeSync(2, line);
  } catch {
    // Nobody reads it any more: that is no reason to end.
  }
}
