import { describe, expect, test } from "bun:test";
import { Verdict } from "../executor.ts";
import { crashKey, inputName, normaliseFrame } from "./crash.ts";

const report = (kind: string, ...stack: string[]) => ({ kind, text: "", stack });
const key = (...args: Parameters<typeof report>) => crashKey(Verdict.CRASH, report(...args));
const hang = (...stack: string[]) => crashKey(Verdict.TIMEOUT, report("timeout", ...stack));

describe("a frame", () => {
  test.each([
    ["at parse (/home/me/src/parse.ts:12:7)", "at parse (parse.ts:12)"],
    ["file:///x/y/src/parse.ts:12:7", "parse.ts:12"],
    ["0x401000", "0x401000"],
    ["table+0x8", "table+0x8"],
    ["  main  ", "main"],
  ])("that is innermost: %s", (frame, normal) => {
    expect(normaliseFrame(frame, true, false)).toBe(normal);
  });

  test("of a caller has no offset", () => {
    expect(normaliseFrame("records+0x4c", false, false)).toBe("records");
  });

  test("of a hang has no line, no offset, and a page for an address", () => {
    expect(normaliseFrame("loop+0x4c", true, true)).toBe("loop");
    expect(normaliseFrame("/a/b/loop.ts:12:7", true, true)).toBe("loop.ts");
    expect(normaliseFrame("0xffff81234567", true, true)).toBe("0xffff81234000");
    expect(normaliseFrame("0x12", true, true)).toBe("0x0000");
  });
});

describe("crashes are the same", () => {
  test("by kind and stack", () => {
    expect(key("page fault", "a+1", "b")).toBe(key("page fault", "a+1", "b"));
    expect(key("page fault", "a+0x1", "b+0x1")).toBe(key("page fault", "a+0x1", "b+0x9"));
    expect(key("page fault", "a+0x1", "b")).not.toBe(key("page fault", "a+0x2", "b"));
    expect(key("page fault", "a", "b")).not.toBe(key("page fault", "a", "c"));
    expect(key("page fault", "a")).not.toBe(key("panic", "a"));
    expect(hang("f+0x1", "g")).toBe(hang("f+0x22", "g"));
  });

  test("whatever called the fifth frame", () => {
    expect(key("panic", "a", "b", "c", "d", "e", "f")).toBe(key("panic", "a", "b", "c", "d", "e"));
  });

  test("by a name that a directory can have", () => {
    expect(key("Page fault: ../#PF", "a")).toMatch(/^page-fault-pf-[0-9a-f]{16}$/);
  });
});

test("an input's name is that of its bytes", () => {
  expect(inputName(new Uint8Array(0))).toBe("e3b0c44298fc1c149afbf4c8996fb924");
  expect(inputName(Uint8Array.of(1))).not.toBe(inputName(Uint8Array.of(2)));
});
