/** The view on a terminal: redrawn in place; a line every few seconds where the output is none. */
import { createColors } from "picocolors";
import type { Figures } from "./figures.ts";
import { duration, percent, shortNumber } from "./words.ts";

/** Between two lines, in milliseconds. */
const LINE_EVERY = 5000;
const LABEL = 14;
const COLUMN = 38;

export interface Output {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

type Colours = ReturnType<typeof createColors>;

/** All in one line. */
export function figuresLine(figures: Figures): string {
  const parts = [
    duration(figures.seconds),
    `${shortNumber(figures.runs)} runs`,
    `${shortNumber(figures.runsPerSecond)} execs/s`,
    `${figures.edges} edges`,
    `corpus ${figures.corpus}`,
    `crashes ${figures.crashes}`,
    `hangs ${figures.hangs}`,
    `stability ${percent(figures.stability)}`,
  ];
  if (figures.fidelity !== null) parts.push(`fidelity ${percent(figures.fidelity)}`);
  if (figures.exchange !== undefined) parts.push(figures.exchange);
  return parts.join(" · ");
}

type Cell = readonly [label: string, value: string, colour?: (text: string) => string];

function cells(figures: Figures, colours: Colours): (readonly [Cell, Cell?])[] {
  const ago = (seconds: number | null) =>
    seconds === null ? "none yet" : `${duration(seconds)} ago`;
  const bad = (count: number) => (count > 0 ? colours.red : colours.green);
  const whole = (ratio: number | null) =>
    ratio === null || ratio === 1 ? colours.green : colours.yellow;
  const map = figures.mapSize === 0 ? 0 : (100 * figures.edges) / figures.mapSize;
  return [
    [
      ["run time", duration(figures.seconds)],
      ["execs/s", shortNumber(figures.runsPerSecond), colours.bold],
    ],
    [
      ["runs", shortNumber(figures.totalRuns)],
      ["mean", `${shortNumber(figures.meanRunsPerSecond)} execs/s`],
    ],
    [
      ["edges", `${figures.edges} (${map.toFixed(2)} % of the map)`],
      ["last find", ago(figures.sinceFind)],
    ],
    [
      ["corpus", `${figures.corpus} (${figures.favoured} favoured)`],
      ["cycles", String(figures.cycles)],
    ],
    [
      [
        "crashes",
        `${figures.crashes} (${shortNumber(figures.crashingRuns)} runs)`,
        bad(figures.crashes),
      ],
      ["hangs", `${figures.hangs} (${shortNumber(figures.hangingRuns)} runs)`, bad(figures.hangs)],
    ],
    [
      ["last crash", ago(figures.sinceCrash)],
      ["tokens", String(figures.tokens)],
    ],
    [
      ["stability", percent(figures.stability), whole(figures.stability)],
      ["fidelity", percent(figures.fidelity), whole(figures.fidelity)],
    ],
    [
      [
        "workers",
        `${figures.workers}${figures.replaced > 0 ? `, ${figures.replaced} replaced` : ""}`,
      ],
      ["seed", String(figures.seed)],
    ],
  ];
}

function drawCell(cell: Cell | undefined, colours: Colours, width: number): string {
  if (cell === undefined) return "";
  const [label, value, colour = (text: string) => text] = cell;
  const space = " ".repeat(Math.max(1, width - LABEL - value.length));
  return `${colours.dim(label.padEnd(LABEL))}${colour(value)}${space}`;
}

/** The whole view, as lines that are no longer than `columns`. */
export function figuresScreen(figures: Figures, colours: Colours, columns = 80): string[] {
  const engine = figures.engine === undefined ? "" : ` on ${figures.engine}`;
  const rows = cells(figures, colours);
  // Where two don't fit beside each other, each has a line.
  const flat =
    columns < 2 * COLUMN ? rows.flatMap((row) => row.map((cell) => [cell] as const)) : rows;
  const lines = flat.map((row) =>
    row
      .map((cell) => drawCell(cell, colours, COLUMN))
      .join("")
      .trimEnd(),
  );
  const head = `fuzzing ${figures.target}${engine}`.slice(0, columns);
  if (figures.exchange !== undefined) lines.push(colours.dim(figures.exchange.slice(0, columns)));
  return [colours.bold(head), ...lines];
}

export class TerminalView {
  private readonly colours: Colours;
  private drawn = 0;
  private last = -Infinity;

  constructor(
    private readonly output: Output,
    private readonly now: () => number = () => performance.now(),
  ) {
    const { NO_COLOR } = process.env;
    const plain = NO_COLOR !== undefined && NO_COLOR !== "";
    this.colours = createColors(output.isTTY === true && !plain);
  }

  show(figures: Figures): void {
    if (this.output.isTTY !== true) {
      const now = this.now();
      if (now - this.last < LINE_EVERY) return;
      this.last = now;
      this.output.write(`${figuresLine(figures)}\n`);
      return;
    }
    const lines = figuresScreen(figures, this.colours, this.output.columns);
    const up = this.drawn > 0 ? `\x1b[${this.drawn}A` : "";
    this.output.write(`${up}${lines.map((line) => `\r${line}\x1b[K\n`).join("")}\x1b[J`);
    this.drawn = lines.length;
  }

  /** The last figures, in any case. */
  end(figures: Figures): void {
    this.last = -Infinity;
    this.show(figures);
  }
}
