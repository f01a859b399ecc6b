/** Which crashes are the same. */
import { createHash } from "node:crypto";
import { type CrashReport, Verdict } from "../executor.ts";

/** Frames that count. */
const FRAMES = 5;

/** Kinds of what ended a whole process: such an input isn't run again. */
export const DEATH = "worker's death";
export const NO_END = "no end";

export interface Crash {
  /** Equal for the same kind at the same place: a directory's name. */
  readonly key: string;
  readonly verdict: Verdict;
  readonly report: CrashReport;
  readonly input: Uint8Array;
  /** What is left of the input when nothing more can go. */
  readonly minimised?: Uint8Array;
  /** The campaign's seed, and the run that it was. */
  readonly seed: number;
  readonly run: number;
  /** The corpus entry that it was made from. */
  readonly parent?: string;
}

/**
 * A frame without what changes from build to build or run to run: folders, columns, call sites' offsets.
 * Of a hang, where exactly the budget ended means nothing: lines and offsets go, addresses keep their page.
 */
export function normaliseFrame(frame: string, innermost: boolean, hang: boolean): string {
  let text = frame.trim().replace(/(?:file:\/\/)?(?:[\w.@~-]*\/)+(?=[\w.-]+:\d)/g, "");
  text = text.replace(/(:\d+):\d+\b/g, "$1");
  if (hang) {
    text = text.replace(/:\d+\b/g, "");
    text = text.replace(
      /^0x([0-9a-f]+)$/i,
      (_, digits: string) => `0x${digits.slice(0, -3) || "0"}000`,
    );
  }
  if (hang || !innermost) text = text.replace(/\+0x[0-9a-f]+\b/gi, "");
  return text;
}

export function crashKey(verdict: Verdict, report: CrashReport): string {
  const hang = verdict === Verdict.TIMEOUT;
  const frames = report.stack.slice(0, FRAMES);
  const stack = frames.map((frame, i) => normaliseFrame(frame, i === 0, hang));
  const hash = createHash("sha256")
    .update([report.kind, ...stack].join("\n"))
    .digest("hex");
  const kind = report.kind
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 32);
  return `${kind}-${hash.slice(0, 16)}`;
}

/** A name for an input: of the same bytes the same. */
export function inputName(input: Uint8Array): string {
  return createHash("sha256").update(input).digest("hex").slice(0, 32);
}
