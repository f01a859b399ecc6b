import { expect, test } from "bun:test";
import { difference } from "./compare.ts";

test("lines that moved are no difference; lines that came, went or repeat are", () => {
  expect(difference(["a", "b", "c"], ["c", "a", "b"])).toEqual({ missing: [], extra: [] });
  expect(difference(["a", "b", "b"], ["a", "b", "d"])).toEqual({ missing: ["b"], extra: ["d"] });
  expect(difference(["a"], ["a", "a"])).toEqual({ missing: [], extra: ["a"] });
});
