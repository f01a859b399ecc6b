#!/usr/bin/env bun
/** vctl: runs its bundle where there is one, else its sources (main.ts). */
import { programPath } from "../vmm/root.ts";

const [word = ""] = process.argv.slice(2);
// Some commands have bundles of their own, which are sooner loaded than one with all of them.
const part = /^[a-z]+$/.test(word) ? `vctl/${word}.ts` : undefined;
await import(programPath("vctl/main.ts", part));
