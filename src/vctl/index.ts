#!/usr/bin/env bun
/** vctl: runs its bundle where there is one, else its sources (main.ts). */
import { programPath } from "../vmm/root.ts";

await import(programPath("vctl/main.ts"));
