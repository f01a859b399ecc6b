/** A debugger at a VM of the daemon: where it connects, who may, and how long that is there. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, statSync } from "node:fs";
import { connect, type NetConnectOpts } from "node:net";
import { join } from "node:path";
import { encodePacket, PacketReader } from "../gdb/packet.ts";
import { TestDaemon, until } from "./testing.ts";

setDefaultTimeout(60_000);

// The lab is for KVM.
const inLab = process.env.VMD_LAB !== undefined;
const engine = inLab ? "kvm" : "unicorn";
let vmd: TestDaemon;
let echo = "";

beforeAll(async () => {
  vmd = await TestDaemon.start();
  echo = vmd.firmware("echo", "ba fd 03 ec a8 01 74 f8 ba f8 03 ec ee 3c 21 75 f0 b0 fe e6 64");
});

afterAll(() => vmd[Symbol.asyncDispose]());

const start = (name: string, at: string) =>
  vmd.vctl(["start", "-b", echo, "-m", "1M", "--engine", engine, "--gdb", at, name]);

/** Replies to packets, one after the other. */
function ask(to: NetConnectOpts, packets: string[]): Promise<string[]> {
  const { promise, resolve, reject } = Promise.withResolvers<string[]>();
  const replies: string[] = [];
  const left = [...packets];
  const reader = new PacketReader();
  const socket = connect(to);
  const next = () => {
    const packet = left.shift();
    if (packet === undefined) socket.end(() => resolve(replies));
    else socket.write(encodePacket(packet));
  };
  socket.on("connect", next);
  socket.on("error", reject);
  socket.on("data", (data) => {
    reader.read(data as Uint8Array, (one) => {
      if (one.kind !== "packet") return;
      replies.push(one.data);
      next();
    });
  });
  return promise;
}

test("a unix socket: its owner's, and gone with the VM", async () => {
  const path = join(vmd.folder, "g.sock");
  const started = await start("one", path);
  expect(started.code).toBe(0);
  expect(started.err + started.out).toContain(`one: waits for gdb: target remote ${path}`);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  // The reset vector, of which nothing has run.
  expect(await ask({ path }, ["?", "p10"])).toEqual(["T05thread:01;", "f0ff000000000000"]);
  expect(await ask({ path }, ["s", "D"])).toEqual(["T05thread:01;", "OK"]);
  expect(await vmd.vctl(["stop", "-fw", "one"])).toMatchObject({ code: 0 });
  await until(() => !existsSync(path), 5000);
});

// The lab has no loopback interface.
test.skipIf(inLab)("a TCP port; one that is taken is said in a sentence", async () => {
  const port = 20_000 + (process.pid % 20_000);
  expect(await start("two", `:${port}`)).toMatchObject({ code: 0 });
  expect(await ask({ port, host: "127.0.0.1" }, ["qAttached"])).toEqual(["1"]);
  const second = await start("three", `:${port}`);
  expect(second.code).not.toBe(0);
  expect(second.err).toContain("EADDRINUSE");
  expect(second.err).not.toContain("    at ");
  await vmd.vctl(["stop", "-fw", "two"]);
});

test("what is no address is refused before anything starts", async () => {
  const wrong = await start("four", "nowhere");
  expect(wrong.code).toBe(1);
  expect(wrong.err).toContain("it is [HOST]:PORT, or the path of a socket.");
});
