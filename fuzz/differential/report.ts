/** What a run found, as data and as a table. */
import type { EngineName } from "../../src/vmm/engine.ts";
import type { Campaign, Group, Totals } from "./campaign.ts";
import { ALL_CAUSES, causeOf } from "./causes.ts";
import type { Finding } from "./finding.ts";
import { inLab } from "./lab.ts";
import type { Mode } from "./layout.ts";

export interface RunOptions {
  readonly engines: readonly [EngineName, EngineName];
  readonly seed: number;
  readonly from: number;
  readonly modes: readonly Mode[];
  readonly seconds: number;
}

/** A finding whose bytes are hexadecimal digits. */
type SavedFinding = Omit<Finding, "bytes"> & { readonly bytes: string };

export interface ReportGroup {
  /** Of causes.ts; undefined where it has none. */
  readonly cause?: string;
  readonly key: string;
  count: number;
  readonly seed: number;
  readonly first: number;
  /** The first case's instruction and what differed, for people. */
  readonly example: string;
  /** Of one without a cause, so that a later table of causes can find it. */
  readonly finding?: SavedFinding;
}

export interface Report {
  readonly engines: readonly string[];
  readonly modes: readonly string[];
  /** Of the lab, whose table of causes is another; not told by reports of before. */
  readonly lab?: boolean;
  seconds: number;
  readonly totals: Totals;
  readonly groups: ReportGroup[];
}

export function report(campaign: Campaign, options: RunOptions): Report {
  const groups = [...campaign.groups.values()].map((group): ReportGroup => ({
    ...(group.cause === undefined ? {} : { cause: group.cause.name }),
    key: group.key,
    count: group.count,
    seed: options.seed,
    first: group.first,
    example: exampleOf(group),
    ...(group.cause === undefined
      ? { finding: { ...group.example!, bytes: group.example!.bytes.toHex() } }
      : {}),
  }));
  const { engines, modes, seconds } = options;
  const totals = { ...campaign.totals };
  return { engines, modes, lab: inLab, seconds, totals, groups: sorted(groups) };
}

/** What reports of before don't tell of a finding. */
const UNTOLD = { earlier: [], strayed: false, displaced: false, alone: true, bases: [] };

/** Looks again for causes, as the table is now. */
function explained(group: ReportGroup, lab: boolean): ReportGroup {
  if (group.finding === undefined) return group;
  const bytes = Uint8Array.fromHex(group.finding.bytes ?? "");
  const cause = causeOf({ ...UNTOLD, ...group.finding, bytes }, lab);
  if (cause === undefined) return group;
  const { count, seed, first, example } = group;
  return { count, seed, first, example, cause: cause.name, key: cause.name };
}

/** Adds runs up; those of other engines are not to be among them. */
export function merge(reports: readonly Report[]): Report {
  const [first, ...others] = reports;
  const result: Report = { ...first, totals: { ...first.totals }, groups: [] };
  const groups = new Map<string, ReportGroup>();
  for (const { groups: more, lab } of reports) {
    for (const one of more) {
      const group = explained(one, lab ?? false);
      const known = groups.get(group.key);
      if (known !== undefined) known.count += group.count;
      else groups.set(group.key, { ...group });
    }
  }
  for (const { totals, seconds } of others) {
    result.seconds += seconds;
    for (const name of Object.keys(totals) as (keyof Totals)[]) result.totals[name] += totals[name];
  }
  result.groups.push(...sorted([...groups.values()]));
  const left = result.groups.filter((group) => group.cause === undefined);
  result.totals.unexplained = left.reduce((sum, group) => sum + group.count, 0);
  return result;
}

function sorted(groups: ReportGroup[]): ReportGroup[] {
  return groups.sort((a, b) => b.count - a.count || (a.key < b.key ? -1 : 1));
}

function exampleOf({ example }: Group): string {
  if (example === undefined) return "";
  const { text, bytes, mode, cpl, endings, differences } = example;
  const what = differences.slice(0, 4).map((one) => `${one.what} ${one.a} and ${one.b}`);
  const code = bytes.length > 0 ? `${text} (${bytes.toHex()}), ` : "";
  return `${code}${mode}, ring ${cpl}: ends ${endings.join(" and ")}; ${what.join("; ")}`;
}

const escaped = (text: string) => text.replaceAll("|", "\\|");

/** @param unexplained whether each difference without a cause is listed, rather than counted. */
export function toMarkdown(result: Report, unexplained: boolean): string {
  const { totals, engines, seconds, modes } = result;
  const rate = seconds > 0 ? Math.round(totals.cases / seconds) : 0;
  const lines = [
    `${totals.cases} cases on ${engines.join(" and ")}, modes ${modes.join(" ")}, ${rate} a second:`,
    `${totals.same} the same, ${totals.undefinedOnly} but for undefined flags, ` +
      `${totals.notRun} with instructions that one can't run, ${totals.endless} too long, ` +
      `${totals.differ} different, ${totals.unexplained} of them unexplained.`,
    "",
    "| cause | whose | cases | the first |",
    "| ----- | ----- | ----- | --------- |",
  ];
  for (const { name, by } of ALL_CAUSES) {
    const found = result.groups.find((group) => group.cause === name);
    if (found === undefined) continue;
    const first = `--seed ${found.seed} --case ${found.first}`;
    lines.push(`| ${escaped(name)} | ${escaped(by)} | ${found.count} | \`${first}\` |`);
  }
  const left = result.groups.filter((group) => group.cause === undefined);
  if (unexplained && left.length > 0) {
    lines.push("", "Unexplained:", "");
    for (const { key, count, seed, first, example } of left) {
      lines.push(`- ${key}: ${count}, --seed ${seed} --case ${first}: ${example}`);
    }
  }
  return lines.join("\n");
}
