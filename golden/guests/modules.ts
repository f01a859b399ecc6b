// Kernel modules of an amd64 guest, with those that each needs, in the order to load them in.

import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { gunzipSync } from "node:zlib";
import { readCpio } from "./cpio.ts";
import { guestFile } from "./guest.ts";

/** Debian's cloud kernel, and the one that has more drivers: 9p. */
export type KernelSource = "linux-amd64" | "linux-generic" | "linux-i386";

/** The files of these modules and of all that they need: a name, as of insmod, and its content. */
export function modules(source: KernelSource, names: readonly string[]): Map<string, Uint8Array> {
  const files = source === "linux-i386" ? ofInstaller() : ofFolder(guestFile(source, "modules"));
  const found = new Map<string, Uint8Array>();
  const visit = (name: string) => {
    const read = files.get(name);
    // What isn't there as a file is part of the kernel.
    if (read === undefined || found.has(name)) return;
    const data = read();
    for (const needed of dependencies(data)) visit(needed);
    found.set(name, data);
  };
  for (const name of names) {
    if (!files.has(name)) throw new Error(`${source} has no module ${name}`);
    visit(name);
  }
  return found;
}

const nameOf = (file: string) => basename(file, ".ko").replaceAll("-", "_");

function ofFolder(folder: string): Map<string, () => Uint8Array> {
  return new Map(
    readdirSync(folder).map((file) => [nameOf(file), () => readFileSync(join(folder, file))]),
  );
}

/** The i386 kernel is the installer's, and so are its modules: no disks' among them. */
function ofInstaller(): Map<string, () => Uint8Array> {
  const archive = gunzipSync(readFileSync(guestFile("linux-i386", "installer.gz")));
  const files = [...readCpio(archive)].filter(({ path }) => path.endsWith(".ko"));
  return new Map(files.map(({ path, data }) => [nameOf(path), () => data ?? new Uint8Array()]));
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
