// Kernel modules of an amd64 guest, with those that each needs, in the order to load them in.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { guestFile } from "./guest.ts";

/** Debian's cloud kernel, and the one that has more drivers: 9p. */
export type KernelSource = "linux-amd64" | "linux-generic";

/** The files of these modules and of all that they need: a name, as of insmod, and its content. */
export function modules(source: KernelSource, names: readonly string[]): Map<string, Uint8Array> {
  const folder = guestFile(source, "modules");
  const files = new Map(
    readdirSync(folder).map((file) => [file.replace(/\.ko$/, "").replaceAll("-", "_"), file]),
  );
  const found = new Map<string, Uint8Array>();
  const visit = (name: string) => {
    const file = files.get(name);
    // What isn't there as a file is part of the kernel.
    if (file === undefined || found.has(name)) return;
    const data = readFileSync(join(folder, file));
    for (const needed of dependencies(data)) visit(needed);
    found.set(name, data);
  };
  for (const name of names) {
    if (!files.has(name)) throw new Error(`${source} has no module ${name}`);
    visit(name);
  }
  return found;
}

/** Of the section .modinfo: "depends=a,b". */
function dependencies(data: Uint8Array): string[] {
  const text = Buffer.from(data.buffer, data.byteOffset, data.length);
  const at = text.indexOf("\0depends=");
  if (at < 0) return [];
  const end = text.indexOf(0, at + 1);
  return text
    .toString("latin1", at + 9, end)
    .split(",")
    .filter((name) => name !== "")
    .map((name) => name.replaceAll("-", "_"));
}

/** Files for an initramfs, and the lines of a script that load them. */
export function moduleFiles(
  source: KernelSource,
  ...names: string[]
): {
  files: Record<string, Uint8Array>;
  load: string;
} {
  const found = modules(source, names);
  const files = Object.fromEntries([...found].map(([name, data]) => [`lib/${name}.ko`, data]));
  const load = [...found.keys()].map((name) => `insmod /lib/${name}.ko\n`).join("");
  return { files, load };
}
