import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readBundles } from "./bundle.ts";
import { inputName } from "./crash.ts";
import type { Figures } from "./figures.ts";
import { CampaignFolder } from "./folder.ts";
import type { Job } from "./job.ts";
import { fuzz, type RunOptions } from "./run.ts";
import type { TlvOptions } from "./testing.ts";
import { Workers } from "./workers.ts";

const made: string[] = [];
const TESTING = join(import.meta.dir, "testing.ts");

function place(): string {
  const path = mkdtempSync(join(tmpdir(), "fuzz-run-"));
  made.push(path);
  return path;
}

afterEach(() => {
  for (const path of made.splice(0)) rmSync(path, { recursive: true });
});

function session(folder: string, options: Partial<RunOptions> & { tlv?: TlvOptions } = {}) {
  const { tlv = {}, ...rest } = options;
  return fuzz({
    ...{ folder, target: "tlv", opening: { module: TESTING, argument: tlv } },
    ...{ seed: 1, workers: 1, output: { write: () => {} } },
    ...rest,
  });
}

/** Every file of the queue is whole, and is there by its name. */
function checkQueue(path: string): number {
  const { queue } = new CampaignFolder(path);
  const names = readdirSync(queue).filter((name) => !name.startsWith("."));
  for (const name of names) expect(inputName(readFileSync(join(queue, name)))).toBe(name);
  return names.length;
}

async function until(what: () => boolean, seconds = 40): Promise<void> {
  for (let i = 0; i < seconds * 20; i++) {
    if (what()) return;
    await Bun.sleep(50);
  }
  throw new Error(`it didn't come about in ${seconds} s`);
}

