/** Puts the outcomes of this host into docs/virtio.md: `bun golden/conformance/table.ts`. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../guests/guest.ts";
import { buildGuest, runConformance, table } from "./conformance.ts";

export const PAGE = join(root, "docs/virtio.md");
const BEGIN = "<!-- made by golden/conformance/table.ts -->\n";
const END = "<!-- end -->\n";

/** The table that the page has now. */
export function tableOfPage(): string {
  const text = readFileSync(PAGE, "utf8");
  return text.slice(text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END));
}

if (import.meta.main) {
  const { outcomes, ending } = await runConformance(buildGuest(), "unicorn");
  const text = readFileSync(PAGE, "utf8");
  const before = text.slice(0, text.indexOf(BEGIN) + BEGIN.length);
  writeFileSync(PAGE, before + table(outcomes) + text.slice(text.indexOf(END)));
  process.stdout.write(`${PAGE}: ${outcomes.size} devices, ${ending}\n`);
}
