/** What a worker can't do once it is confined, tried from inside; and what it has to be able to do. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../src/vmm/root.ts";
import { readBundles } from "./bundle.ts";
import { unconfined } from "./confine.ts";
import { CampaignFolder } from "./folder.ts";
import { fuzz } from "./run.ts";

let place = "";
beforeAll(() => (place = mkdtempSync(join(tmpdir(), "fuzz-confined-"))));
afterAll(() => rmSync(place, { recursive: true, force: true }));

/** An executor whose first run tries what a hostile guest would, and is a crash that says what came of it. */
const PROBE = `
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { prepareProbe } from ${JSON.stringify(join(root, "src/vmd/sandbox-probe.ts"))};

function attempt(what) {
  try {
    what();
    return "done";
  } catch (error) {
    return error.code;
  }
}

export function open({ secret, late, calls }, opened) {
  const probe = prepareProbe();
  if (!late) opened();
  const tried = () => ({
    ...Object.fromEntries(calls.map((what) => [what, probe(what)])),
    read: attempt(() => readFileSync(secret)),
    write: attempt(() => writeFileSync(secret, "")),
    make: attempt(() => mkdirSync(secret + "-too")),
    program: attempt(() => Bun.spawnSync(["/bin/true"])),
  });
  let text;
  return {
    maxInput: 8,
    mapSize: 1,
    edgesSeen: 1,
    run: () => (text ??= JSON.stringify(tried())) && 2,
    novelty: () => 2,
    edges: () => new Uint32Array(1),
    coverageHash: () => 0,
    crash: () => ({ kind: "probe", text, stack: [] }),
  };
}
`;

const CALLS = ["open", "create", "socket", "fork", "kill", "setuid", "mprotect"];

async function tried(
  name: string,
  { late, confined, calls = CALLS }: { late?: boolean; confined: boolean; calls?: string[] },
) {
  const folder = join(place, name);
  const module = join(place, "probe.ts");
  const secret = join(place, "secret");
  writeFileSync(module, PROBE);
  writeFileSync(secret, "secret");
  const { failure } = await fuzz({
    ...{ folder, target: "probe", opening: { module, argument: { secret, late, calls } } },
    ...{ seed: 1, workers: 1, runs: 10, output: { write: () => {} } },
    confined,
  });
  expect(failure).toBeUndefined();
  const { crashes, queue } = new CampaignFolder(folder);
  const [{ report }] = readBundles(crashes);
  return { report: JSON.parse(report.text) as Record<string, string>, queue, secret };
}

const REFUSED = {
  ...{ open: "EACCES", create: "EACCES", socket: "EPERM", fork: "EPERM", kill: "EPERM" },
  ...{ setuid: "EPERM", mprotect: "EPERM", read: "EACCES", write: "EACCES", make: "EACCES" },
};

const landlock = unconfined() === undefined;
if (!landlock) console.log(`workers' files skipped: ${unconfined()}`);

test.skipIf(!landlock)("a worker has its campaign's folder, and nothing else", async () => {
  const { report, secret } = await tried("confined", { confined: true });
  expect(report).toMatchObject(REFUSED);
  expect(report.program).not.toBe("done");
  expect(readFileSync(secret, "utf8")).toBe("secret");
});

test.skipIf(!landlock)("also of an executor that doesn't say that it is open", async () => {
  const { report } = await tried("late", { confined: true, late: true });
  expect(report).toMatchObject(REFUSED);
});

test("without that it could, so the attempts are some", async () => {
  const { report, secret } = await tried("free", { confined: false, calls: ["open", "socket"] });
  const { open, socket, read, write, make } = report;
  expect({ open, socket, read, write, make }).toEqual({
    ...{ open: "done", socket: "done", read: "done", write: "done", make: "done" },
  });
  expect(readFileSync(secret, "utf8")).toBe("");
  expect(readdirSync(place)).toContain("secret-too");
});
