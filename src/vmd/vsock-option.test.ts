import { expect, test } from "bun:test";
import { parseFromVm } from "./vm-schema.ts";
import { checkVsock, parseVsock } from "./vsock-option.ts";

test("CID,PATH, and what is wrong with others", () => {
  expect(parseVsock("3,/run/a,b")).toEqual({ cid: 3, path: "/run/a,b" });
  for (const text of ["", "3", ",/a", "x,/a", "2,/a", "4294967295,/a", "3,"]) {
    expect(() => parseVsock(text)).toThrow(TypeError);
  }
  expect(checkVsock({ cid: 3, path: "/".repeat(96) })).toBeUndefined();
  expect(checkVsock({ cid: 3, path: "/".repeat(97) })).toContain("longer than 96 bytes");
  expect(checkVsock({ cid: 3.5, path: "/a" })).toContain("cid");
});

test("what a VM process may say of sockets", () => {
  const say = (id: unknown, port: unknown) =>
    parseFromVm(JSON.stringify({ kind: "vsock-connect", id, port }));
  expect(say(1, 0xffffffff)).toEqual({ kind: "vsock-connect", id: 1, port: 0xffffffff });
  for (const port of [-1, 2 ** 32, 1.5, "1", null]) expect(say(1, port)).toBeUndefined();
  for (const id of [0, -1, 2 ** 53, 1.5, "1", null]) expect(say(id, 1)).toBeUndefined();
  expect(parseFromVm('{"kind":"vsock-knock"}')).toEqual({ kind: "vsock-knock" });
});
