/** virtio-9p between a driver and a backend that answers when it likes. */
import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeReply, encodeReply, encodeRequest, MSIZE_MAX, tagOf } from "../share/messages.ts";
import { NineP, type NinePBackend } from "./9p.ts";
import { MockDriver, type Part } from "./mock-driver.ts";

class TestBackend implements NinePBackend {
  wait(): void {}
  ready = true;
  gone = false;
  readonly requests: Uint8Array[] = [];
  readonly replies: Uint8Array[] = [];

  send(request: Uint8Array): void {
    this.requests.push(request);
  }

  receive(take: (reply: Uint8Array) => void): boolean {
    for (let reply = this.replies.shift(); reply !== undefined; reply = this.replies.shift())
      take(reply);
    return false;
  }

  /** Answers a request with as many bytes of text. */
  answer(index = 0, target = "there"): void {
    const [request] = this.requests.splice(index, 1);
    this.replies.push(
      encodeReply(new Uint8Array(2 ** 17), "readlink", tagOf(request), { target }).slice(),
    );
  }
}

let backend: TestBackend;
let driver: MockDriver<NineP>;

const request = (tag: number, fid = 1): Uint8Array =>
  encodeRequest(new Uint8Array(64), "readlink", tag, { fid }).slice();
const add = (...parts: Part[]) => driver.queues[0].add(parts);
const kick = () => driver.queues[0].kick(true);
const poll = () => driver.transport.poll();
const replies = () =>
  driver.queues[0].used().map(({ data, written }) => decodeReply(data.slice(0, written)));

beforeEach(() => {
  backend = new TestBackend();
  driver = new MockDriver((transport) => new NineP(transport, "häuser", backend));
  driver.start();
});

test("a snapshot is in nobody's way but that of a guest that has it mounted", () => {
  const send = (type: "attach" | "clunk" | "version", fields: object) => {
    const bytes = encodeRequest(new Uint8Array(64), type, 1, fields as never).slice();
    add(bytes, 64);
    kick();
  };
  expect(driver.transport.obstacle()).toBeUndefined();
  send("attach", { fid: 7, afid: 0xffffffff, uname: "", aname: "", uid: 0 });
  // Nothing is waited for: the answer is out still.
  expect(driver.transport.obstacle()).toContain("has it mounted");
  expect(driver.transport.quiesce()).toContain("has it mounted");
  send("clunk", { fid: 8 });
  expect(driver.transport.obstacle()).toContain("has it mounted");
  send("clunk", { fid: 7 });
  expect(driver.transport.obstacle()).toBeUndefined();
  send("attach", { fid: 7, afid: 0xffffffff, uname: "", aname: "", uid: 0 });
  send("version", { msize: 8192, version: "9P2000.L" });
  expect(driver.transport.obstacle()).toBeUndefined();
});

test("its configuration is the mount tag", () => {
  expect(driver.device.type).toBe(9);
  expect(driver.offered[0] & 1).toBe(1);
  expect(driver.device.configSize).toBe(9);
  expect(driver.readConfig(0, 2)).toBe(7);
  const name = Uint8Array.from({ length: 7 }, (_, i) => driver.readConfig(2 + i, 1));
  expect(new TextDecoder().decode(name)).toBe("häuser");
  driver.writeConfig(0, 2, 1);
  expect(driver.readConfig(0, 2)).toBe(7);
  const make = (tag: string) => () => new NineP(driver.transport, tag, backend);
  expect(make("")).toThrow(RangeError);
  expect(make("x".repeat(256))).toThrow(RangeError);
});

describe("requests", () => {
  test("go out, and replies come back, in any order and any segments", () => {
    const bytes = request(7);
    const first = add(bytes.subarray(0, 2), bytes.subarray(2), 3, 5, 100);
    const second = add(request(7), 64);
    kick();
    expect(backend.requests).toHaveLength(2);
    // One tag of the guest is two of ours.
    expect(tagOf(backend.requests[0])).not.toBe(tagOf(backend.requests[1]));
    poll();
    expect(driver.queues[0].used()).toEqual([]);
    expect(driver.line).toBe(false);
    backend.answer(1, "second");
    poll();
    expect(driver.line).toBe(true);
    backend.answer(0, "first");
    poll();
    const used = driver.queues[0].used();
    expect(used.map(({ head }) => head)).toEqual([second, first]);
    const decoded = used.map(({ data, written }) => decodeReply(data.slice(0, written)));
    expect(decoded).toEqual([
      { kind: "readlink", tag: 7, target: "second" },
      { kind: "readlink", tag: 7, target: "first" },
    ]);
    expect(driver.broke).toEqual([]);
  });

  test("may lie in more than they are", () => {
    const padded = new Uint8Array(100);
    padded.set(request(1));
    add(padded, 64);
    kick();
    expect(backend.requests[0]).toHaveLength(11);
  });

  test("wait while the backend takes none", () => {
    backend.ready = false;
    for (let i = 0; i < 5; i++) add(request(i), 64);
    kick();
    poll();
    expect(backend.requests).toHaveLength(0);
    backend.ready = true;
    poll();
    expect(backend.requests).toHaveLength(5);
  });

  test("get an error for a reply that has no room", () => {
    add(request(3), 11);
    kick();
    backend.answer();
    poll();
    expect(replies()).toEqual([{ kind: "lerror", tag: 3, ecode: 90 }]);
  });

  test("get an error once nobody answers any more, the ones that are out and new ones", () => {
    add(request(3), 64);
    kick();
    backend.gone = true;
    poll();
    expect(replies()).toEqual([{ kind: "lerror", tag: 3, ecode: 5 }]);
    add(request(4), 64);
    kick();
    expect(replies()).toEqual([{ kind: "lerror", tag: 4, ecode: 5 }]);
    expect(backend.requests).toHaveLength(1);
  });
});

