/**
 * Processes of vmd are killed at random moments: nothing is left behind, and who is left works on.
 * VMD_KILL_ROUNDS says how often; the default is for every day.
 */
import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { TestDaemon, until } from "./testing.ts";

const ROUNDS = Number(process.env.VMD_KILL_ROUNDS ?? 12);
setDefaultTimeout(20_000 + ROUNDS * 5_000);

/** A generator of numbers from 0 to 1 that repeats: Marsaglia's xorshift32. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** All descendants of a process, and the process. */
function family(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const entry of readdirSync("/proc")) {
    if (!/^[0-9]+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      if (state !== "Z") parents.set(Number(entry), Number(parent));
    } catch {
      // It has ended meanwhile.
    }
  }
  const found = [pid];
  for (let i = 0; i < found.length; i++) {
    for (const [child, parent] of parents) if (parent === found[i]) found.push(child);
  }
  return found;
}

function isRunning(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return !stat.slice(stat.lastIndexOf(")") + 2).startsWith("Z");
  } catch {
    return false;
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}

test(`${ROUNDS} rounds of SIGKILL`, async () => {
  const next = random(20261128);
  let vmd = await TestDaemon.start();
  let spin = vmd.firmware("spin", "eb fe");
  const startVm = (name: string) =>
    vmd.vctl(["start", "--engine", "unicorn", "-m", "1M", "-b", spin, name]);
  const counts = { vm: 0, control: 0, parent: 0 };
  for (let round = 0; round < ROUNDS; round++) {
    // Something goes on: a start, a stop, or a VM that runs.
    const phase = Math.floor(next() * 3);
    const name = `vm${round}`;
    let going: Promise<unknown> = Promise.resolve();
    if (phase > 0) await startVm(name);
    if (phase === 0) going = startVm(name);
    if (phase === 1) going = vmd.vctl(["stop", next() < 0.5 ? "-f" : "-fw", name]);
    await Bun.sleep(next() * 150);
    const members = family(vmd.pid);
    const [, ...children] = members;
    const victim = next();
    if (victim < 0.3) {
      counts.parent++;
      vmd.kill("SIGKILL");
      await vmd.exited;
      await going;
      await until(
        () => !members.some(isRunning),
        5000,
        () => {
          return `left behind: ${members.filter(isRunning).join(", ")}\n${vmd.log}`;
        },
      );
      // A dead daemon's socket is no hindrance to the next.
      await vmd[Symbol.asyncDispose]();
      vmd = await TestDaemon.start();
      spin = vmd.firmware("spin", "eb fe");
    } else {
      const isControl = (pid: number) => {
        try {
          return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("control");
        } catch {
          return false;
        }
      };
      const target = children.find((pid) => isControl(pid) === victim < 0.5);
      if (target !== undefined) {
        counts[victim < 0.5 ? "control" : "vm"]++;
        kill(target);
      }
      await going;
      // It works on.
      await until(() => vmd.log.includes("listening"), 1000);
      let answer = await vmd.vctl(["status", "--json"]);
      for (let i = 0; i < 20 && answer.out === ""; i++) {
        await Bun.sleep(100);
        answer = await vmd.vctl(["status", "--json"]);
      }
      expect(answer.out).toStartWith("[");
      await vmd.vctl(["stop", "-faw"]);
      await until(
        () => family(vmd.pid).length <= 2,
        12_000,
        () => {
          return `vmd has ${family(vmd.pid).length} processes\n${vmd.log}`;
        },
      );
      // The daemon, its sockets and its log: no more descriptors than in the beginning.
      expect(readdirSync(`/proc/${vmd.pid}/fd`).length).toBeLessThan(40);
    }
  }
  const { socket } = vmd;
  await vmd[Symbol.asyncDispose]();
  expect(existsSync(socket)).toBe(false);
  console.log(`killed: ${JSON.stringify(counts)}`);
});
