import { Line, LineBuffer, failureOf } from "../../src/vmd/migration/lines.ts";
import { parseRequest, ProtocolError } from "../../src/vmd/protocol.ts";
import { must, type Target } from "../own/target.ts";

const REQUESTS: readonly object[] = [
  { request: "hello" },
  { request: "status", running: true },
  { request: "status", vm: 1 },
  { request: "show", vm: "web" },
  { request: "stop", vm: "web", force: true, wait: false },
  { request: "console", vm: 2, stream: "debug", lossless: true },
  { request: "start", vm: "web", memory: 2 ** 28, kernel: "/bsd", disks: [{ path: "/d" }] },
  {
    request: "start",
    vm: "web",
    interfaces: [{ switch: "s", local: true, forwards: ["2222:22"] }],
    vsock: { cid: 3, path: "/v" },
    shares: [{ path: "/s", tag: "t", allow: ["*"] }],
    gdb: { host: "127.0.0.1", port: 1234 },
  },
  {
    request: "snapshot",
    vm: "web",
    path: "/s",
    snapshot: "0".repeat(32),
    overlays: [{ place: 0, path: "/a", frozen: "/b" }],
  },
  { request: "fork", vm: "web", names: ["a", "b"], snapshot: "0".repeat(32) },
  { request: "restore", path: "/s", vm: "web", verify: true },
  { request: "send", vm: "web", live: true, migration: { answers: "stream" } },
  { request: "receive", vm: "web", config: "{}", answers: true },
  { request: "balloon", vm: "web", target: 2 ** 20 },
  { request: "exits", vm: "web", time: 100 },
  { request: "reset", what: "vms" },
  { request: "log", level: "brief" },
];

export const target: Target = {
  name: "control",
  about: "the control protocol's lines, whole or in pieces: a request or a sentence",
  maxInput: 2048,
  steps: 3_000_000,
  dictionary: ["null", "true", "1e999", "-1", '"__proto__"', "[]", "{}", '"id":1,"version":1'].map(
    (word) => new TextEncoder().encode(word),
  ),
  *seeds() {
    for (const body of REQUESTS) {
      const line = JSON.stringify({ version: 1, id: 1, ...body });
      yield new TextEncoder().encode(`${line}\n`);
    }
    yield new TextEncoder().encode(`${Line.FAILED} it can't\n${Line.HELLO}\n`);
  },
  run(input) {
    const whole = new LineBuffer();
    const pieces = new LineBuffer();
    const lines = whole.add(input);
    const again: string[] = [];
    const cut = input.length >> 1;
    again.push(...pieces.add(input.subarray(0, cut)), ...pieces.add(input.subarray(cut)));
    must(lines.length === again.length, "in pieces there are other lines");
    for (const line of lines) {
      must(!/\n/.test(failureOf(line) ?? ""), "a sentence of two lines");
      request(line);
    }
  },
};

function request(line: string): void {
  try {
    const { id, body } = parseRequest(line);
    must(Number.isSafeInteger(id), `the id is ${id}`);
    // What was taken is taken again, the same.
    const second = parseRequest(JSON.stringify({ version: 1, id, ...written(body) }));
    must(Bun.deepEquals(written(second.body), written(body)), "it reads as another request");
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    must(error.message.length < 1000, `a message of ${error.message.length} characters`);
    // oxlint-disable-next-line no-control-regex
    must(!/[\x00-\x1f\x7f]/.test(error.message), "a message with a control character");
  }
}

/** As a client writes it: port forwards are read into something else. */
function written(body: object): object {
  const { interfaces } = body as { interfaces?: { forwards?: unknown }[] };
  if (interfaces?.some(({ forwards }) => forwards !== undefined) !== true) return body;
  return { ...body, interfaces: interfaces.map((one) => ({ ...one, forwards: undefined })) };
}
