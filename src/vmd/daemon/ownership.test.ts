/** Who may do what with whose VMs, as root and as ordinary users. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { accessSync, chmodSync, constants, statSync } from "node:fs";
import { dirname } from "node:path";
import { root } from "../../vmm/root.ts";
import { isAlive, TestDaemon, until } from "./testing.ts";

setDefaultTimeout(60_000);

const USER = 12_345;
const OTHER = 12_346;

/** Other users can only run what they can read. */
function missing(): string | undefined {
  if (process.geteuid!() !== 0) return "only root can run things as other users";
  if (Bun.which("setpriv") === null) return "there is no setpriv (package util-linux)";
  for (let folder = root; folder !== "/"; folder = dirname(folder)) {
    if ((statSync(folder).mode & 0o005) !== 0o005) return `${folder} is closed to other users`;
  }
  try {
    accessSync(process.execPath, constants.X_OK);
  } catch {
    return "Bun is closed to other users";
  }
  return undefined;
}

const reason = missing();
if (reason !== undefined) console.log(`tests of ownership skipped: ${reason}`);

describe.skipIf(reason !== undefined)("a user's own daemon", () => {
  let vmd: TestDaemon;
  let spin = "";

  beforeAll(async () => {
    vmd = await TestDaemon.start({ user: USER });
    spin = vmd.firmware("spin", "eb fe");
    chmodSync(spin, 0o644);
  });
  afterAll(() => vmd[Symbol.asyncDispose]());

  test("runs the user's VMs, confined, without root's help", async () => {
    const args = ["start", "--engine", "unicorn", "-m", "1M", "-b", spin, "mine"];
    const { code, err } = await vmd.vctl(args, USER);
    expect(err).toContain("started vm 1 successfully");
    expect(code).toBe(0);
    expect(vmd.log).not.toContain("warning: sandbox");
    const { out } = await vmd.vctl(["status", "--json"], USER);
    const [vm] = JSON.parse(out);
    expect(vm).toMatchObject({ name: "mine", owner: `${USER}`, state: "running" });
    const seen = Bun.spawnSync(["cat", `/proc/${vm.pid}/status`]).stdout.toString();
    expect(seen).toMatch(/^Seccomp:\t2$/m);
    expect(seen).toMatch(new RegExp(`^Uid:\t${USER}\t`, "m"));
    await vmd.vctl(["stop", "-fw", "mine"], USER);
    await until(() => !isAlive(vm.pid), 5000);
  });

  test("lets nobody else in, but root", async () => {
    const stranger = await vmd.vctl(["status"], OTHER);
    expect(stranger.err).toMatch(/^vctl: connect: .*: Permission denied$/m);
    expect(stranger.code).toBe(1);
    expect((await vmd.vctl(["log", "brief"])).code).toBe(0);
  });

  test("opens what the user may open, and no more", async () => {
    const secret = vmd.firmware("secret", "eb fe");
    chmodSync(secret, 0o600);
    const { err, code } = await vmd.vctl(["start", "-m", "1M", "-b", secret, "x"], USER);
    expect(err).toMatch(/start vm command failed: .*secret: permission denied/);
    expect(code).toBe(1);
  });
});

describe.skipIf(reason !== undefined)("root's daemon and ordinary users", () => {
  let vmd: TestDaemon;
  let spin = "";

  beforeAll(async () => {
    vmd = await TestDaemon.start();
    chmodSync(vmd.socket, 0o666);
    spin = vmd.firmware("spin", "eb fe");
    chmodSync(spin, 0o644);
    await vmd.vctl(["start", "--engine", "unicorn", "-m", "1M", "-b", spin, "roots"]);
  });
  afterAll(() => vmd[Symbol.asyncDispose]());

  test.each([
    [["stop", "roots"], /failed: Operation not permitted/],
    [["stop", "-f", "roots"], /failed: Operation not permitted/],
    [["pause", "roots"], /pause vm command failed: Operation not permitted/],
    [["console", "roots"], /Operation not permitted/],
    [["show", "roots"], /Operation not permitted/],
    [["load", "/etc/passwd"], /command failed: Operation not permitted/],
    [["reload"], /command failed: Operation not permitted/],
    [["reset"], /command failed: Operation not permitted/],
    [["log", "verbose"], /command failed: Operation not permitted/],
    [["start", "-b", "/bin/true", "new"], /start vm command failed: Operation not permitted/],
  ])("%j is refused", async (args, message) => {
    const { code, err } = await vmd.vctl(args, USER);
    expect(err).toMatch(message);
    expect(code).toBe(1);
  });

  test("status and wait are for all", async () => {
    const { out, code } = await vmd.vctl(["status"], USER);
    expect(out).toMatch(/ running roots$/m);
    expect(code).toBe(0);
  });
});
