/** VMs of the daemon that are recorded: whose the file is, what ends it, and what is refused meanwhile. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chownSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { probe } from "../../vmm/engine.ts";
import { replayRecording } from "../recording/replay.ts";
import { TestDaemon, until } from "./testing.ts";

setDefaultTimeout(120_000);
const unicorn = probe("unicorn");
if (!unicorn.available) console.log(`recordings by vmd skipped: ${unicorn.why}`);

const isRoot = process.geteuid!() === 0;
const NOBODY = 65534;
let vmd: TestDaemon;
let asleep = "";
let off = "";
let resets = "";

beforeAll(async () => {
  vmd = await TestDaemon.start();
  // sti; hlt; jmp the hlt
  asleep = vmd.firmware("asleep", "fb f4 eb fd");
  // mov al,'B'; mov dx,3f8; out dx,al; cli; hlt
  off = vmd.firmware("off", "b0 42 ba f8 03 ee fa f4");
  // The CMOS keeps nothing over a reset, nor does memory: it resets until the host has had enough.
  resets = vmd.firmware("resets", "b0 43 ba f8 03 ee b0 fe e6 64");
});
afterAll(() => vmd[Symbol.asyncDispose]());

const start = (name: string, kernel: string, file: string, ...more: string[]) =>
  vmd.vctl(["start", "--record", file, "-m", "1M", "-b", kernel, ...more, name]);

/** Runs it again; what was printed. */
function replayed(path: string) {
  let text = "";
  const result = replayRecording(path, {
    console: (bytes) => (text += new TextDecoder().decode(bytes)),
  });
  return { text, ...result };
}

/** The image that the log tells of a VM's end. */
function loggedImage(name: string): string | undefined {
  return new RegExp(`${name}: .* image=([0-9a-f]{64})`).exec(vmd.log)?.[1];
}

