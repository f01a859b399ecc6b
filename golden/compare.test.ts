import { expect, test } from "bun:test";
import { difference, tolerated } from "./compare.ts";

test("lines that moved are no difference; lines that came, went or repeat are", () => {
  expect(difference(["a", "b", "c"], ["c", "a", "b"])).toEqual({ missing: [], extra: [] });
  expect(difference(["a", "b", "b"], ["a", "b", "d"])).toEqual({ missing: ["b"], extra: ["d"] });
  expect(difference(["a"], ["a", "a"])).toEqual({ missing: [], extra: ["a"] });
});

test("another version may differ in a twentieth of the lines, or in one line of a short log", () => {
  expect([230, 39, 12, 3].map(tolerated)).toEqual([11, 1, 1, 1]);
});
