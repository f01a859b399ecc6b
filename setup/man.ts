// Makes man/vctl.8 and man/vmd.8 of the programs' own commands and options.

import { writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { manuals } from "../src/vctl/manuals.ts";

const folder = resolve(import.meta.dir, "../man");
for (const [name, page] of Object.entries(await manuals())) writeFileSync(join(folder, name), page);
