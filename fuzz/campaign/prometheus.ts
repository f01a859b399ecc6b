/** Figures in Prometheus' text format. */
import type { Figures } from "./figures.ts";

type Metric = readonly [name: string, type: "counter" | "gauge", help: string, key: keyof Figures];

const METRICS: readonly Metric[] = [
  ["runs_total", "counter", "Runs of inputs in all sessions.", "totalRuns"],
  ["seconds_total", "counter", "Time that was spent in all sessions.", "totalSeconds"],
  ["runs_per_second", "gauge", "Runs per second over the last seconds.", "runsPerSecond"],
  ["edges", "gauge", "Edges that any run touched.", "edges"],
  ["map_size", "gauge", "Places of the coverage map.", "mapSize"],
  ["corpus_inputs", "gauge", "Inputs that are kept.", "corpus"],
  ["favoured_inputs", "gauge", "Inputs that are enough for all edges.", "favoured"],
  ["crashes", "gauge", "Different crashes.", "crashes"],
  ["hangs", "gauge", "Different hangs.", "hangs"],
  ["crashing_runs_total", "counter", "Runs that ended in a crash.", "crashingRuns"],
  ["hanging_runs_total", "counter", "Runs that used up their budget.", "hangingRuns"],
  ["cycles", "gauge", "Turns that each input could have had.", "cycles"],
  ["stability_ratio", "gauge", "Repeated runs that were equal.", "stability"],
  ["reset_fidelity_ratio", "gauge", "Checked resets equal to the snapshot.", "fidelity"],
  ["resets_checked_total", "counter", "Resets that were checked.", "resetsChecked"],
  ["since_find_seconds", "gauge", "Time since an input showed something new.", "sinceFind"],
  ["since_crash_seconds", "gauge", "Time since a new crash or hang.", "sinceCrash"],
  ["workers", "gauge", "Workers.", "workers"],
  ["workers_replaced_total", "counter", "Workers that had to be replaced.", "replaced"],
];

const escape = (text: string) =>
  text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");

/** The body of an answer of type `text/plain; version=0.0.4`. What isn't known yet is left out. */
export function prometheus(figures: Figures): string {
  const labels = `{target="${escape(figures.target)}"}`;
  let text = "";
  for (const [name, type, help, key] of METRICS) {
    const value = figures[key];
    if (typeof value !== "number") continue;
    const full = `vmd_fuzz_${name}`;
    text += `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${full}${labels} ${value}\n`;
  }
  return text;
}
