#!/usr/bin/env bun
/** vmd: runs its bundle where there is one, else its sources (daemon/main.ts). */
import { programPath } from "../vmm/root.ts";

await import(programPath("vmd/daemon/main.ts"));
