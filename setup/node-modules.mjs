// node_modules, and in it Bun, which is the npm package `bun`.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { find, root, run, step, Stop } from "./steps.mjs";

/** The project's own Bun. */
export const bun = join(root, "node_modules/.bin/bun");

/** Installs what package-lock.json lists; without `dev`, only what running needs. */
export async function nodeModules({ dev = false } = {}) {
  if (!isInstalled({ dev })) {
    const fresh = !existsSync(join(root, "node_modules"));
    // Not `ci`: that insists on packages of other platforms, which a mirror may lack.
    const args = ["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"];
    // Not on top of a full installation: that would take the rest away.
    if (!dev && fresh) args.push("--omit=dev");
    await step("installing Bun and the npm packages", () => npm(args));
  }
  if (await works()) return;
  // npm was told not to run install scripts; this one puts the binary in place.
  await step("putting Bun in place", () =>
    run(process.execPath, ["install.js"], { cwd: join(root, "node_modules/bun") }),
  );
  if (!(await works()))
    throw new Stop(
      `Bun doesn't run here (${process.platform} ${process.arch}): try \`${bun} --version\`.`,
    );
}

// By what npm wrote down, not by times: a checkout changes those.
function isInstalled({ dev }) {
  const there = readLock(join(root, "node_modules/.package-lock.json"));
  const wanted = readLock(join(root, "package-lock.json"));
  return (
    !!there &&
    Object.entries(wanted ?? {}).every(
      ([path, { version, dev: isDev, optional }]) =>
        path === "" || optional || (isDev && !dev) || there[path]?.version === version,
    )
  );
}

function readLock(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8")).packages;
  } catch {
    return undefined;
  }
}

function npm(args) {
  // The npm that runs this script, if one does.
  const own = process.env.npm_execpath;
  if (own?.endsWith(".js")) return run(process.execPath, [own, ...args]);
  if (!find("npm")) throw new Stop("there is no npm here: install Node.js 18 or later with npm.");
  return run("npm", args);
}

const works = () =>
  run(bun, ["--version"], { check: false }).then(
    ({ code }) => code === 0,
    () => false,
  );
