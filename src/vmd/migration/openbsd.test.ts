/**
 * An OpenBSD guest goes on over snapshots and live migrations, and in copies of it: what it counts goes on
 * without a gap, what it keeps in memory stays right, and so does its clock.
 *
 * VMD_OPENBSD_ROUNDS and VMD_OPENBSD_FORKS say how often; the defaults are for every day.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { openbsdI386 } from "../../../golden/guests/index.ts";
import { TestDaemon, until } from "../daemon/testing.ts";
import { followVm, trip } from "./testing.ts";

const ROUNDS = Number(process.env.VMD_OPENBSD_ROUNDS ?? 4);
const FORKS = Number(process.env.VMD_OPENBSD_FORKS ?? 3);
setDefaultTimeout(120_000 + (ROUNDS + FORKS) * 30_000);
const missing = openbsdI386.missing();
if (missing !== undefined) console.log(`OpenBSD on its way skipped: ${missing}`);
const engine = process.env.VMD_LAB === undefined ? "unicorn" : "kvm";

/** The shell of the installation's ramdisk has no more than this. */
const SCRIPT = [
  'cat /install.sub >/tmp/a; a="$(cat /tmp/a)"; echo "length ${#a}"; i=0',
  "while :; do i=$((i+1)); dd if=/tmp/a of=/tmp/b bs=4k 2>/dev/null",
  '[ "$(cat /tmp/b)" = "$a" ] || echo WRONG; echo "count $i at $(date +%s)"; done',
];

let daemons: TestDaemon[] = [];
beforeAll(async () => {
  daemons = await Promise.all([TestDaemon.start(), TestDaemon.start()]);
});
afterAll(async () => {
  await Promise.all(daemons.map((daemon) => daemon[Symbol.asyncDispose]()));
});

const counts = (text: string) =>
  [...text.matchAll(/^count (\d+) at (\d+)\r$/gm)].map(([, n, at]) => [Number(n), Number(at)]);

type Seen = Awaited<ReturnType<typeof followVm>>;

/** Starts it, and has it count. */
async function start(vmd: TestDaemon, name: string): Promise<Seen> {
  const kernel = await openbsdI386.kernel();
  const words = ["start", "--engine", engine, "-m", openbsdI386.memory, "-b", kernel, name];
  expect((await vmd.vctl(words)).err).toContain("started vm");
  const seen = await followVm(vmd, name);
  const comes = (what: string, from: number) =>
    until(
      () => seen.text.includes(what, from),
      120_000,
      () => `no ${what}: ${seen.text.slice(-500)}`,
    );
  await comes(openbsdI386.says, 0);
  seen.stream.send("S\n");
  await comes("# ", seen.text.length);
  for (const line of SCRIPT) seen.stream.send(`${line}\n`);
  await goesOn(seen);
  expect(Number(/^length (\d+)\r$/m.exec(seen.text)?.[1])).toBeGreaterThan(10_000);
  return seen;
}

/**
 * Waits for some counts. @param before what it said elsewhere
 * @returns how far its clock is ahead of the host's, s: of those counts, the one that is read the soonest
 */
async function goesOn(seen: Seen, before = "", more = 3): Promise<number> {
  const from = counts(before + seen.text).length;
  let ahead = -Infinity;
  let known = from;
  await until(
    () => {
      const come = counts(before + seen.text);
      if (come.length > known) ahead = Math.max(ahead, come.at(-1)![1] - Date.now() / 1000);
      known = come.length;
      return known >= from + more;
    },
    60_000,
    () => `it stands still: ${seen.text.slice(-500)}`,
  );
  return ahead;
}

function expectWhole(text: string): void {
  expect(text).not.toMatch(/^WRONG/m);
  const seen = counts(text);
  expect(seen.map(([n]) => n)).toEqual(seen.map((_, i) => seen[0][0] + i));
  const times = seen.map(([, at]) => at);
  expect(times).toEqual(times.toSorted((a, b) => a - b));
}

describe.skipIf(missing !== undefined)(`OpenBSD on ${engine}`, () => {
  test(`${ROUNDS} rounds`, async () => {
    let [here, there] = daemons;
    let seen = await start(here, "puffy");
    let all = "";
    /**
     * What its clock fell behind the host's on its way, and how long it may have stood still: s. Where
     * it runs, it falls behind too when it gets too little of a busy host's time: its clock is the tick.
     */
    let behind = 0;
    let stood = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const before = await goesOn(seen, all);
      const begin = performance.now();
      if (round % 2 === 0) {
        const { send, receive } = await trip({
          from: here,
          to: there,
          name: "puffy",
          args: ["--live"],
        });
        expect([send.code, receive.code, send.err]).toEqual([
          0,
          0,
          expect.stringContaining("sent vm"),
        ]);
        [here, there] = [there, here];
      } else {
        const path = join(here.folder, `round-${round}`);
        const taken = await here.vctl(["snapshot", "--stop", "puffy", path]);
        expect(taken).toMatchObject({ code: 0, err: expect.stringContaining("wrote") });
        await seen.ended;
        const restored = await here.vctl(["restore", path]);
        expect(restored).toMatchObject({ code: 0 });
        rmSync(path);
      }
      await seen.ended;
      all += seen.text;
      seen = await followVm(here, "puffy");
      behind += before - (await goesOn(seen, all));
      stood += (performance.now() - begin) / 1000;
    }
    all += seen.text;
    expectWhole(all);
    expect(counts(all)[0][0]).toBe(1);
    // It has no driver that looks at the host's clock: what it stood still for is missing, and no more.
    console.log(
      `${ROUNDS} rounds, ${counts(all).length} counts; ${behind.toFixed(1)} s behind, of ${stood.toFixed(1)} s`,
    );
    // It tells whole seconds, so each look is off by up to one.
    const blur = 2 + 2 * Math.sqrt(ROUNDS);
    expect(behind).toBeGreaterThan(-blur);
    expect(behind).toBeLessThan(blur + stood);
    await here.vctl(["stop", "-fw", "puffy"]);
  });

  test(`${FORKS} copies`, async () => {
    const [vmd] = daemons;
    const seen = await start(vmd, "origin");
    let behind = 0;
    for (let copy = 1; copy <= FORKS; copy++) {
      const before = await goesOn(seen, "", 1);
      const [last] = counts(seen.text).at(-1)!;
      const begin = performance.now();
      expect(await vmd.vctl(["fork", "origin", `copy${copy}`])).toMatchObject({ code: 0 });
      const other = await followVm(vmd, `copy${copy}`);
      const ahead = await goesOn(other);
      // Whole seconds, and what it waited for its first instruction.
      const stood = (performance.now() - begin) / 1000;
      expect(ahead - before).toBeWithin(-2 - stood, 2);
      behind = Math.max(behind, before - ahead);
      expectWhole(other.text);
      // What it was about to say when it was copied may be cut.
      expect(counts(other.text)[0][0]).toBeGreaterThan(last);
      expect(await vmd.vctl(["stop", "-fw", `copy${copy}`])).toMatchObject({ code: 0 });
    }
    await goesOn(seen);
    expectWhole(seen.text);
    expect(counts(seen.text)[0][0]).toBe(1);
    console.log(`${FORKS} copies, at most ${behind.toFixed(1)} s behind`);
    await vmd.vctl(["stop", "-fw", "origin"]);
  });
});
