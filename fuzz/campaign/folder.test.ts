import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Verdict } from "../executor.ts";
import { readBundle, readBundles, replayBundle } from "./bundle.ts";
import { Campaign } from "./campaign.ts";
import { inputName } from "./crash.ts";
import { CampaignFolder } from "./folder.ts";
import { minimiseFolder } from "./minset.ts";
import { tlv, TlvExecutor } from "./testing.ts";

const made: string[] = [];

function place(): string {
  const path = mkdtempSync(join(tmpdir(), "campaign-"));
  made.push(path);
  return path;
}

afterEach(() => {
  for (const path of made.splice(0)) rmSync(path, { recursive: true });
});

const origin = {
  target: "tlv",
  digest: "abc",
  engine: "none",
  opening: { module: join(import.meta.dir, "testing.ts"), argument: { maxInput: 64 } },
};

/** A campaign of 60 000 runs into a folder. */
function campaignIn(path: string, runs = 60_000): Campaign {
  const folder = new CampaignFolder(path);
  const seeds = folder.arrived().map(({ input }) => input);
  const campaign = new Campaign({
    executor: new TlvExecutor(),
    seeds,
    finds: folder.finds(origin),
  });
  campaign.advance(runs);
  return campaign;
}

describe("a campaign's folder", () => {
  test("has each input by its name, and goes on from there", () => {
    const path = place();
    const first = campaignIn(path);
    const folder = new CampaignFolder(path);
    expect(folder.names().sort()).toEqual(first.corpus.entries.map(({ name }) => name).sort());
    for (const { name, input } of folder.arrived()) expect(inputName(input)).toBe(name);
    const second = campaignIn(path, 0);
    expect(second.counts().edges).toBe(first.counts().edges);
    expect(readdirSync(folder.queue).every((name) => /^[0-9a-f]{32}$/.test(name))).toBe(true);
  });

  test("keeps as many edges with fewer inputs", async () => {
    const path = place();
    const before = campaignIn(path);
    const minimised = (executor: TlvExecutor) =>
      minimiseFolder(new CampaignFolder(path), async () => executor);
    const counts = await minimised(new TlvExecutor());
    expect(counts.before).toBe(before.counts().corpus);
    expect(counts.after).toBeLessThan(counts.before / 2);
    expect(new CampaignFolder(path).names().length).toBe(counts.after);
    expect(campaignIn(path, 0).counts().edges).toBe(before.counts().edges);
    const failing = new TlvExecutor({ failsAfter: 2 });
    await expect(minimised(failing)).rejects.toThrow("machine is gone");
    expect(new CampaignFolder(path).names().length).toBe(counts.after);
  });

  test("tells what others put there, once", () => {
    const path = place();
    const [one, other] = [new CampaignFolder(path), new CampaignFolder(path)];
    expect(one.arrived()).toEqual([]);
    const input = Uint8Array.of(1, 2);
    expect(other.put(inputName(input), input)).toBe(true);
    expect(one.put(inputName(Uint8Array.of(3)), Uint8Array.of(3))).toBe(true);
    expect(one.arrived()).toEqual([{ name: inputName(input), input }]);
    expect(one.arrived()).toEqual([]);
    expect(one.put(inputName(input), input)).toBe(false);
  });

  test("takes files that somebody put there by another name", () => {
    const folder = new CampaignFolder(place());
    writeFileSync(join(folder.queue, "mine.bin"), "abc");
    expect(folder.arrived()).toEqual([{ name: "mine.bin", input: Uint8Array.from([97, 98, 99]) }]);
  });

  test("puts aside what isn't what its name says, and leaves out what isn't complete", () => {
    const folder = new CampaignFolder(place());
    const name = inputName(Uint8Array.of(1, 2, 3));
    writeFileSync(join(folder.queue, name), Uint8Array.of(1, 2));
    writeFileSync(join(folder.queue, `.${name}.1.0`), Uint8Array.of(1));
    expect(folder.arrived()).toEqual([]);
    expect(readdirSync(folder.queue).sort()).toEqual([`.${name}.1.0`, `${name}.damaged`]);
    expect(folder.put(name, Uint8Array.of(1, 2, 3))).toBe(true);
  });

  test("knows its state", () => {
    const folder = new CampaignFolder(place());
    expect(folder.readState()).toBeUndefined();
    const state = {
      ...{ format: 1 as const, target: "tlv", seed: 7, sessions: 1, runs: 100, seconds: 2.5 },
      entries: { ab: { depth: 3, parent: "cd" } },
    };
    folder.writeState(state);
    expect(folder.readState()).toEqual(state);
    expect(readdirSync(folder.path).sort()).toEqual(["campaign.json", "crashes", "hangs", "queue"]);
  });

  test.each([
    ["{", /campaign\.json: .+\.$/],
    ['{"format":2}', /campaign\.json: format: .+\.$/],
    ['{"format":1,"target":1}', /campaign\.json: target: .+\.$/],
  ])("says what is wrong with its state: %s", (text, message) => {
    const folder = new CampaignFolder(place());
    writeFileSync(join(folder.path, "campaign.json"), text);
    expect(() => folder.readState()).toThrow(message);
  });

  test("says when it can't be made", () => {
    const path = place();
    writeFileSync(join(path, "file"), "");
    expect(() => new CampaignFolder(join(path, "file", "corpus"))).toThrow(
      /^can't make the corpus .+\.$/,
    );
  });
});

