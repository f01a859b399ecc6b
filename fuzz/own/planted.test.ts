import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../src/vmm/root.ts";
import { TARGETS } from "../targets/index.ts";
import { plant, PLANTED } from "./planted.ts";

const source = (file: string) => readFileSync(join(root, file), "utf8");

test.each(Object.keys(PLANTED))("%s can be planted, and its target is there", (name) => {
  const { target, edits } = PLANTED[name];
  expect(TARGETS).toContain(target);
  for (const { file } of edits) {
    const before = source(file);
    expect(plant(file, before, name)).not.toBe(before);
    expect(plant(file, before, undefined)).toBe(before);
  }
});

test("other files stay as they are", () => {
  const file = "src/vmd/virtio/rng.ts";
  expect(plant(file, source(file), "V3")).toBe(source(file));
});

test("a text that isn't there any more, or twice, is no plant", () => {
  const [{ file, find }] = PLANTED.V3.edits;
  expect(() => plant(file, "nothing", "V3")).toThrow("VMD_PLANT=V3");
  expect(() => plant(file, find + find, "V3")).toThrow("has 2 times");
  expect(() => plant(file, "nothing", "V99")).toThrow('no class "V99"');
});

test("nothing of it is in the source", () => {
  for (const { edits } of Object.values(PLANTED)) {
    for (const { file, find, replace } of edits) {
      const text = source(file);
      expect(text).toContain(find);
      if (replace !== "" && !find.includes(replace)) expect(text).not.toContain(replace);
    }
  }
});
