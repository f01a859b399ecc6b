// Fetches the guests' files: `node setup/guests.mjs [--demo]`.
// golden/guests/packages.json says which package each comes from and which of
// its files are kept; golden/guests/guest.ts describes where they then lie.

import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
} from "node:fs";
import { renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { download, readable } from "./apt.mjs";
import { cache, find, main, root, run, step, Stop } from "./steps.mjs";

const sources = JSON.parse(readFileSync(join(root, "golden/guests/packages.json"), "utf8"));
const guests = join(cache, "guests");

/** Brings in what is missing: all guests, or with `demo` only what the demo boots. */
export async function guestFiles({ demo = false } = {}) {
  const wanted = Object.keys(sources).filter(
    (name) => (!demo || sources[name].demo) && !isComplete(name),
  );
  if (wanted.length === 0) return;
  if (!find("apt-get") || !find("dpkg-deb")) throw new Stop(byHand(wanted));
  await step(`fetching ${wanted.join(", ")}`, () => Promise.all(wanted.map(fetchOne)));
}

function byHand(names) {
  const list = names.map((name) => {
    const files = Object.entries(sources[name].files).map(([to, from]) => `${from} as ${to}`);
    return `into ${join(guests, name)} ${files.join(", ")} of ${readable(sources[name].package)}`;
  });
  return `there is no apt here; please put files of Debian's packages in place: ${list.join("; ")}.`;
}

// Written last. It names the package, and holds a digest of the list of files, so
// that a file that is added to the list is fetched.
const stamp = (name) => join(guests, name, "package");
const digest = (name) => createHash("sha256").update(JSON.stringify(sources[name])).digest("hex");
function isComplete(name) {
  if (existsSync(stamp(name))) return readFileSync(stamp(name), "utf8").includes(digest(name));
  // Put there by hand.
  return Object.keys(sources[name].files).every((file) => existsSync(join(guests, name, file)));
}

async function fetchOne(name) {
  const { package: pattern, files = {}, folders = {} } = sources[name];
  mkdirSync(guests, { recursive: true });
  const work = mkdtempSync(join(guests, `.${name}-`));
  try {
    const deb = await download(pattern, join(work, "deb"));
    const opened = join(work, "opened");
    const ready = join(work, "ready");
    const globs = [...Object.values(files), ...Object.values(folders).flat()];
    mkdirSync(opened);
    mkdirSync(ready);
    const script =
      'dpkg-deb --fsys-tarfile "$1" >"$2.tar"; to=$2; shift 2; tar -xf "$to.tar" -C "$to" --wildcards "$@"';
    const members = globs.map((glob) => `./${glob}`);
    const { code, output } = await run("sh", ["-ec", script, "sh", deb, opened, ...members], {
      check: false,
    });
    if (code !== 0) throw new Stop(`can't open ${basename(deb)}:\n${output.trimEnd()}`);
    const found = walk(opened);
    for (const [to, glob] of Object.entries(files)) {
      const path = found.find((entry) => matches(entry, glob));
      if (!path) throw new Stop(`${basename(deb)} holds no ${glob}.`);
      copyFileSync(join(opened, path), join(ready, to));
    }
    for (const [folder, list] of Object.entries(folders)) {
      mkdirSync(join(ready, folder));
      for (const path of found.filter((entry) => list.some((glob) => matches(entry, glob))))
        copyFileSync(join(opened, path), join(ready, folder, basename(path)));
    }
    writeFileSync(join(ready, "package"), `${basename(deb, ".deb")}\n${digest(name)}\n`);
    const old = join(work, "old");
    if (existsSync(join(guests, name))) renameSync(join(guests, name), old);
    renameSync(ready, join(guests, name));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Regular files and links below a folder, relative to it. */
function walk(folder, below = "") {
  return readdirSync(join(folder, below), { withFileTypes: true }).flatMap((entry) => {
    const path = join(below, entry.name);
    return entry.isDirectory() ? walk(folder, path) : [path];
  });
}

// As tar's --wildcards: * matches slashes too.
function matches(path, glob) {
  const pattern = glob.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*");
  return new RegExp(`^${pattern}$`).test(path);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href)
  await main("guests", () => guestFiles({ demo: process.argv.includes("--demo") }));
