// Linux whose process 1 is vmmci's driver (agent.c): asked to shut down, it acknowledges and resets
// the machine, or stays.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { buildProgram } from "./build.ts";
import type { Guest } from "./guest.ts";
import { initramfsFile } from "./initramfs.ts";
import { linuxAmd64 } from "./linux.ts";

async function initrd(name: string, flags: readonly string[]): Promise<string> {
  const options = ["-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector"];
  const program = buildProgram(name, [...options, ...flags, join(import.meta.dir, "agent.c")]);
  return await initramfsFile(name, { init: "", files: { init: readFileSync(program) } });
}

function agent(name: string, flags: readonly string[]): Guest {
  return {
    ...linuxAmd64,
    name,
    description: `Linux 6.1 amd64 with an agent for vmmci: ${name}`,
    initrd: () => initrd(name, flags),
    says: "agent: ready",
  };
}

/** Does what it is asked. */
export const obedient = agent("agent", []);
/** Sees that it is asked, and stays. */
export const stubborn = agent("stubborn-agent", ["-DSTUBBORN"]);
