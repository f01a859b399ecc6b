/** The manual: as the programs are, and readable by man(1). */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../vmm/root.ts";
import { manuals } from "./manuals.ts";

const folder = join(root, "man");

test("the pages say what the programs do; bun setup/man.ts makes them anew", async () => {
  for (const [name, page] of Object.entries(await manuals())) {
    expect(readFileSync(join(folder, name), "utf8")).toBe(page);
  }
});

test("every statement of vm.conf is in its page", async () => {
  const { keyword } = await import("../vmd/config/tokens.ts");
  const page = readFileSync(join(folder, "vm.conf.5"), "utf8");
  const without = new Set(["add", "id", "size"]);
  for (const word of Object.keys(keyword)) {
    if (!without.has(word)) expect(page).toMatch(new RegExp(`\\bCm .*\\b${word}\\b`));
  }
});

const groff = Bun.which("groff");
if (groff === null) console.log("the pages' form is not checked: there is no groff");

test.skipIf(groff === null)("the pages format without a complaint", () => {
  for (const name of readdirSync(folder)) {
    const { stdout, stderr } = Bun.spawnSync(
      ["groff", "-mdoc", "-Tutf8", "-ww", join(folder, name)],
      // Nothing of a sanitizer's: it finds fault with groff itself.
      { env: { PATH: process.env.PATH, LC_ALL: "C.UTF-8" } },
    );
    expect(stderr.toString()).toBe("");
    expect(stdout.toString().length).toBeGreaterThan(1000);
  }
});
