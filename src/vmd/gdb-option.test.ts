import { expect, test } from "bun:test";
import { gdbAddress, parseGdb } from "./gdb-option.ts";

test("where a debugger connects", () => {
  expect(parseGdb(":1234")).toEqual({ host: "127.0.0.1", port: 1234 });
  expect(parseGdb("localhost:1234")).toEqual({ host: "127.0.0.1", port: 1234 });
  expect(parseGdb("0.0.0.0:5000")).toEqual({ host: "0.0.0.0", port: 5000 });
  expect(parseGdb("[::1]:1234")).toEqual({ host: "::1", port: 1234 });
  expect(parseGdb("/run/vm.gdb")).toEqual({ path: "/run/vm.gdb" });
  expect(parseGdb("./vm.gdb")).toEqual({ path: "./vm.gdb" });
});

test("what won't do is said in one sentence", () => {
  const wrong = (text: string) => {
    try {
      parseGdb(text);
      return "";
    } catch (error) {
      return (error as Error).message;
    }
  };
  expect(wrong("1234")).toBe("it is [HOST]:PORT, or the path of a socket");
  expect(wrong(":80")).toBe("gdb port 80: it is 1024 to 65535");
  expect(wrong(":65536")).toBe("gdb port 65536: it is 1024 to 65535");
  expect(wrong("example.org:1234")).toMatch(/no numeric address/);
  expect(wrong(`/${"a".repeat(107)}`)).toMatch(/longer than 107 bytes/);
});

test("as gdb takes it", () => {
  for (const text of ["127.0.0.1:1234", "[::1]:1234", "/run/vm.gdb"]) {
    expect(gdbAddress(parseGdb(text))).toBe(text);
  }
});
