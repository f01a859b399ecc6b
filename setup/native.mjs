// native/build: the C part.

import { existsSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { root, run, step } from "./steps.mjs";

const libraries = ["libvmm.so", "libvmm-unicorn.so"];

export const make = (args = []) => run("make", ["-C", "native", `-j${cpus().length}`, ...args]);

/** Builds what is missing or out of date; `make` itself knows what that is. */
export async function native() {
  if (libraries.every((name) => existsSync(join(root, "native/build", name)))) await make();
  else await step("building native/", () => make());
}

/** build/: the programs' bundles. Quick, so made anew each time. */
export const bundles = (bun) => run(bun, ["setup/bundle.ts"]);
