/** The web page: one file, no other is asked for. It follows `/events` and draws what comes. */

const STYLE = `
:root { color-scheme: light dark; --ink: #222; --dim: #777; --line: #ccc; --paper: #fff; --a: #0a7; --b: #36c; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --dim: #999; --line: #444; --paper: #181818; --a: #3d9; --b: #7af; } }
body { font: 15px/1.4 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; font-weight: 600; } h2 { font-size: 1rem; font-weight: 600; margin: 1.5rem 0 .3rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; margin: 0; }
dt { color: var(--dim); font-size: .85rem; } dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: 12rem; display: block; } .bad { color: #d33; } #state { color: var(--dim); }
polyline { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; } svg path { stroke: var(--line); vector-effect: non-scaling-stroke; }
.scale { display: flex; justify-content: space-between; color: var(--dim); font-size: .85rem; }
`;

const SCRIPT = `
"use strict";
const by = (id) => document.getElementById(id);
const short = (n) => n >= 1e9 ? (n / 1e9).toFixed(2) + " G" : n >= 1e6 ? (n / 1e6).toFixed(2) + " M" : n >= 1e3 ? (n / 1e3).toFixed(1) + " k" : String(Math.round(n));
const time = (s) => s === null ? "–" : s < 60 ? Math.floor(s) + " s" : s < 3600 ? Math.floor(s / 60) + " min" : (s / 3600).toFixed(1) + " h";
const part = (r) => r === null ? "–" : r === 1 ? "100 %" : (Math.floor(r * 1e4) / 100).toFixed(2) + " %";
const show = {
  runs: (f) => short(f.totalRuns), rate: (f) => short(f.runsPerSecond), mean: (f) => short(f.meanRunsPerSecond),
  edges: (f) => f.edges, corpus: (f) => f.corpus + " (" + f.favoured + ")", crashes: (f) => f.crashes, hangs: (f) => f.hangs,
  find: (f) => time(f.sinceFind), cycles: (f) => f.cycles, stability: (f) => part(f.stability), fidelity: (f) => part(f.fidelity),
  workers: (f) => f.workers, seconds: (f) => time(f.seconds), exchange: (f) => f.exchange ?? "none",
};
function chart(id, points, key) {
  const most = Math.max(1, ...points.map((p) => p[key]));
  const end = Math.max(1, points.length ? points[points.length - 1].seconds : 1);
  const line = points.map((p) => (1000 * p.seconds / end).toFixed(1) + "," + (195 - 190 * p[key] / most).toFixed(1)).join(" ");
  by(id).querySelector("polyline").setAttribute("points", line);
  by(id + "-most").textContent = short(most);
  by(id + "-end").textContent = time(end);
}
function update({ figures, history }) {
  document.title = figures.target + " – fuzzing";
  by("target").textContent = figures.target + (figures.engine ? " on " + figures.engine : "");
  for (const [id, text] of Object.entries(show)) by(id).textContent = text(figures);
  for (const id of ["crashes", "hangs"]) by(id).className = figures[id] > 0 ? "bad" : "";
  chart("coverage", history, "edges");
  chart("speed", history, "runsPerSecond");
}
const events = new EventSource("events");
events.onmessage = ({ data }) => { by("state").textContent = "live"; update(JSON.parse(data)); };
events.onerror = () => { by("state").textContent = "the campaign doesn't answer"; };
`;

const FIGURES = [
  ["runs", "runs"],
  ["rate", "execs/s"],
  ["mean", "execs/s, mean"],
  ["edges", "edges"],
  ["corpus", "corpus (favoured)"],
  ["crashes", "crashes"],
  ["hangs", "hangs"],
  ["find", "since the last find"],
  ["cycles", "cycles"],
  ["stability", "stability"],
  ["fidelity", "reset fidelity"],
  ["workers", "workers"],
  ["seconds", "run time"],
  ["exchange", "exchange"],
] as const;

const chart = (id: string, title: string, colour: string) => `<h2>${title}</h2>
<div class="scale"><span id="${id}-most"></span></div>
<svg id="${id}" viewBox="0 0 1000 200" preserveAspectRatio="none" role="img" aria-label="${title}"><path d="M0 195H1000"/><polyline stroke="var(${colour})" points=""/></svg>
<div class="scale"><span>0</span><span id="${id}-end"></span></div>`;

export const PAGE = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>fuzzing</title><link rel="icon" href="data:,"><style>${STYLE}</style></head><body>
<h1>Fuzzing <span id="target"></span></h1><p id="state">waiting</p>
<dl>${FIGURES.map(([id, label]) => `<div><dt>${label}</dt><dd id="${id}"></dd></div>`).join("")}</dl>
${chart("coverage", "Edges over time", "--a")}
${chart("speed", "Execs per second over time", "--b")}
<script>${SCRIPT}</script></body></html>
`;
