/** The control socket against clients that mean no good. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { TestDaemon } from "./testing.ts";

setDefaultTimeout(60_000);

let vmd: TestDaemon;

beforeAll(async () => {
  vmd = await TestDaemon.start();
});
afterAll(() => vmd[Symbol.asyncDispose]());

/** A connection that sends what it is told to. */
async function connect() {
  const said: string[] = [];
  const { promise: closed, resolve } = Promise.withResolvers<void>();
  const socket = await Bun.connect({
    unix: vmd.socket,
    socket: {
      data: (_, data) => void said.push(data.toString()),
      close: () => resolve(),
      error: () => resolve(),
    },
  });
  return { socket, closed, said };
}

async function works(): Promise<void> {
  expect((await vmd.vctl(["log", "brief"])).code).toBe(0);
}

test("what is no request is answered once, and the connection closed", async () => {
  for (const text of ["GET / HTTP/1.1\r\n\r\n", "{}\n", "\n", '{"id":"x"}\n', "\xff\xfe\n"]) {
    const { socket, closed, said } = await connect();
    socket.write(text);
    await closed;
    const [line] = said.join("").split("\n");
    expect(JSON.parse(line)).toMatchObject({ id: 0, ok: false, code: "EPROTO" });
  }
  await works();
});

test("a request that is wrong but says which it is leaves the connection open", async () => {
  const { socket, said } = await connect();
  socket.write('{"version":1,"id":7,"request":"frob"}\n{"version":1,"id":8,"request":"hello"}\n');
  for (let i = 0; i < 100 && said.join("").split("\n").length < 3; i++) await Bun.sleep(20);
  const [first, second] = said.join("").split("\n");
  expect(JSON.parse(first)).toEqual({
    id: 7,
    ok: false,
    code: "EPROTO",
    error: "unknown request",
  });
  expect(JSON.parse(second)).toMatchObject({ id: 8, ok: true, version: 1 });
  socket.end();
});

test("a line without end is cut", async () => {
  const { socket, closed, said } = await connect();
  const piece = "x".repeat(10_000);
  for (let i = 0; i < 10; i++) socket.write(piece);
  await closed;
  expect(said.join("")).toContain("a request is at most 30000 bytes");
  await works();
});

test("a request that doesn't become whole is waited for, but not long, and holds nobody up", async () => {
  const half = await connect();
  half.socket.write('{"version":1,');
  await works();
  const before = performance.now();
  await half.closed;
  expect(performance.now() - before).toBeLessThan(15_000);
  expect(half.said.join("")).toContain("a request must be whole within 10 s");
});

test("a request byte by byte is a request", async () => {
  const { socket, said } = await connect();
  for (const character of '{"version":1,"id":3,"request":"hello"}\n') {
    socket.write(character);
    await Bun.sleep(1);
  }
  for (let i = 0; i < 100 && said.length === 0; i++) await Bun.sleep(20);
  expect(JSON.parse(said.join(""))).toMatchObject({ id: 3, ok: true });
  socket.end();
});

test("who reads no replies is dropped, and nobody waits for that", async () => {
  const { socket, closed } = await connect();
  socket.pause();
  const line = '{"version":1,"id":1,"request":"metrics"}\n';
  const text = line.repeat(200);
  for (let i = 0; i < 400; i++) {
    socket.write(text);
    if (
      i % 20 === 0 &&
      (await Promise.race([closed, Bun.sleep(5).then(() => "open" as const)])) !== "open"
    )
      break;
  }
  await works();
  socket.terminate();
  await works();
});

test("so many requests may wait, and no more", async () => {
  const spin = vmd.firmware("spin", "eb fe");
  await vmd.vctl(["start", "--engine", "unicorn", "-m", "1M", "-b", spin, "waited"]);
  const { socket, said } = await connect();
  for (let id = 1; id <= 80; id++) {
    socket.write(`{"version":1,"id":${id},"request":"wait","vm":"waited"}\n`);
  }
  for (let i = 0; i < 100 && said.join("").split("\n").length < 17; i++) await Bun.sleep(20);
  const refused = said.join("").trim().split("\n");
  expect(refused).toHaveLength(16);
  for (const line of refused) expect(JSON.parse(line)).toMatchObject({ ok: false, code: "EAGAIN" });
  await vmd.vctl(["stop", "-fw", "waited"]);
  for (let i = 0; i < 100 && said.join("").split("\n").length < 81; i++) await Bun.sleep(20);
  expect(said.join("").trim().split("\n")).toHaveLength(80);
  socket.end();
});

test("many connections at once: all are served or refused, and there is room again", async () => {
  const all = await Promise.all(Array.from({ length: 150 }, () => connect()));
  for (const { socket } of all) socket.write('{"version":1,"id":1,"request":"hello"}\n');
  await Bun.sleep(500);
  const served = all.filter(({ said }) => said.join("").includes('"ok":true')).length;
  expect(served).toBe(150);
  for (const { socket } of all) socket.end();
  await works();
});

test("noise of all kinds harms nobody", async () => {
  let state = 1;
  const next = () => {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    return state;
  };
  for (let i = 0; i < 60; i++) {
    const { socket } = await connect();
    const noise = Uint8Array.from({ length: next() % 3000 }, () => next() >> 8);
    socket.write(noise);
    if (i % 3 === 0) socket.terminate();
    else socket.end();
  }
  await works();
  expect(vmd.log).not.toMatch(/internal error|control process ended/);
});