describe.skipIf(!unicorn.available)("a recording by vmd", () => {
  test("ends with the guest, and runs again to the same image", async () => {
    const path = join(vmd.folder, "off.rec");
    const { code, err } = await start("off", off, path);
    expect(`${code} ${err}`).toContain("0 ");
    await vmd.logs(/off: the guest halted image=/);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const again = replayed(path);
    expect(again).toMatchObject({ text: "B", difference: undefined, isCut: false });
    expect(loggedImage("off")).toBe(again.image);
    const { code: same, err: says } = await vmd.vctl(["replay", path]);
    expect(same).toBe(0);
    expect(says).toContain(`final image: ${again.image}, the same`);
  });

  test("ends with a forced stop", async () => {
    const path = join(vmd.folder, "asleep.rec");
    expect((await start("asleep", asleep, path)).code).toBe(0);
    const [vm] = await vmd.status();
    expect(vm).toMatchObject({ name: "asleep", state: "running", engine: "unicorn" });
    expect((await vmd.vctl(["stop", "-fw", "asleep"])).code).toBe(0);
    const again = replayed(path);
    expect(again).toMatchObject({ difference: undefined, isCut: false });
    expect(again.end?.message).toBe("asleep: stopped");
    expect(loggedImage("asleep")).toBe(again.image);
  });

  test("goes on over resets, up to vmd's limit", async () => {
    const path = join(vmd.folder, "resets.rec");
    expect((await start("resets", resets, path)).code).toBe(0);
    await vmd.vctl(["wait", "resets"]);
    const again = replayed(path);
    expect(again).toMatchObject({ difference: undefined, isCut: false });
    expect(again.text).toMatch(/^C{3,}$/);
    expect(loggedImage("resets")).toBe(again.image);
  });

  test("is run up to where its VM was killed", async () => {
    const path = join(vmd.folder, "killed.rec");
    expect((await start("killed", asleep, path)).code).toBe(0);
    await Bun.sleep(500);
    process.kill((await vmd.status()).find(({ name }) => name === "killed").pid, "SIGKILL");
    await vmd.vctl(["wait", "killed"]);
    expect(replayed(path)).toMatchObject({ end: undefined, isCut: true, difference: undefined });
    const { code, err } = await vmd.vctl(["replay", path]);
    expect(code).toBe(1);
    expect(err).toMatch(/^vctl: \S*killed\.rec: it ends too early: the same up to exit \d+, /);
  });

  test("is of the run that it was asked for, and is nobody else's meanwhile", async () => {
    const path = join(vmd.folder, "busy.rec");
    expect((await start("busy", asleep, path)).code).toBe(0);
    const refused = async (...args: string[]) => {
      const { code, err } = await vmd.vctl(args);
      expect(code).toBe(1);
      return err;
    };
    const to = join(vmd.folder, "snapshot");
    const says = `the vm is recorded in ${path}`;
    expect(await refused("snapshot", "busy", to)).toContain(says);
    expect(existsSync(to)).toBe(false);
    expect(await refused("snapshot", "--live", "busy", to)).toContain(says);
    expect(await refused("fork", "busy", "copy")).toContain(says);
    expect(await refused("send", "busy")).toContain(says);
    expect(await refused("capture", "-w", to, "busy")).toContain(says);
    const { err } = await start("other", asleep, path);
    expect(err).toContain(`${path}: is in use`);
    await vmd.vctl(["stop", "-fw", "busy"]);
    expect(replayed(path).difference).toBeUndefined();
  });

  test("needs a machine that repeats, and leaves the file alone where there is none", async () => {
    const path = join(vmd.folder, "kept.rec");
    writeFileSync(path, "what was there");
    const kvm = await start("no", asleep, path, "--engine", "kvm");
    expect(kvm.code).toBe(1);
    expect(kvm.err).toContain("it can't be recorded: engine kvm has no virtual time; use unicorn");
    const shared = await start("no", asleep, path, "--share", `a=${vmd.folder}`);
    expect(shared.err).toContain("it can't be recorded: a share's files are the host's");
    const gdb = await start("no", asleep, path, "--gdb", join(vmd.folder, "gdb"));
    expect(gdb.err).toContain("it can't be recorded: a debugger stops it where it wants");
    expect(readFileSync(path, "utf8")).toBe("what was there");
    expect((await start("no", asleep, "/dev/null")).err).toContain("/dev/null: not a regular file");
    expect((await start("no", asleep, vmd.folder)).err).toContain("is a directory");
    expect((await start("no", asleep, join(vmd.folder, "x/y"))).err).toContain("no such file");
  });

  test.skipIf(!isRoot)("is written with the rights of who asked", async () => {
    await using other = await TestDaemon.start({
      config: `socket owner ":nogroup"\nvm "theirs" {\n disable\n memory 1M\n boot "FOLDER/asleep"\n
        allow instance { instance, owner nobody }\n}\n`,
      delayed: true,
    });
    other.firmware("asleep", "fb f4 eb fd");
    await other.run();
    const folder = join(other.folder, "theirs");
    mkdirSync(folder);
    const path = join(folder, "run.rec");
    const args = ["start", "--record", path, "-t", "theirs", "one"];
    const refused = await other.vctl(args, NOBODY);
    expect(refused.code).toBe(1);
    expect(refused.err).toContain(`${path}: permission denied`);
    chownSync(folder, NOBODY, NOBODY);
    expect((await other.vctl(args, NOBODY)).err).toContain("started vm");
    expect(statSync(path).uid).toBe(NOBODY);
    await other.vctl(["stop", "-fw", "one"]);
    expect(replayed(path)).toMatchObject({ difference: undefined, isCut: false });
  });

  test("stays when vmd ends in order", async () => {
    let path = "";
    {
      await using other = await TestDaemon.start();
      const kernel = other.firmware("asleep", "fb f4 eb fd");
      path = join(vmd.folder, "farewell.rec");
      const args = ["start", "--record", path, "-m", "1M", "-b", kernel, "last"];
      expect((await other.vctl(args)).code).toBe(0);
      await until(() => statSync(path).size > 0, 5000);
    }
    expect(replayed(path)).toMatchObject({ difference: undefined, isCut: false });
  });
});
