// What a job finds in L1: an ext4 image with Bun, a C library, busybox, the npm packages
// and the guests' files, made again when any of those changes; and the project itself,
// which goes into the initramfs, since it changes all the time and is small.

import {
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
} from "node:fs";
import {
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { S_IFLNK, S_IFREG, writeCpio } from "../golden/guests/cpio.ts";
import type { CpioEntry } from "../golden/guests/cpio.ts";
import { programPath } from "../src/vmm/root.ts";
import { cache, guestFile, root } from "../golden/guests/guest.ts";

export const labCache = join(cache, "lab");

/** Folders and files of the project that jobs get, at /vmd. */
const projectParts = [
  "src",
  "golden",
  "fuzz",
  "bench",
  "lab",
  "setup",
  "package.json",
  "bunfig.toml",
  "docs",
];
const nativeParts = ["libvmm.so", "libvmm-unicorn.so", "vmd-launch", "bench/exit_loop.so"].map(
  (name) => `native/build/${name}`,
);

/** The host's programs that vmd and its tests run, if they are there; busybox has other ones. */
const programs = ["ip", "nft", "passt", "iperf3", "unshare", "nsenter", "setpriv"];

/** npm packages that only work on the sources. */
const forDevelopment = ["typescript", "oxlint", "bun-types", "undici-types"];

export interface PayloadOptions {
  /** With QEMU and its firmware, to measure against. */
  qemu?: boolean;
}

/** Path of the payload image. */
export function payload({ qemu = false }: PayloadOptions = {}): string {
  const tree = payloadTree(qemu);
  const key = new Bun.CryptoHasher("sha256");
  for (const [to, from] of tree) {
    const { size, mtimeMs } = statSync(from);
    key.update(`${to}\0${from}\0${size}\0${mtimeMs}\n`);
  }
  const name = `payload${qemu ? "-qemu" : ""}-`;
  const image = join(labCache, `${name}${key.digest("hex").slice(0, 16)}.img`);
  if (existsSync(image)) {
    // The newest are kept.
    utimesSync(image, new Date(), new Date());
    return image;
  }
  mkdirSync(labCache, { recursive: true });
  makeImage(tree, image);
  const old = readdirSync(labCache)
    .filter((entry) => entry.startsWith(name) && /-[0-9a-f]{16}\.img$/.test(entry))
    .map((entry) => join(labCache, entry))
    .sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
  for (const path of old.slice(2)) rmSync(path, { force: true });
  return image;
}

/** Every file of the payload: its path in L1 and its path here. */
function payloadTree(qemu: boolean): Map<string, string> {
  const tree = new Map<string, string>();
  tree.set("bin/busybox", guestFile("busybox", "busybox"));
  addProgram(tree, join(root, "node_modules/bun/bin/bun.exe"), "bin/bun");
  for (const program of programs) {
    const path = which(program);
    if (path !== null) addProgram(tree, path, `bin/${program}`);
  }
  const software = join(root, "native/build/libvmm-unicorn.so");
  for (const library of [...(existsSync(software) ? libraries(software) : []), "libgcc_s.so.1"]) {
    const path = library.startsWith("/") ? library : `/lib/x86_64-linux-gnu/${library}`;
    if (existsSync(path)) tree.set(path.slice(1), realpathSync(path));
  }
  const packages = readdirSync(join(root, "node_modules")).filter(
    (name) => !/^[.@]/.test(name) && name !== "bun" && !forDevelopment.includes(name),
  );
  for (const name of [...packages, "@chevrotain", "@colors"])
    addFolder(tree, join(root, "node_modules", name), `project/node_modules/${name}`);
  const guests = join(cache, "guests");
  // Archives made from these files are made there again: they come and go.
  const sources = readdirSync(guests).filter((name) => !/^\.|^initrd$/.test(name));
  for (const name of sources) addFolder(tree, join(guests, name), `project/.cache/guests/${name}`);
  if (qemu) addQemu(tree);
  return tree;
}

function addQemu(tree: Map<string, string>) {
  const path = Bun.which("qemu-system-x86_64");
  if (!path) throw new Error("qemu-system-x86_64 is missing: install qemu-system-x86.");
  addProgram(tree, path, "usr/bin/qemu-system-x86_64");
  const roms = ["bios-256k.bin", "bios-microvm.bin", "qboot.rom", "pvh.bin", "kvmvapic.bin"];
  roms.push("linuxboot.bin", "linuxboot_dma.bin", "multiboot.bin", "multiboot_dma.bin");
  for (const rom of roms)
    for (const folder of ["/usr/share/qemu", "/usr/share/seabios"])
      if (existsSync(join(folder, rom)))
        tree.set(`usr/share/qemu/${rom}`, realpathSync(join(folder, rom)));
}

const which = (name: string) => Bun.which(name, { PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

function addProgram(tree: Map<string, string>, path: string, to: string) {
  tree.set(to, realpathSync(path));
  for (const library of libraries(path)) tree.set(library.slice(1), realpathSync(library));
}

/** Absolute paths of the shared libraries that a program or library loads. */
function libraries(path: string): string[] {
  const { stdout, exitCode } = Bun.spawnSync(["ldd", path], { env: { LC_ALL: "C" } });
  if (exitCode !== 0) throw new Error(`ldd can't read ${path}`);
  return [...stdout.toString().matchAll(/(?:=>|^)\s*(\/\S+)/gm)].map(([, library]) => library);
}

function addFolder(tree: Map<string, string>, from: string, to: string) {
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const path = join(from, entry.name);
    if (entry.isDirectory()) addFolder(tree, path, `${to}/${entry.name}`);
    else if (entry.isFile()) tree.set(`${to}/${entry.name}`, path);
  }
}

function makeImage(tree: Map<string, string>, image: string) {
  const work = mkdtempSync(join(labCache, ".payload-"));
  try {
    const top = join(work, "top");
    let bytes = 0;
    for (const [to, from] of tree) {
      const path = join(top, to);
      mkdirSync(dirname(path), { recursive: true });
      place(from, path);
      bytes += Math.ceil(statSync(from).size / 4096 + 1) * 4096;
    }
    for (const folder of ["proc", "sys", "dev", "tmp", "job", "vmd", "root", "etc", "run", "var"])
      mkdirSync(join(top, folder), { recursive: true });
    const busybox = join(top, "bin/busybox");
    for (const applet of Bun.spawnSync([busybox, "--list"]).stdout.toString().trim().split("\n"))
      if (!existsSync(join(top, "bin", applet))) symlinkSync("busybox", join(top, "bin", applet));
    const mke2fs = which("mke2fs");
    if (!mke2fs) throw new Error("mke2fs is missing: install e2fsprogs.");
    // No journal, no reserved blocks; some room for what jobs write.
    const size = `${Math.ceil((bytes * 1.1) / (1 << 20)) + 256}m`;
    const args = [
      "-q",
      "-t",
      "ext4",
      "-O",
      "^has_journal",
      "-m",
      "0",
      "-d",
      top,
      `${work}/image`,
      size,
    ];
    const { exitCode, stderr } = Bun.spawnSync([mke2fs, ...args]);
    if (exitCode !== 0) throw new Error(`mke2fs: ${stderr.toString().trim()}`);
    renameSync(`${work}/image`, image);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** The same file under another path: a link where that is possible. */
function place(from: string, to: string) {
  try {
    linkSync(from, to);
  } catch {
    copyFileSync(from, to);
  }
}

/** The project as an initramfs part: /vmd. */
export function projectArchive(): Uint8Array {
  const entries: CpioEntry[] = [];
  const add = (path: string) => {
    const from = join(root, path);
    if (!existsSync(from)) return;
    const status = lstatSync(from);
    if (status.isDirectory()) for (const name of readdirSync(from).sort()) add(join(path, name));
    else if (status.isSymbolicLink())
      entries.push(entry(path, S_IFLNK | 0o777, Buffer.from(readlinkSync(from))));
    else if (status.isFile())
      entries.push(entry(path, S_IFREG | (status.mode & 0o777), readFileSync(from)));
  };
  [...projectParts, ...nativeParts].forEach(add);
  // An archive has no times: over there, bundles that are older than the sources would be run.
  if (programPath("vctl/main.ts").startsWith(join(root, "build"))) add("build");
  return writeCpio(entries);
}

const entry = (path: string, mode: number, data: Uint8Array): CpioEntry => ({
  path: `vmd/${path}`,
  mode,
  data,
});
