import { beforeEach, describe, expect, test } from "bun:test";
import { ConsoleStream, ExpectError } from "./console-stream.ts";

let sent: string[];
let stream: ConsoleStream;

beforeEach(() => {
  sent = [];
  stream = new ConsoleStream((bytes) => sent.push(new TextDecoder().decode(bytes)));
});

const print = (text: string) => stream.push(new TextEncoder().encode(text));

test("text and bytes are sent to the guest", () => {
  stream.send("root\n");
  stream.send(Uint8Array.of(0x41));
  expect(sent).toEqual(["root\n", "A"]);
});

describe("expect", () => {
  test("finds what is there already, and what comes", async () => {
    print("login: ");
    expect(await stream.expect("login:")).toBe("login:");
    const later = stream.expect(/version (\d+)/);
    print("ver");
    print("sion 42\n");
    expect(await later).toBe("version 42");
  });

  test("consumes up to its match", async () => {
    print("one two one");
    await stream.expect("one");
    expect(stream.pending).toBe(" two one");
    await stream.expect("one");
    expect(stream.pending).toBe("");
  });

  test("serves in the order of asking", async () => {
    const first = stream.expect("b");
    const second = stream.expect("a");
    print("a");
    print("b");
    await first;
    print("a");
    expect(await second).toBe("a");
  });

  test("takes a global pattern as any other", async () => {
    const pattern = /x/g;
    print("x.x");
    await stream.expect(pattern);
    await stream.expect(pattern);
    expect(stream.pending).toBe("");
  });

  test("finds what is spread over pieces, within a character too", async () => {
    const bytes = new TextEncoder().encode("grüße\n");
    for (const byte of bytes) stream.push(Uint8Array.of(byte));
    expect(await stream.expect("grüße")).toBe("grüße");
  });

  test("gives up with what the guest said last", async () => {
    print("panic: no init\n");
    const error = await stream.expect("login:", 10).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(ExpectError);
    expect(String(error)).toMatch(/login: within 0.01 s; its last output:\npanic: no init/);
  });

  test("that gave up doesn't hold those behind it", async () => {
    print("ready");
    const first = stream.expect("never", 10).catch((caught: unknown) => caught);
    const second = stream.expect("ready", 5000);
    expect(await first).toBeInstanceOf(ExpectError);
    expect(await second).toBe("ready");
  });

  test("fails at once when the VM is gone, unless it was said before", async () => {
    const waiting = stream.expect("login:").catch((caught: unknown) => caught);
    print("bye\n");
    stream.end();
    expect(String(await waiting)).toMatch(/before the VM ended/);
    expect(await stream.expect("bye")).toBe("bye");
    await expect(stream.expect("more")).rejects.toThrow(ExpectError);
  });
});

describe("follow", () => {
  const text = (pieces: Uint8Array[]) => Buffer.concat(pieces).toString();

  test("replays what was said, then goes on, until it is stopped", () => {
    print("a");
    const all: Uint8Array[] = [];
    const fresh: Uint8Array[] = [];
    const stop = stream.follow((bytes) => all.push(bytes));
    stream.follow((bytes) => fresh.push(bytes), false);
    print("b");
    stop();
    print("c");
    expect([text(all), text(fresh)]).toEqual(["ab", "bc"]);
  });

  test("keeps 64 KiB of the past, not less and not much more", () => {
    for (let i = 0; i < 300; i++) print(`${i}`.padEnd(1000));
    const got: Uint8Array[] = [];
    stream.follow((bytes) => got.push(bytes));
    const size = text(got).length;
    expect(size).toBeGreaterThanOrEqual(64 * 1024);
    expect(size).toBeLessThan(64 * 1024 + 1000);
    expect(text(got).trimEnd().endsWith("299")).toBe(true);
  });

  test("text that nobody waits for is bounded", () => {
    for (let i = 0; i < 100; i++) print("x".repeat(10_000));
    expect(stream.pending.length).toBeLessThanOrEqual(2 * 64 * 1024);
  });

  test("one long piece is kept whole", () => {
    print("y".repeat(200_000));
    const got: Uint8Array[] = [];
    stream.follow((bytes) => got.push(bytes));
    expect(text(got).length).toBe(200_000);
  });
});