describe("a campaign in one process", () => {
  test("is the same with the same seed, whatever the clock says", async () => {
    const places = [place(), place()];
    const outcomes = [];
    for (const path of places) outcomes.push(await session(path, { runs: 40_000 }));
    const [one, other] = outcomes.map(({ figures }) => ({
      ...{ runs: figures.runs, edges: figures.edges, corpus: figures.corpus },
    }));
    expect(one).toEqual(other);
    const names = places.map((path) => new CampaignFolder(path).names().sort());
    expect(names[0]).toEqual(names[1]);
    expect(one.runs).toBeGreaterThanOrEqual(40_000);
  });

  test("goes on with other inputs where it was stopped", async () => {
    const path = place();
    const first = await session(path, { runs: 5000, seed: 7 });
    const second = await session(path, { runs: 20_000, seed: undefined });
    expect(second.figures.seed).toBe(7);
    expect(second.figures.edges).toBeGreaterThanOrEqual(first.figures.edges);
    expect(second.figures.totalRuns).toBe(first.figures.runs + second.figures.runs);
    const state = new CampaignFolder(path).readState()!;
    expect(state).toMatchObject({ target: "tlv", seed: 7, sessions: 2 });
    expect(state.runs).toBe(second.figures.totalRuns);
    expect(Object.keys(state.entries).sort()).toEqual(new CampaignFolder(path).names().sort());
    expect(checkQueue(path)).toBeGreaterThan(10);
  });

  test("has the executor's trace in its bundles", async () => {
    const path = place();
    await session(path, { runs: 30_000, tlv: { traced: true } });
    const [bundle] = readBundles(new CampaignFolder(path).crashes);
    const trace = readFileSync(join(bundle.folder, "trace"));
    expect(new Uint8Array(trace)).toEqual(new Uint8Array(bundle.input).reverse());
  });

  test("minimises what a killed session couldn't any more", async () => {
    const path = place();
    await session(path, { runs: 60_000 });
    const { crashes } = new CampaignFolder(path);
    const [bundle] = readBundles(crashes);
    rmSync(join(bundle.folder, "minimised"));
    await session(path, { runs: 10 });
    expect(readBundles(crashes)[0].minimised).toEqual(bundle.minimised!);
  });

  test("ends at its time, and prints figures as JSON", async () => {
    let text = "";
    const output = { write: (more: string) => (text += more) };
    const before = performance.now();
    const { figures } = await session(place(), { time: 1.3, json: true, output });
    expect(performance.now() - before).toBeLessThan(5000);
    const lines = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Figures);
    expect(lines.length).toBeGreaterThanOrEqual(2);
    expect(lines.at(-1)).toEqual(JSON.parse(JSON.stringify(figures)));
    expect(figures.stability).toBe(1);
    expect(figures.runsPerSecond).toBeGreaterThan(0);
  });

  test("stops with the reason for which the target can't go on", async () => {
    const { failure } = await session(place(), { tlv: { failsAfter: 3000 } });
    expect(failure).toBe("the parser's machine is gone.");
  });

  test("begins with seeds and a dictionary", async () => {
    const seeds = place();
    writeFileSync(join(seeds, "one"), Uint8Array.of(3, 1, 0xff));
    const dictionary = join(place(), "tlv.dict");
    writeFileSync(dictionary, 'a="\\x01\\x02"\n');
    const path = place();
    const { figures } = await session(path, { seeds, dictionary, runs: 100 });
    expect(new CampaignFolder(path).names()).toContain(inputName(Uint8Array.of(3, 1, 0xff)));
    expect(figures.tokens).toBeGreaterThan(0);
    const wrong = await session(place(), { dictionary: "/nonexistent", runs: 1 });
    expect(wrong.failure).toMatch(/^can't read the dictionary \/nonexistent/);
  });

  test("says what is wrong with where it is to work", async () => {
    const path = place();
    await session(path, { runs: 10, digest: "a" });
    await expect(session(path, { target: "other" })).rejects.toThrow(
      `the corpus ${path} is tlv's, not other's.`,
    );
    await expect(session(path, { digest: "b" })).rejects.toThrow("is of another state of tlv.");
    const opening = { module: TESTING, name: "nothing" };
    const { failure } = await session(place(), { opening });
    expect(failure).toBe(`${TESTING} exports no function nothing.`);
  });

  test("keeps other sessions out of its folder", async () => {
    const path = place();
    const stop = new AbortController();
    const first = session(path, { signal: stop.signal });
    await expect(session(path)).rejects.toThrow(
      `the corpus ${path} is in use by process ${process.pid}.`,
    );
    stop.abort();
    await first;
    // A process that is gone keeps nobody out, nor does another one of its id.
    for (const stale of ["4194305 17\n", `${process.pid} 17\n`, ""]) {
      writeFileSync(join(path, ".lock"), stale);
      await session(path, { runs: 10 });
    }
    expect(readdirSync(path).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("ends by a signal with all on disk", async () => {
    const path = place();
    const script = `
      const { fuzz } = await import(${JSON.stringify(join(import.meta.dir, "run.ts"))});
      const { failure } = await fuzz({ folder: ${JSON.stringify(path)}, target: "tlv", workers: 1,
        opening: { module: ${JSON.stringify(TESTING)} }, seed: 1, json: true });
      process.exit(failure === undefined ? 0 : 1);`;
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
      const lines = child.stdout.getReader();
      await lines.read();
      child.kill(signal);
      expect(await child.exited).toBe(0);
      const state = new CampaignFolder(path).readState()!;
      expect(Object.keys(state.entries).length).toBe(checkQueue(path));
      expect(state.runs).toBeGreaterThan(1000);
      lines.releaseLock();
    }
    expect(new CampaignFolder(path).readState()!.sessions).toBe(2);
  }, 30_000);
});

describe("several workers", () => {
  test("share what they find, and do the runs together", async () => {
    const path = place();
    const { figures, failure } = await session(path, { workers: 2, runs: 200_000 });
    expect(failure).toBeUndefined();
    expect(figures.runs).toBeGreaterThanOrEqual(200_000);
    expect(figures.replaced).toBe(0);
    expect(figures.crashes).toBe(new CampaignFolder(path).keys().crashes.length);
    const count = checkQueue(path);
    expect(Object.keys(new CampaignFolder(path).readState()!.entries).length).toBe(count);
  }, 60_000);

  test("end with the target's reason", async () => {
    const { failure } = await session(place(), { workers: 2, tlv: { failsAfter: 3000 } });
    expect(failure).toBe("the parser's machine is gone.");
  }, 30_000);

  test("that die are replaced, and nothing is lost", async () => {
    const path = place();
    const folder = new CampaignFolder(path);
    const job: Job = {
      ...{ folder: path, opening: { module: TESTING }, origin: { target: "tlv" } },
      ...{ seed: 1, shared: true },
    };
    const kept = new Set<string>();
    const workers = new Workers(job, 2, { kept: ({ name }) => void kept.add(name) });
    for (let round = 1; round <= 3; round++) {
      await until(() => workers.pids.length === 2 && workers.counts().runs > 0 && kept.size > 10);
      await Bun.sleep(300);
      const before = folder.names();
      process.kill(workers.pids[round % 2], round === 2 ? "SIGTERM" : "SIGKILL");
      await until(() => workers.replaced === round && workers.pids.length === 2);
      const after = new Set(folder.names());
      for (const name of before) expect(after.has(name)).toBe(true);
    }
    await Bun.sleep(1000);
    workers.stop();
    expect(await workers.done).toBeUndefined();
    const names = new Set(folder.names());
    for (const name of kept) expect(names.has(name)).toBe(true);
    expect(checkQueue(path)).toBe(names.size);
    // Who is killed from outside is no find.
    expect(folder.keys().crashes.filter((key) => key.startsWith("worker"))).toEqual([]);
  }, 60_000);

  test("end when their parent is killed", async () => {
    const path = place();
    const script = `
      const { fuzz } = await import(${JSON.stringify(join(import.meta.dir, "run.ts"))});
      await fuzz({ folder: ${JSON.stringify(path)}, target: "tlv", workers: 2, json: true,
        opening: { module: ${JSON.stringify(TESTING)} } });`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "ignore" });
    const file = `/proc/${child.pid}/task/${child.pid}/children`;
    const pids = () => readFileSync(file, "utf8").trim().split(" ").filter(Boolean);
    await until(() => pids().length === 2 && new CampaignFolder(path).names().length > 10);
    const workers = pids();
    child.kill("SIGKILL");
    await child.exited;
    await until(() => workers.every((pid) => !existsSync(`/proc/${pid}`)));
    expect(checkQueue(path)).toBeGreaterThan(10);
  }, 30_000);

  test.each([
    [
      "dies",
      "crashes",
      "worker's death",
      /^the worker ended with (signal SIG[A-Z]+|status \d+)\.$/,
    ],
    ["waits", "hangs", "no end", /^the run didn't end in 0\.8 s\.$/],
  ] as const)(
    "whose target %s in a run leave its input",
    async (fatal, where, kind, text) => {
      const path = place();
      const folder = new CampaignFolder(path);
      folder.put(inputName(Uint8Array.of(1, 0)), Uint8Array.of(1, 0));
      const job: Job = {
        ...{ folder: path, opening: { module: TESTING, argument: { fatal } } },
        ...{ origin: { target: "tlv" }, seed: 1, shared: true },
      };
      const workers = new Workers(job, 2, { runPatience: 800 });
      await until(() => folder.keys()[where].length > 0 && workers.replaced > 0);
      workers.stop();
      await workers.done;
      const [bundle] = readBundles(folder[where]);
      expect(bundle.report.kind).toBe(kind);
      expect(bundle.report.text).toMatch(text);
      // It has a record of the type that does it.
      expect([...bundle.input]).toContain(6);
      expect(readdirSync(path).filter((name) => name.startsWith("."))).toEqual([]);
    },
    60_000,
  );

  test("that can't even begin aren't replaced for ever", async () => {
    const job: Job = {
      ...{ folder: place(), opening: { module: TESTING }, origin: { target: "tlv" } },
      ...{ seed: 1, shared: true },
    };
    const workers = new Workers(job, 1, { command: [process.execPath, "-e", "process.exit(3)"] });
    expect(await workers.done).toBe("workers end at once, with status 3.");
  }, 30_000);
});
