/**
 * What goes wrong on the way: the line is cut anywhere, processes are killed. The VM then runs on one
 * side, or is as it was on the other; only between COMMIT and RUNNING the source can't know, and
 * stays paused.
 *
 * VMD_MIGRATION_CUTS says how often the line is cut; the default is for every day.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { Client } from "../../vctl/client.ts";
import { TestDaemon } from "../daemon/testing.ts";
import { Line } from "./lines.ts";
import { trip, type Trip, type TripOptions } from "./testing.ts";

const CUTS = Number(process.env.VMD_MIGRATION_CUTS ?? 24);
setDefaultTimeout(60_000 + CUTS * 6_000);

/** Nobody knows where it runs. */
const UNKNOWN = 3;
/** inc dword [0x7000]; loop for a while; again: it writes a page for ever, and never halts. */
const COUNTER = "66 ff 06 00 70 66 b9 00 10 00 00 66 49 75 fc eb f0";

let a: TestDaemon;
let b: TestDaemon;
let firmware = "";
beforeAll(async () => {
  [a, b] = await Promise.all([TestDaemon.start(), TestDaemon.start()]);
  firmware = a.firmware("counter", COUNTER);
});
afterAll(async () => {
  await Promise.all([a[Symbol.asyncDispose](), b[Symbol.asyncDispose]()]);
});

function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

async function start(daemon: TestDaemon, name: string, ...args: string[]): Promise<void> {
  const words = ["start", "--engine", "unicorn", "-m", "4M", "-b", firmware, ...args, name];
  expect((await daemon.vctl(words)).err).toContain("started vm");
}

async function states(name: string): Promise<{ here: string; there: string }> {
  const [here, there] = await Promise.all([a.status(), b.status()]);
  const of = (rows: { name: string; state: string }[]) =>
    rows.find((row) => row.name === name)?.state ?? "none";
  return { here: of(here), there: of(there) };
}

/** What the guest's registers are, at two moments. */
async function runs(daemon: TestDaemon, name: string): Promise<boolean> {
  process.env.VMD_SOCKET = daemon.socket;
  using client = Client.connect();
  const look = () => client.call({ request: "registers", vm: name }).text as string;
  const first = look();
  for (let i = 0; i < 100; i++) {
    if (look() !== first) return true;
    await Bun.sleep(10);
  }
  return false;
}

async function stop(name: string): Promise<void> {
  await Promise.all([a.vctl(["stop", "-fw", name]), b.vctl(["stop", "-fw", name])]);
}

/** On one side only, and the command says on which. */
async function check(name: string, result: Trip): Promise<"there" | "here" | "unknown"> {
  const { code, err } = result.send;
  const told = () => JSON.stringify(result);
  // The receiver's process takes a moment to go.
  let now = await states(name);
  for (let i = 0; i < 100 && now.there === "starting"; i++) {
    await Bun.sleep(50);
    now = await states(name);
  }
  if (code === 0) {
    expect([now, told()]).toEqual([{ here: "none", there: "running" }, told()]);
    return "there";
  }
  if (code === UNKNOWN) {
    expect([now.here, told()]).toEqual(["paused", told()]);
    expect(["none", "running"]).toContain(now.there);
    expect(err).toContain("it may run on the other side");
    return "unknown";
  }
  expect([now, told()]).toEqual([{ here: "running", there: "none" }, told()]);
  return "here";
}