describe("a queue is broken by", () => {
  const sized = (size: number, length = 20) => {
    const bytes = new Uint8Array(length);
    new DataView(bytes.buffer).setUint32(0, size, true);
    return bytes;
  };
  test.each<[string, Part[]]>([
    ["no request", [64]],
    ["a part of a header", [request(1).subarray(0, 6), 64]],
    ["a size below a header's", [sized(6), 64]],
    ["a size beyond the chain", [sized(21), 64]],
    ["a size beyond every message", [sized(MSIZE_MAX + 1, MSIZE_MAX + 1), 64]],
    ["no room for an error", [request(1), 10]],
    ["no room at all", [request(1)]],
    ["nothing", []],
  ])("%s", (_, parts) => {
    add(...parts);
    kick();
    expect(driver.needsReset).toBe(true);
    expect(driver.broke).toHaveLength(1);
    expect(driver.queues[0].used()).toEqual([]);
    expect(backend.requests).toEqual([]);
  });
});

describe("a reset", () => {
  test("has nothing given back that was out", () => {
    add(request(1), 64);
    kick();
    driver.start();
    backend.answer();
    poll();
    expect(driver.queues[0].used()).toEqual([]);
    expect(driver.line).toBe(false);
    add(request(2), 64);
    kick();
    backend.answer(0, "new");
    poll();
    expect(replies()).toEqual([{ kind: "readlink", tag: 2, target: "new" }]);
  });

  test("again and again has no more out than there may be", () => {
    for (let round = 0; round < 20; round++) {
      for (let i = 0; i < 64; i++) add(request(i), 64);
      kick();
      driver.start();
    }
    expect(backend.requests).toHaveLength(512);
    add(request(1), 64);
    kick();
    expect(backend.requests).toHaveLength(512);
    // Answers make room, and are for nobody.
    backend.answer();
    poll();
    expect(driver.queues[0].used()).toEqual([]);
    expect(backend.requests).toHaveLength(512);
    backend.answer(511, "mine");
    poll();
    expect(replies()).toEqual([{ kind: "readlink", tag: 1, target: "mine" }]);
  });
});

test("replies that nobody asked for are heard by nobody", () => {
  add(request(1), 64);
  kick();
  for (const tag of [1, 300, 0xffff]) {
    backend.replies.push(encodeReply(new Uint8Array(64), "clunk", tag, {}).slice());
  }
  const slot = tagOf(backend.requests[0]);
  backend.answer();
  backend.replies.push(encodeReply(new Uint8Array(64), "clunk", slot, {}).slice());
  poll();
  expect(driver.queues[0].used()).toHaveLength(1);
  expect(driver.broke).toEqual([]);
});

test("whatever a driver and a backend do, each chain comes back once, with its own tag", () => {
  const step = fc.oneof(
    fc.record({
      do: fc.constant("add" as const),
      tag: fc.nat(3),
      room: fc.integer({ min: 11, max: 40 }),
    }),
    fc.record({ do: fc.constant("answer" as const), index: fc.nat(20), length: fc.nat(30) }),
    fc.record({ do: fc.constantFrom("kick" as const, "poll" as const, "reset" as const) }),
    fc.record({ do: fc.constant("ready" as const), is: fc.boolean() }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      backend = new TestBackend();
      driver = new MockDriver((transport) => new NineP(transport, "x", backend));
      driver.start();
      const tags = new Map<number, number>();
      const check = () => {
        for (const { head, data, written } of driver.queues[0].used()) {
          expect(decodeReply(data.slice(0, written)).tag).toBe(tags.get(head) as number);
        }
      };
      for (const s of steps) {
        if (s.do === "add" && driver.queues[0].room >= 2)
          tags.set(add(request(s.tag), s.room), s.tag);
        if (s.do === "answer" && backend.requests.length > 0) {
          backend.answer(s.index % backend.requests.length, "x".repeat(s.length));
        }
        if (s.do === "kick") kick();
        if (s.do === "poll") poll();
        if (s.do === "reset") driver.start();
        if (s.do === "ready") backend.ready = s.is;
        check();
      }
      backend.ready = true;
      kick();
      while (backend.requests.length > 0) backend.answer();
      poll();
      check();
      expect(driver.queues[0].out).toBe(0);
      expect(driver.broke).toEqual([]);
    }),
    { numRuns: 500 },
  );
});
