// What all set-up scripts share: where things are, how a step is told, how a
// command is run. Plain Node, nothing installed.

import { spawn } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");

/** Everything that is fetched or built besides node_modules and native/build. */
export const cache = resolve(process.env.VMD_CACHE || join(root, ".cache"));

/** An end that the user can do something about: one sentence, no stack. */
export class Stop extends Error {}

/** Runs a script's main function; a Stop becomes its sentence and status 1. */
export async function main(name, body) {
  try {
    process.exitCode = (await body()) ?? 0;
  } catch (error) {
    if (!(error instanceof Stop)) throw error;
    console.log(`${name}: ${error.message}`);
    process.exitCode = 1;
  }
}

const started = Date.now();
export const seconds = (since = started) => ((Date.now() - since) / 1000).toFixed(1) + " s";

/** One line: what is being done, then how long it took. */
export async function step(title, work) {
  const from = Date.now();
  const live = process.stdout.isTTY;
  process.stdout.write(`  ${title} … `);
  const tick =
    live && setInterval(() => process.stdout.write(`\r  ${title} … ${seconds(from)} `), 500);
  try {
    const result = await work();
    process.stdout.write(live ? `\r  ${title} … ${seconds(from)}\n` : `${seconds(from)}\n`);
    return result;
  } catch (error) {
    process.stdout.write("failed\n");
    throw error;
  } finally {
    clearInterval(tick);
  }
}

/** The first of PATH (and the sbin folders, which users often lack) that holds a command. */
export function find(command) {
  const folders = [
    ...(process.env.PATH || "").split(delimiter),
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
  ];
  for (const folder of folders) {
    if (!folder) continue;
    const path = join(folder, command);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {}
  }
  return undefined;
}

export const present = (path) => (path.startsWith("/") ? existsSync(path) : !!find(path));

/**
 * Runs a command. Its output is kept and shown only if it fails, or goes to
 * the terminal with `live`. Gives { code, output }; throws on failure unless
 * `check` is false.
 */
export function run(command, args, { cwd = root, env, live = false, check = true, input } = {}) {
  return new Promise((done, failed) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: [
        input ?? (live ? "inherit" : "ignore"),
        live ? "inherit" : "pipe",
        live ? "inherit" : "pipe",
      ],
    });
    const chunks = [];
    child.stdout?.on("data", (data) => chunks.push(data));
    child.stderr?.on("data", (data) => chunks.push(data));
    child.on("error", (error) => failed(new Stop(`can't run ${command}: ${error.message}`)));
    child.on("close", (status, signal) => {
      const code = status ?? 128;
      const output = Buffer.concat(chunks).toString();
      if (code === 0 || !check) return done({ code, signal, output });
      const tail = output.trimEnd().split("\n").slice(-60).join("\n");
      failed(
        new Stop(
          `\`${[command, ...args].join(" ")}\` ended with ${signal ?? "status " + code}` +
            (tail ? `:\n${tail}` : ""),
        ),
      );
    });
  });
}
