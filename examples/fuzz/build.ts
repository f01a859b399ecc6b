/**
 * The examples' guests: `bun examples/fuzz/build.ts [FOLDER]`, docs/fuzzing-*.md. Needs gcc, and
 * `node setup/guests.mjs` to have been run; for tinyfs the kernel's headers.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { buildBare } from "../../fuzz/harness/build.ts";
import { initramfs, moduleFiles, packageOf, prepare } from "../../golden/guests/index.ts";

const here = import.meta.dir;
const harness = resolve(here, "../../fuzz/harness");
/** So that overwritten stacks are noticed, and frames can be told. */
const FLAGS = "-O1 -g -static -Wall -Wextra -fstack-protector-strong -fno-omit-frame-pointer";
const BARE_FLAGS =
  "-fsanitize=bounds -fsanitize-undefined-trap-on-error -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION";

/** Ends in a shell, from which what is to be fuzzed is started. */
const SHELL = `setsid cttyhack sh
poweroff -f
`;

function run(words: readonly string[]): void {
  const { exitCode, stderr } = Bun.spawnSync([...words]);
  if (exitCode !== 0) throw new Error(`${words.join(" ")}:\n${stderr.toString()}`);
}

function program(source: string, out: string): string {
  run(["gcc", ...FLAGS.split(" "), `-I${harness}`, "-o", out, join(here, source)]);
  return out;
}

/** A program for a bare machine: ihex.elf. */
export function buildIhex(folder: string): string {
  return buildBare([join(here, "ihex.c")], join(folder, "ihex.elf"), BARE_FLAGS.split(" "));
}

/** A Linux guest's program, and its initramfs: dns and dns.cpio. */
export async function buildDns(folder: string): Promise<{ program: string; initrd: string }> {
  const dns = program("dns.c", join(folder, "dns"));
  const initrd = join(folder, "dns.cpio");
  const files = { "bin/dns": readFileSync(dns) };
  writeFileSync(initrd, await initramfs({ init: `${prepare}${SHELL}`, files }));
  return { program: dns, initrd };
}

/**
 * An initramfs whose guest mounts its disk, as the file system that "fs=" of its command line names:
 * mount.cpio. @param module tinyfs.ko, if it can be had
 */
export async function buildMount(folder: string, module?: string): Promise<string> {
  const mount = program("mount.c", join(folder, "mount-once"));
  const { files, load } = moduleFiles("linux-amd64", "virtio_pci", "virtio_blk");
  // Before the others: then it lies at the same address in each boot with nokaslr.
  const tinyfs = module === undefined ? "" : "insmod /lib/tinyfs.ko\n";
  const init = `${prepare}${tinyfs}${load}
for word in $(cat /proc/cmdline); do
  case $word in
    symbols) cat /proc/kallsyms; poweroff -f;;
    fs=ext4) mount-once ext4 errors=continue;;
    fs=*) mount-once \${word#fs=};;
  esac
done
${SHELL}`;
  const initrd = join(folder, "mount.cpio");
  files["bin/mount-once"] = readFileSync(mount);
  if (module !== undefined) files["lib/tinyfs.ko"] = readFileSync(module);
  writeFileSync(initrd, await initramfs({ init, files }));
  return initrd;
}

/** The headers of the guests' kernel; undefined: they aren't there. KERNEL_HEADERS says another place. */
function headers(): string | undefined {
  const [, release] = /^linux-image-(.*)-unsigned_/.exec(packageOf("linux-amd64") ?? "") ?? [];
  const folder = process.env.KERNEL_HEADERS ?? `/usr/src/linux-headers-${release}`;
  return existsSync(folder) ? folder : undefined;
}

/** tinyfs.ko, of the guests' kernel; undefined: its headers aren't there. */
export function buildTinyfs(folder: string): string | undefined {
  const kernel = headers();
  if (kernel === undefined) return undefined;
  const sources = join(folder, "tinyfs");
  cpSync(join(here, "tinyfs"), sources, { recursive: true });
  run(["make", "-C", kernel, `M=${sources}`, "modules"]);
  return join(sources, "tinyfs.ko");
}

/** An ext4 image of 64 KiB with a file, a folder and a link: seeds-ext4/image. */
function buildExt4(folder: string): void {
  const content = join(folder, "content");
  mkdirSync(join(content, "folder"), { recursive: true });
  writeFileSync(join(content, "file"), "file\n");
  writeFileSync(join(content, "folder/other"), "other\n");
  mkdirSync(join(folder, "seeds-ext4"), { recursive: true });
  const image = join(folder, "seeds-ext4/image");
  const features = "^has_journal,^metadata_csum,^resize_inode";
  const options = `-q -F -t ext4 -b 1024 -N 16 -O ${features} -d ${content}`;
  run(["mke2fs", ...options.split(" "), image, "64k"]);
}

function writeSeeds(folder: string): void {
  const seed = (kind: string, name: string, data: string | Uint8Array) => {
    mkdirSync(join(folder, `seeds-${kind}`), { recursive: true });
    writeFileSync(join(folder, `seeds-${kind}`, name), data);
  };
  seed("ihex", "four-bytes", ":0400100001020304E2\n:00000001FF\n");
  seed("dns", "query", DNS_QUERY);
  seed("tinyfs", "two-files", "TINY\x01\x02\x05hello\x05world");
  writeFileSync(join(folder, "disk.img"), new Uint8Array(65_536));
}

/** www.example.com, type A, class IN. */
export const DNS_QUERY = Buffer.from(
  "\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01",
  "latin1",
);

if (import.meta.main) {
  const folder = resolve(process.argv[2] ?? "fuzz-examples");
  mkdirSync(folder, { recursive: true });
  writeSeeds(folder);
  buildIhex(folder);
  await buildDns(folder);
  const module = buildTinyfs(folder);
  if (module === undefined) console.log("without tinyfs: the kernel's headers aren't there");
  await buildMount(folder, module);
  if (Bun.which("mke2fs") === null) console.log("without an ext4 image: there is no mke2fs");
  else buildExt4(folder);
  console.log(folder);
}
