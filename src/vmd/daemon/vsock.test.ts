/** A VM's socket device in the daemon: whose socket it is, who is let in, and how long it is there. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, statSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { TestDaemon, until } from "./testing.ts";

setDefaultTimeout(60_000);

const NOBODY = 65_534;
const isRoot = process.geteuid!() === 0;
let vmd: TestDaemon;
let echo = "";

beforeAll(async () => {
  vmd = await TestDaemon.start({
    delayed: true,
    config: `vm "configured" {
	boot "FOLDER/echo"
	memory 1M
	engine unicorn
	${isRoot ? `owner ${NOBODY}` : ""}
	vsock "FOLDER/c.sock" cid 3
	disable
}
`,
  });
  // Waits for input, and has no driver.
  echo = vmd.firmware("echo", "ba fd 03 ec a8 01 74 f8 ba f8 03 ec ee 3c 21 75 f0 b0 fe e6 64");
  await vmd.run();
});

afterAll(() => vmd[Symbol.asyncDispose]());

const stop = (name: string) => vmd.vctl(["stop", "-fw", name]);

/** What a client hears until it is sent away. */
function talk(path: string, text: string): Promise<string> {
  return new Promise((resolve) => {
    let heard = "";
    const socket = connect(path);
    socket.on("data", (data) => void (heard += data.toString()));
    socket.on("close", () => resolve(heard));
    socket.on("error", () => {});
    socket.write(text);
  });
}

test("vm.conf's: the socket is the owner's, and goes with the VM", async () => {
  const path = join(vmd.folder, "c.sock");
  expect(await vmd.vctl(["start", "configured"])).toMatchObject({ code: 0 });
  const { uid, mode } = statSync(path);
  expect(uid).toBe(isRoot ? NOBODY : process.geteuid!());
  expect(mode & 0o777).toBe(0o600);
  // The guest has no driver: the VM process sends everybody away.
  expect(await talk(path, "CONNECT 80\n")).toBe("");
  expect(await talk(path, "CONNECT 81\n")).toBe("");
  await stop("configured");
  await until(() => !existsSync(path), 5000);
});

test("vctl's, and a path that is taken", async () => {
  const path = join(vmd.folder, "v.sock");
  const start = (name: string) =>
    vmd.vctl([
      "start",
      "--engine",
      "unicorn",
      "-m",
      "1M",
      "-b",
      echo,
      "--vsock",
      `4,${path}`,
      name,
    ]);
  expect(await start("first")).toMatchObject({ code: 0 });
  expect(await talk(path, "CONNECT 80\n")).toBe("");
  const second = await start("second");
  expect(second.code).not.toBe(0);
  expect(second.err).toContain("EADDRINUSE");
  expect(existsSync(path)).toBe(true);
  await stop("first");
  await until(() => !existsSync(path), 5000);
  const wrong = await vmd.vctl(["start", "-b", echo, "--vsock", "2,/a", "third"]);
  expect(wrong.err).toContain("cid 2");
});
