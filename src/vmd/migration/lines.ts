/**
 * What the two sides of a migration say to each other beside the snapshot, each a line of text.
 *
 * ```
 * source                                  receiver
 *   CONFIG, pages … ─────────────────────►
 *                  ◄───────────────── HELLO    it waits for COMMIT before it runs anything
 *   the rest, END  ─────────────────────►      the source's guest stands still, its disks are free
 *                  ◄───────────────── READY    all is there, checked and open
 *   COMMIT         ─────────────────────►      from here on the source doesn't run by itself
 *                  ◄─────────────── RUNNING    the source ends its VM
 * ```
 *
 * FAILED and a sentence instead of HELLO or READY: the receiver gives up, the source goes on.
 * UNDELIVERED comes from whoever carries the stream: its end was not taken, so nobody runs it.
 *
 * Through a one-way pipe to another host nothing comes back: the receiver runs the guest when END was
 * read, and the source's stays as it is, paused.
 */
export const Line = {
  HELLO: "HELLO",
  READY: "READY",
  COMMIT: "COMMIT",
  RUNNING: "RUNNING",
  FAILED: "FAILED",
  UNDELIVERED: "UNDELIVERED",
} as const;

/** Characters of a line at most; what is longer comes from nobody of ours. */
const LONGEST = 2000;

// oxlint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x1f\x7f-\x9f]/g;

/** Puts lines together that come in pieces. */
export class LineBuffer {
  readonly #decoder = new TextDecoder();
  #rest = "";

  /** What came of a line that isn't whole yet. */
  get rest(): string {
    return this.#rest;
  }

  /** @returns the lines that are whole now */
  add(bytes: Uint8Array): string[] {
    const parts = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split("\n");
    this.#rest = (parts.pop() as string).slice(0, LONGEST);
    return parts;
  }
}

/** What follows FAILED, for people; undefined: it is another line. */
export function failureOf(line: string): string | undefined {
  if (!line.startsWith(`${Line.FAILED} `)) return undefined;
  return line.slice(Line.FAILED.length + 1, LONGEST).replaceAll(CONTROL, "?");
}
