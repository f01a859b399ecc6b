/** vctl of an ordinary user: a daemon of its own comes and goes. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { root } from "../vmm/root.ts";

setDefaultTimeout(120_000);

const USER = 12_347;

function missing(): string | undefined {
  if (process.geteuid!() !== 0) return "only root can run things as another user";
  if (Bun.which("setpriv") === null) return "there is no setpriv (package util-linux)";
  for (let folder = root; folder !== "/"; folder = dirname(folder)) {
    if ((statSync(folder).mode & 0o005) !== 0o005) return `${folder} is closed to other users`;
  }
  return undefined;
}

const reason = missing();
if (reason !== undefined) console.log(`tests of an ordinary user's vctl skipped: ${reason}`);

describe.skipIf(reason !== undefined)("without root", () => {
  let folder = "";
  let kernel = "";

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "rootless-"));
    chownSync(folder, USER, USER);
    chmodSync(folder, 0o700);
    kernel = join(folder, "spin");
    const bytes = new Uint8Array(4096).fill(0xf4);
    bytes.set([0xeb, 0xfe]);
    bytes.set([0xe9, 0x0d, 0xf0], 0xff0);
    writeFileSync(kernel, bytes);
    chmodSync(kernel, 0o644);
  });

  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  function vctl(...args: string[]) {
    const { VMD_SOCKET: _, ...env } = process.env;
    const as = ["setpriv", `--reuid=${USER}`, `--regid=${USER}`, "--clear-groups", "--"];
    const { exitCode, stdout, stderr } = Bun.spawnSync(
      [...as, process.execPath, join(root, "src/vctl/index.ts"), ...args],
      { env: { ...env, XDG_RUNTIME_DIR: folder, HOME: folder }, timeout: 60_000 },
    );
    return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
  }

  test("the first command starts a daemon; it knows the user's VMs", () => {
    const socket = join(folder, "vmd.sock");
    expect(existsSync(socket)).toBe(false);
    expect(vctl("wait", "x").err).toContain(`connect: ${socket}: No such file or directory`);
    const started = vctl("start", "--engine", "unicorn", "-m", "1M", "-b", kernel, "mine");
    expect(started.err).toContain("vctl: started vm 1 successfully");
    expect(started.code).toBe(0);
    expect(statSync(socket).uid).toBe(USER);
    const { out } = vctl("status", "--json");
    expect(JSON.parse(out)).toMatchObject([{ name: "mine", state: "running", owner: `${USER}` }]);
    expect(vctl("stop", "-fw", "mine").code).toBe(0);
  });

  test("a folder that others could write to is not trusted", () => {
    chmodSync(folder, 0o777);
    const { err, code } = vctl("status");
    expect(err).toBe(`vctl: ${folder}: others may write there\n`);
    expect(code).toBe(1);
    chmodSync(folder, 0o700);
  });

  test("the daemon ends when it is told to, and takes its socket away", async () => {
    // Nothing of a sanitizer's: pgrep doesn't end with it.
    const { stdout } = Bun.spawnSync(["pgrep", "-u", `${USER}`, "-f", "daemon/main"], {
      env: { PATH: process.env.PATH },
    });
    // Never 0, which would be this whole group of processes.
    expect(stdout.toString()).toMatch(/^[1-9][0-9]*\n$/);
    process.kill(Number(stdout.toString()), "SIGTERM");
    for (let i = 0; i < 200 && existsSync(join(folder, "vmd.sock")); i++) await Bun.sleep(50);
    expect(existsSync(join(folder, "vmd.sock"))).toBe(false);
  });
});