describe("a crash's bundle", () => {
  test("says all of it, and replays", () => {
    const path = place();
    const campaign = campaignIn(path);
    const bundles = readBundles(join(path, "crashes"));
    expect(bundles.length).toBe(campaign.counts().crashes);
    const bundle = bundles.find(({ report }) => report.kind === "page fault")!;
    expect(bundle.report).toMatchObject({
      ending: "crash",
      text: "a read behind the table.",
      stack: ["table+0x8", "records+0x44"],
      ...{ target: "tlv", digest: "abc", engine: "none", seed: 1 },
    });
    expect(Buffer.from(bundle.minimised!).toString("hex")).toBe("0503c10000");
    const replayed = replayBundle(bundle.folder, new TlvExecutor());
    expect(replayed).toMatchObject({ verdict: Verdict.CRASH, same: true });
  });

  test("has a trace, where there is one", () => {
    const folder = new CampaignFolder(place());
    const trace = (input: Uint8Array) => Uint8Array.of(...input, 0xff);
    const report = { kind: "panic", text: "x.", stack: ["a"] };
    const crash = { key: "panic-1", report, input: Uint8Array.of(7), seed: 1, run: 5 };
    folder.finds({ target: "tlv", trace }).crashed!({ ...crash, verdict: Verdict.CRASH });
    expect([...readFileSync(join(folder.crashes, "panic-1", "trace"))]).toEqual([7, 0xff]);
  });

  test("is there once, whoever finds it", () => {
    const path = place();
    const folder = new CampaignFolder(path);
    const { crashed } = folder.finds({ target: "tlv" });
    const report = { kind: "panic", text: "x.", stack: ["a"] };
    const crash = { key: "panic-1", report, input: tlv(), seed: 1, run: 5 };
    expect(crashed!({ ...crash, verdict: Verdict.CRASH })).toBe(true);
    expect(crashed!({ ...crash, verdict: Verdict.CRASH })).toBe(false);
    expect(crashed!({ ...crash, verdict: Verdict.TIMEOUT })).toBe(true);
    expect(folder.keys()).toEqual({ crashes: ["panic-1"], hangs: ["panic-1"] });
    expect(readdirSync(join(folder.crashes, "panic-1")).sort()).toEqual(["input", "report.json"]);
  });

  test("is a test that fails while the bug is there, and passes then", async () => {
    const path = place();
    campaignIn(path);
    const [{ folder }] = readBundles(join(path, "crashes"));
    const run = async () => {
      const child = Bun.spawn([process.execPath, "test", "./crash.test.ts"], {
        ...{ cwd: folder, stdout: "pipe", stderr: "pipe" },
      });
      const text = await child.stderr.text();
      return { code: await child.exited, text };
    };
    const failed = await run();
    expect(failed.text).toContain('"a read behind the table."');
    expect(failed.code).toBe(1);
    // The bug gone: the same, with inputs that do nothing.
    writeFileSync(join(folder, "input"), "");
    writeFileSync(join(folder, "minimised"), "");
    expect(await run()).toMatchObject({ code: 0, text: expect.stringContaining(" 1 pass") });
  }, 30_000);

  test("that is broken is told", () => {
    const path = place();
    expect(() => readBundle(path)).toThrow(/^can't read .+report\.json: .+\.$/);
    writeFileSync(join(path, "report.json"), "[");
    expect(() => readBundle(path)).toThrow("report.json: this is no JSON.");
    writeFileSync(join(path, "report.json"), "{}");
    expect(() => readBundle(path)).toThrow(/report\.json: format: /);
    expect(readBundles(join(path, "none"))).toEqual([]);
    mkdirSync(join(path, "crashes", ".new.1.0"), { recursive: true });
    expect(readBundles(join(path, "crashes"))).toEqual([]);
    expect(readFileSync(join(path, "report.json"), "utf8")).toBe("{}");
  });
});
