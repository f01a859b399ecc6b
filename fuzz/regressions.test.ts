/**
 * Targets of our own code in short: inputs that once found a bug, a second of each campaign, and some
 * of the planted bugs. All of these, and longer: docs/fuzzing-own.md.
 *
 * Each runs in a process of its own: what is instrumented there is not what other tests test.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { root } from "../src/vmm/root.ts";
import { CORPUS, inputFiles } from "./own/files.ts";
import { PLANTED } from "./own/planted.ts";
import type { PlantedResult } from "./own/planted-run.ts";
import { TARGETS } from "./targets/index.ts";

setDefaultTimeout(600_000);
/** Seconds of each target. */
const SECONDS = Number(process.env.VMD_FUZZ_SECONDS ?? 1);
/** Seconds within which a planted bug is found. */
const PLANTED_SECONDS = 300;
/** Found in no time; VMD_FUZZ_PLANTED=all tries all of them. */
const QUICK = ["V5", "V7", "V9", "V12", "E1", "X1", "X2", "X3", "S1"];
const planted = process.env.VMD_FUZZ_PLANTED === "all" ? Object.keys(PLANTED) : QUICK;

interface Figures {
  runs: number;
  edges: number;
}

function fuzz(...args: string[]): { status: number; output: string; errors: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, "fuzz/index.ts", ...args], {
    cwd: root,
    env: { ...process.env, VMD_PLANT: undefined },
  });
  return { status: exitCode, output: stdout.toString(), errors: stderr.toString() };
}

describe.each(TARGETS)("%s", (target) => {
  const files = inputFiles(`${CORPUS}/${target}`);
  const regressions = files.length === 0 ? () => {} : test;
  regressions(`${files.length} inputs that once found a bug`, () => {
    const { status, output } = fuzz(target, "--replay", ...files);
    expect([status, output.split("\n").filter((line) => !line.endsWith(": done"))]).toEqual([
      0,
      [""],
    ]);
  });

  test(`${SECONDS} s of its campaign`, () => {
    const time = ["--time", `${SECONDS}s`, "--workers", "1", "--seed", "1", "--json"];
    const { status, output, errors } = fuzz(target, ...time);
    expect([status, errors]).toEqual([0, ""]);
    const { runs, edges } = JSON.parse(output.trim().split("\n").at(-1) ?? "") as Figures;
    expect(runs).toBeGreaterThan(10);
    expect(edges).toBeGreaterThan(20);
  });
});

describe("planted bugs", () => {
  test.each(planted)("%s is found", (name) => {
    const { target, about } = PLANTED[name];
    const { output } = fuzz(target, "--plant", name, "--time", `${PLANTED_SECONDS}s`, "--json");
    const { seconds, runs, found } = JSON.parse(output) as PlantedResult;
    console.log(`${name}: ${seconds.toFixed(1)} s, ${runs} runs, ${target}: ${about}`);
    expect(found).toBeDefined();
  });
});

describe("bun fuzz", () => {
  test("lists its targets", () => {
    const { status, output } = fuzz();
    expect(status).toBe(0);
    const names = output
      .trim()
      .split("\n")
      .map((line) => line.split(" ")[0]);
    expect(names).toEqual(TARGETS);
  });

  test("says in a sentence what can't be", () => {
    const unknown = fuzz("nonsense");
    expect([unknown.status, unknown.errors]).toEqual([
      1,
      'fuzz: there is no target "nonsense"; bun fuzz lists them.\n',
    ]);
    const missing = fuzz("dhcp", "--replay", "/nowhere");
    expect([missing.status, missing.errors]).toEqual([1, "fuzz: /nowhere: no such file.\n"]);
    expect(fuzz("dhcp", "--time", "soon").status).toBe(1);
    expect(fuzz("dhcp", "--plant", "V99").status).toBe(1);
  });
});
