/** What the process in which vctl runs a guest can't do, seen from inside and from outside. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm } from "../index.ts";
import { ATTEMPTS, type Attempt } from "../vmd/sandbox-probe.ts";
import { expectConfined, REFUSED } from "../vmd/sandbox-testing.ts";
import { probe } from "../vmm/engine.ts";
import { firmware, VCTL } from "./testing.ts";

setDefaultTimeout(60_000);

let folder = "";
let kernel = "";
let recording = "";
let trace = "";
const REGISTERS = "rax    0000000000000015";

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "guest-process-"));
  recording = join(folder, "recording");
  trace = join(folder, "trace");
  kernel = firmware(folder, "exit.bin", "b015 baf400 ee f4"); // mov al,15; mov dx,f4; out dx,al
  const machine = { kernel, memory: "1M", virtualTime: true, debugExit: true };
  for (const more of [{ record: recording }, { traceExits: trace }]) {
    const vm = await Vm.start({ ...machine, engine: "unicorn", ...more });
    expect((await vm.ended).code).toBe(43);
  }
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function vctl(args: string[], what?: Attempt) {
  const { exitCode, stderr } = Bun.spawnSync([process.execPath, VCTL, ...args], {
    env: { ...process.env, VMD_PROBE: what ?? "" },
    stdin: "ignore",
    timeout: 50_000,
  });
  return { code: exitCode, err: stderr.toString() };
}

const COMMANDS: [string, () => string[]][] = [
  ["replay", () => ["replay", recording]],
  ["exits --replay", () => ["exits", "--replay", trace]],
  ["exits --cross-check", () => ["exits", "--cross-check", "unicorn", trace]],
];
const kvm = probe("kvm");
if (kvm.available) {
  const args = ["start", "-c", "--cross-check", "--debug-exit", "-m", "1M"];
  COMMANDS.push(["start --cross-check", () => [...args, "-b", kernel, "fw"]]);
} else console.log(`start --cross-check skipped: ${kvm.why}`);

describe.each(COMMANDS)("from inside, %s", (_, args) => {
  test("nothing that an attacker would want can be done", () => {
    const came = ATTEMPTS.map((what): [Attempt, string] => {
      const { code, err } = vctl(args(), what);
      const killed = /^vctl: \S+: the process that ran it ended with (\w+)\n/m.exec(err)?.[1];
      expect([what, code]).toEqual([what, killed === undefined ? 0 : 1]);
      return [what, killed ?? new RegExp(`^${what}: (\\w+)$`, "m").exec(err)?.[1] ?? err];
    });
    expect(Object.fromEntries(came)).toEqual(REFUSED);
  });

  test("without the sandbox it could, so the attempts are some", () => {
    for (const what of ["kill", "socket"] as const) {
      const { code, err } = vctl([...args(), "--no-sandbox"], what);
      expect(code).toBe(0);
      expect(err).toMatch(new RegExp(`^${what}: done$`, "m"));
      expect(err).toContain("vctl: no sandbox: the process keeps its user");
    }
  });
});

describe("while a debugger is awaited", () => {
  /** Until vctl says so: its process, and the one of the guest. */
  async function waiting(at: string) {
    const host = Bun.spawn([process.execPath, VCTL, "replay", "--gdb", at, recording], {
      ...{ stdin: "ignore", stdout: "ignore", stderr: "pipe", timeout: 50_000 },
    });
    const said = host.stderr.getReader();
    const decoder = new TextDecoder();
    let text = "";
    while (!text.includes("waits for gdb")) {
      const { value, done } = await said.read();
      if (done) throw new Error(text);
      text += decoder.decode(value);
    }
    said.releaseLock();
    const pid = readdirSync(`/proc/${host.pid}/task`)
      .map((task) => readFileSync(`/proc/${host.pid}/task/${task}/children`, "utf8").trim())
      .filter((ids) => ids !== "");
    expect(pid).toHaveLength(1);
    return { host, pid: Number(pid[0]) };
  }

  async function kill(at: string): Promise<void> {
    const socket = await Bun.connect({ unix: at, socket: { data() {} } });
    socket.write("+$k#6b");
    socket.flush();
  }

  test("every thread is confined, and the process has its file and the socket", async () => {
    const at = join(folder, "confined.sock");
    const { host, pid } = await waiting(at);
    expectConfined(pid);
    // Another user's can't be looked at.
    if (process.geteuid!() === 0) {
      const open = readdirSync(`/proc/${pid}/fd`)
        .filter((fd) => Number(fd) > 2)
        .map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
      expect(open.filter((name) => name.startsWith("/"))).toEqual([recording]);
      expect(open.filter((name) => name.startsWith("socket:"))).toHaveLength(1);
    }
    await kill(at);
    expect(await host.exited).toBe(0);
    expect(existsSync(at)).toBe(false);
  });

  test("who stops vctl stops the guest, and the socket goes", async () => {
    for (const [signal, code] of [
      ["SIGINT", 130],
      ["SIGTERM", 143],
    ] as const) {
      const at = join(folder, `${signal}.sock`);
      const { host, pid } = await waiting(at);
      host.kill(signal);
      expect(await host.exited).toBe(code);
      expect(existsSync(at)).toBe(false);
      expect(existsSync(`/proc/${pid}`)).toBe(false);
    }
  });

  test("a vctl that is killed takes the guest with it", async () => {
    const { host, pid } = await waiting(join(folder, "killed.sock"));
    host.kill("SIGKILL");
    await host.exited;
    for (let tries = 0; existsSync(`/proc/${pid}`) && tries < 200; tries++) await Bun.sleep(10);
    expect(existsSync(`/proc/${pid}`)).toBe(false);
  });
});

test("of what the sandbox refuses, only openat is tried, which the C library does without", () => {
  const { exitCode, stderr } = Bun.spawnSync(
    [process.execPath, VCTL, "replay", "--registers", recording],
    { env: { ...process.env, VMM_SANDBOX_TRACE: "1" }, timeout: 50_000 },
  );
  expect(exitCode).toBe(0);
  expect(stderr.toString()).toContain(REGISTERS);
  const refused = [...stderr.toString().matchAll(/^sandbox: system call (\d+) /gm)];
  for (const [, number] of refused) expect(number).toBe("257");
});
