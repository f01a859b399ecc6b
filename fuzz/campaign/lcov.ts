/** Covered source lines in lcov's tracefile format (geninfo(1)). */

export interface SourceFunction {
  readonly name: string;
  /** Where it begins. */
  readonly line: number;
  readonly count: number;
}

export interface SourceBranch {
  readonly line: number;
  /** Number of the decision on its line, and of the way that it went. */
  readonly block: number;
  readonly branch: number;
  /** How often; undefined if the decision was never made. */
  readonly count?: number;
}

export interface SourceFile {
  readonly path: string;
  /** Line numbers from 1, each with how often it was run. */
  readonly lines: ReadonlyMap<number, number>;
  readonly functions?: readonly SourceFunction[];
  readonly branches?: readonly SourceBranch[];
}

const hit = (counts: readonly number[]) => counts.filter((count) => count > 0).length;

function record({ path, lines, functions = [], branches = [] }: SourceFile): string[] {
  const sorted = [...lines].sort(([a], [b]) => a - b);
  const text = ["TN:", `SF:${path}`];
  if (functions.length > 0) {
    text.push(...functions.map(({ name, line }) => `FN:${line},${name}`));
    text.push(...functions.map(({ name, count }) => `FNDA:${count},${name}`));
    text.push(`FNF:${functions.length}`, `FNH:${hit(functions.map(({ count }) => count))}`);
  }
  if (branches.length > 0) {
    for (const { line, block, branch, count } of branches)
      text.push(`BRDA:${line},${block},${branch},${count ?? "-"}`);
    text.push(`BRF:${branches.length}`, `BRH:${hit(branches.map(({ count }) => count ?? 0))}`);
  }
  text.push(...sorted.map(([line, count]) => `DA:${line},${count}`));
  text.push(`LF:${sorted.length}`, `LH:${hit(sorted.map(([, count]) => count))}`, "end_of_record");
  return text;
}

/** A whole tracefile. */
export function lcov(files: Iterable<SourceFile>): string {
  let text = "";
  for (const file of files) text += `${record(file).join("\n")}\n`;
  return text;
}
