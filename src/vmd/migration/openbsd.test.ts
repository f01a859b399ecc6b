/**
 * An OpenBSD guest goes on over snapshots and live migrations: what it counts goes on without a gap,
 * what it keeps in memory stays right, and so does its clock.
 *
 * VMD_OPENBSD_ROUNDS says how often; the default is for every day.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { openbsdI386 } from "../../../golden/guests/index.ts";
import { TestDaemon, until } from "../daemon/testing.ts";
import { followVm, trip } from "./testing.ts";

const ROUNDS = Number(process.env.VMD_OPENBSD_ROUNDS ?? 4);
setDefaultTimeout(120_000 + ROUNDS * 30_000);
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

describe.skipIf(missing !== undefined)(`OpenBSD on ${engine}`, () => {
  test(`${ROUNDS} rounds`, async () => {
    const kernel = await openbsdI386.kernel();
    let [here, there] = daemons;
    const words = ["start", "--engine", engine, "-m", openbsdI386.memory, "-b", kernel, "puffy"];
    expect((await here.vctl(words)).err).toContain("started vm");
    let seen = await followVm(here, "puffy");
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
    let all = "";
    /** @returns how far its clock is ahead of the host's, s: of the counts that come, the one read the soonest */
    const goesOn = async (more = 3) => {
      const from = counts(all + seen.text).length;
      let ahead = -Infinity;
      let known = from;
      await until(
        () => {
          const come = counts(all + seen.text);
          if (come.length > known) ahead = Math.max(ahead, come.at(-1)![1] - Date.now() / 1000);
          known = come.length;
          return known >= from + more;
        },
        60_000,
        () => `it stands still: ${seen.text.slice(-500)}`,
      );
      return ahead;
    };
    await goesOn();
    /**
     * What its clock fell behind the host's on its way, and how long it may have stood still: s. Where
     * it runs, it falls behind too when it gets too little of a busy host's time: its clock is the tick.
     */
    let behind = 0;
    let stood = 0;
    expect(Number(/^length (\d+)\r$/m.exec(seen.text)?.[1])).toBeGreaterThan(10_000);
    for (let round = 0; round < ROUNDS; round++) {
      const before = await goesOn();
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
      behind += before - (await goesOn());
      stood += (performance.now() - begin) / 1000;
    }
    all += seen.text;
    expect(all.slice(all.indexOf("count 1 at"))).not.toContain("WRONG");
    const seenCounts = counts(all);
    expect(seenCounts.map(([n]) => n)).toEqual(seenCounts.map((_, i) => i + 1));
    const times = seenCounts.map(([, at]) => at);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    // It has no driver that looks at the host's clock: what it stood still for is missing, and no more.
    console.log(
      `${ROUNDS} rounds, ${seenCounts.length} counts; ${behind.toFixed(1)} s behind, of ${stood.toFixed(1)} s`,
    );
    // It tells whole seconds, so each look is off by up to one.
    const blur = 2 + 2 * Math.sqrt(ROUNDS);
    expect(behind).toBeGreaterThan(-blur);
    expect(behind).toBeLessThan(blur + stood);
    await here.vctl(["stop", "-fw", "puffy"]);
  });
});