test(`the line is cut ${CUTS} times`, async () => {
  const next = random(20261128);
  await start(a, "whole");
  const whole = await trip({ from: a, to: b, name: "whole" });
  expect(await check("whole", whole)).toBe("there");
  await stop("whole");
  const total = whole.forth;
  const lines = [Line.HELLO, Line.READY, Line.RUNNING].map((line) => line.length + 1);
  expect(whole.back).toBe(lines.reduce((sum, length) => sum + length, 0));
  const counts = { there: 0, here: 0, unknown: 0 };
  await start(a, "vm");
  for (let round = 0; round < CUTS; round++) {
    const args = next(2) === 0 ? ["--live"] : [];
    const kind = next(4);
    const cut: TripOptions["cut"] =
      kind === 0
        ? { back: 1 + next(whole.back) }
        : { forth: kind === 1 ? total - next(4200) : 1 + next(total) };
    const result = await trip({ from: a, to: b, name: "vm", args, cut });
    const where = await check("vm", result);
    counts[where]++;
    if (where === "here") {
      expect(await runs(a, "vm")).toBe(true);
      continue;
    }
    const { there } = await states("vm");
    if (where === "unknown" && there === "none") {
      // Whoever decides that it goes on here has it go on.
      expect((await a.vctl(["unpause", "vm"])).code).toBe(0);
      expect((await states("vm")).here).toBe("running");
      expect(await runs(a, "vm")).toBe(true);
      continue;
    }
    await stop("vm");
    await start(a, "vm");
  }
  await stop("vm");
  console.log(`${CUTS} cuts: ${JSON.stringify(counts)}`);
  expect(counts.here).toBeGreaterThan(0);
});

for (const victim of ["send", "receive"] as const) {
  test(`vctl ${victim} is killed`, async () => {
    const next = random(victim.length);
    for (let round = 0; round < Math.ceil(CUTS / 4); round++) {
      await start(a, "vm");
      const result = await trip({
        from: a,
        to: b,
        name: "vm",
        started: (send, receive) => {
          setTimeout(() => (victim === "send" ? send : receive).kill("SIGKILL"), next(400));
        },
      });
      const { here, there } = await settled("vm");
      const said = JSON.stringify({ here, there, result });
      // Nobody may be there to say it, but one of them runs, or the source waits for a decision.
      const one = [
        here === "running" && there === "none",
        here === "none" && there === "running",
        here === "paused",
      ].filter(Boolean).length;
      expect([one, said]).toEqual([1, said]);
      await stop("vm");
    }
  });
}

for (const victim of ["the source's", "the receiver's"] as const) {
  test(`${victim} VM process is killed`, async () => {
    const next = random(victim.length);
    for (let round = 0; round < Math.ceil(CUTS / 4); round++) {
      await start(a, "vm");
      const daemon = victim === "the source's" ? a : b;
      const kill = async () => {
        await Bun.sleep(next(300));
        for (let i = 0; i < 40; i++) {
          const pid = (await daemon.status()).find((row) => row.name === "vm")?.pid;
          if (typeof pid === "number") {
            try {
              process.kill(pid, "SIGKILL");
            } catch {
              // It has ended by itself.
            }
            return;
          }
        }
      };
      const [result] = await Promise.all([trip({ from: a, to: b, name: "vm" }), kill()]);
      const { here, there } = await settled("vm");
      const said = JSON.stringify({ here, there, result });
      expect([here === "running" && there === "running", said]).toEqual([false, said]);
      if (victim === "the receiver's" && there === "none" && result.send.code !== 0) {
        expect([["running", "paused"].includes(here), said]).toEqual([true, said]);
      }
      await stop("vm");
    }
  });
}

test("the receiver's vmd is killed", async () => {
  const next = random(7);
  for (let round = 0; round < Math.ceil(CUTS / 8); round++) {
    await start(a, "vm");
    const victim = await TestDaemon.start();
    const kill = Bun.sleep(next(400)).then(() => victim.kill("SIGKILL"));
    const [{ send }] = await Promise.all([trip({ from: a, to: victim, name: "vm" }), kill]);
    const { here } = await states("vm");
    const expected = { 0: "none", 1: "running", [UNKNOWN]: "paused" }[send.code ?? -1];
    expect([here, send.err]).toEqual([expected ?? "", send.err]);
    await victim[Symbol.asyncDispose]();
    await stop("vm");
  }
});

async function settled(name: string): Promise<{ here: string; there: string }> {
  let now = await states(name);
  for (let i = 0; i < 200; i++) {
    if (now.there !== "starting" && !(now.here === "running" && now.there === "running")) break;
    await Bun.sleep(50);
    now = await states(name);
  }
  return now;
}
