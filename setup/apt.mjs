// What comes from Debian's archive: packages that are installed (a compiler,
// libunicorn, QEMU) and packages that are only opened (guest kernels).

import { mkdirSync, readdirSync } from "node:fs";
import { find, present, run, step, Stop } from "./steps.mjs";

/** package: a command or a file that proves it is there. Looked for on every start, so cheap. */
const forBoot = {
  gcc: ["gcc"],
  make: ["make"],
  "libc6-dev": ["/usr/include/stdio.h"],
  "linux-libc-dev": ["/usr/include/linux/kvm.h"],
  "libunicorn-dev": ["/usr/include/unicorn/unicorn.h"],
};
const forTests = {
  ...forBoot,
  binutils: ["as", "objcopy"],
  e2fsprogs: ["mke2fs"],
  gdb: ["gdb"],
  iproute2: ["/usr/share/doc/iproute2"],
  nftables: ["/usr/sbin/nft"],
  passt: ["passt"],
  "qemu-system-x86": ["qemu-system-x86_64"],
  "qemu-utils": ["qemu-img", "qemu-io"],
  "redis-server": ["redis-server"],
};

const missing = (packages) =>
  Object.keys(packages).filter((name) => !packages[name].every((proof) => present(proof)));

/** Installs what a boot (or, with `tests`, the test suite) needs of the system. */
export async function systemPackages({ tests = false } = {}) {
  const names = missing(tests ? forTests : forBoot);
  if (names.length === 0) return;
  const please = `install ${names.join(", ")}`;
  if (!find("apt-get"))
    throw new Stop(
      `there is no apt here; please ${please} (the names are Debian's) and run this again.`,
    );
  const become = await asRoot();
  if (!become)
    throw new Stop(
      `neither root nor sudo; please run as root: apt-get ${please.replaceAll(",", "")}`,
    );
  await step(`installing ${names.join(", ")}`, async () => {
    const install = () =>
      apt(become, ["install", "-y", "--no-install-recommends", ...names], { check: false });
    if ((await install()).code === 0) return;
    // Most often the package lists are missing or too old.
    await updateOnce(become);
    const { code, output } = await install();
    if (code !== 0) throw new Stop(`apt-get could not ${please}:\n${tail(output)}`);
  });
  const still = missing(tests ? forTests : forBoot);
  if (still.length) throw new Stop(`installed, but not found afterwards: ${still.join(", ")}.`);
}

/**
 * Downloads a package into a folder without installing it and returns the
 * .deb's path. A name with a group in it, as in `linux-image-6\.1\.0-(\d+)-…`,
 * is a pattern: the highest number is taken. Needs no root, unless the
 * package lists have to be brought up to date.
 */
export async function download(name, folder) {
  mkdirSync(folder, { recursive: true });
  const fetch = async () => {
    const newest = await resolveName(name);
    if (!newest) return { code: 1, output: `No package has a name like ${readable(name)}.` };
    return run("apt-get", [...unsandboxed(), "-q", "download", newest], {
      cwd: folder,
      check: false,
    });
  };
  let result = await fetch();
  if (result.code !== 0) {
    const become = await asRoot();
    if (!become)
      throw new Stop(
        `can't download ${readable(name)}; please run \`apt-get update\` as root first.\n${tail(result.output)}`,
      );
    await updateOnce(become);
    result = await fetch();
  }
  if (result.code !== 0)
    throw new Stop(`can't download ${readable(name)}:\n${tail(result.output)}`);
  const file = readdirSync(folder).find((entry) => entry.endsWith(".deb"));
  if (!file)
    throw new Stop(`apt-get said that it downloaded ${readable(name)}, but there is no file.`);
  return `${folder}/${file}`;
}

/** A pattern as people write it. */
export const readable = (name) => name.replaceAll("\\", "").replace(/\(.*?\)/g, "*");

async function resolveName(name) {
  if (!name.includes("(")) return name;
  const whole = new RegExp(`^${name}$`);
  const prefix = name.replaceAll("\\", "").split("(")[0];
  const { output } = await run("apt-cache", ["pkgnames", prefix], { check: false });
  return output
    .split("\n")
    .filter((line) => whole.test(line))
    .sort((a, b) => Number(whole.exec(b)[1]) - Number(whole.exec(a)[1]))[0];
}

/** The words to put before a command to run it as root; undefined if there is no way. */
async function asRoot() {
  if (process.getuid?.() === 0) return [];
  if (!find("sudo")) return undefined;
  if ((await run("sudo", ["-n", "true"], { check: false })).code === 0) return ["sudo", "-n"];
  return process.stdin.isTTY ? ["sudo"] : undefined;
}

function apt(become, args, options) {
  const command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"];
  const [first, ...rest] = [...become, ...command, "-o", "DPkg::Lock::Timeout=120", ...args];
  return run(first, rest, { ...options, input: become.length ? "inherit" : "ignore" });
}

const update = (become) => apt(become, ["update"], { check: false });
let updated;
const updateOnce = (become) => (updated ??= update(become));

// As root apt would drop to a user that may not be able to write here, and warn about it.
const unsandboxed = () => (process.getuid?.() === 0 ? ["-o", "APT::Sandbox::User=root"] : []);

const tail = (output) => output.trimEnd().split("\n").slice(-12).join("\n");
