import { expect, test } from "bun:test";
import { parseShare } from "./share-option.ts";

test("a share is a tag, a path, and options", () => {
  expect(parseShare("work=/srv/a=b,ro,allow=*.txt,deny=*.key,deny=x/**,user=alice")).toEqual({
    path: "/srv/a=b",
    tag: "work",
    readOnly: true,
    allow: ["*.txt"],
    deny: ["*.key", "x/**"],
    user: "alice",
  });
  expect(parseShare("work=/srv")).toEqual({
    ...{ path: "/srv", tag: "work", readOnly: false, allow: [], deny: [] },
  });
});

test("what is wrong with one is said", () => {
  expect(parseShare("/srv")).toContain("it is no share such as");
  expect(parseShare("a=/srv,user=")).toBe(
    "user= is none of ro, rw, allow=GLOB, deny=GLOB, user=NAME.",
  );
});
