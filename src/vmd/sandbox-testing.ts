/** For tests of confined processes: how they look from inside, and from outside. */
import { expect } from "bun:test";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { ownConfinement } from "./confinement.ts";
import type { Attempt } from "./sandbox-probe.ts";

/** How each attempt ends in a process in which a guest runs: an errno, or the signal that kills it. */
export const REFUSED: Readonly<Record<Attempt, string>> = {
  open: "EACCES",
  create: "EACCES",
  socket: "EPERM",
  connect: "EPERM",
  fork: "EPERM",
  execve: "SIGSYS",
  ptrace: "SIGSYS",
  kill: "EPERM",
  mount: "SIGSYS",
  setuid: "EPERM",
  mprotect: "EPERM",
  chroot: "SIGSYS",
  unshare: "SIGSYS",
  io_uring: "SIGSYS",
};

/** Every thread has a filter and no capability; under root it is nobody, in namespaces of its own. */
export function expectConfined(pid: number): void {
  const asRoot = process.geteuid!() === 0;
  const threads = readdirSync(`/proc/${pid}/task`);
  expect(threads.length).toBeGreaterThan(1);
  for (const thread of threads) {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8");
    expect(status).toMatch(/^Seccomp:\t2$/m);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    for (const set of ["Inh", "Prm", "Eff", "Amb"]) {
      expect(status).toMatch(new RegExp(`^Cap${set}:\t0+$`, "m"));
    }
    if (!asRoot) continue;
    expect(status).toMatch(/^CapBnd:\t0+$/m);
    const { uid } = ownConfinement();
    expect(status).toMatch(new RegExp(`^Uid:\t${uid}\t${uid}\t${uid}\t${uid}$`, "m"));
    expect(status).toMatch(/^Groups:\s*$/m);
  }
  // Another user's can't be looked at.
  if (!asRoot) return;
  for (const kind of ["net", "ipc", "uts", "mnt", "cgroup"]) {
    const own = readlinkSync(`/proc/self/ns/${kind}`);
    expect(readlinkSync(`/proc/${pid}/ns/${kind}`)).not.toBe(own);
  }
}
