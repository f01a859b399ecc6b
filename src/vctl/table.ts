/** Tables without rules, columns two spaces apart: as vmctl prints them. */
import Table from "cli-table3";

const PARTS = ["top", "bottom", "left", "right", "mid", "middle"];
const JOINS = ["top-mid", "top-left", "top-right", "bottom-mid", "bottom-left", "bottom-right"];
const SIDES = ["left-mid", "mid-mid", "right-mid"];
const NO_RULES = Object.fromEntries([...PARTS, ...JOINS, ...SIDES].map((part) => [part, ""]));

/** Lines of text, each ended by a newline. @param align per column; default left. */
export function formatTable(
  rows: readonly (readonly (string | number)[])[],
  options: { head?: string[]; align?: ("left" | "right")[] } = {},
): string {
  const table = new Table({
    head: options.head ?? [],
    colAligns: options.align ?? [],
    chars: NO_RULES,
    style: { "padding-left": 0, "padding-right": 2, head: [], border: [] },
  });
  for (const row of rows) table.push([...row]);
  return `${table.toString().replaceAll(/ +$/gm, "")}\n`;
}
