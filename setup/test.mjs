// `npm test`: sets up what is missing, then checks and tests everything.
//
//   npm test                          all of it
//   npm test -- PATH…                 only the test files whose path contains one of these
//   npm test -- --native asan         the tests on a native build with AddressSanitizer
//   npm test -- --native ubsan        ... with UndefinedBehaviorSanitizer
//
// The last line is `N passed, N failed`, and `, N skipped` if any were. Type check,
// lint, format check and the native build count as one each.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { systemPackages } from "./apt.mjs";
import { guestFiles } from "./guests.mjs";
import { native } from "./native.mjs";
import { bun, nodeModules } from "./node-modules.mjs";
import { cache, main, root, run, seconds, step, Stop } from "./steps.mjs";

const bin = join(root, "node_modules/.bin");
const sources = ["src", "golden", "bench", "lab", "fuzz", "setup"].filter((folder) =>
  existsSync(join(root, folder)),
);

await main("test", async () => {
  const { values, positionals } = parseArgs({
    options: { native: { type: "string" } },
    allowPositionals: true,
  });
  const sanitizer = values.native;
  if (sanitizer && !["asan", "ubsan"].includes(sanitizer))
    throw new Stop(`--native is asan or ubsan, not ${sanitizer}.`);

  console.log("Set-up");
  await systemPackages({ tests: true });
  await nodeModules({ dev: true });
  await guestFiles();
  console.log(`  all there (${seconds()})\n`);

  const total = { passed: 0, failed: 0, skipped: 0 };
  if (positionals.length === 0) await checks(total);
  await build(total, sanitizer);
  console.log("\nTests");
  const counts = await tests(positionals, await environment(sanitizer));
  for (const key of Object.keys(total)) total[key] += counts[key];

  const skipped = total.skipped ? `, ${total.skipped} skipped` : "";
  console.log(`\nTook ${seconds()}.`);
  console.log(`${total.passed} passed, ${total.failed} failed${skipped}`);
  return total.failed ? 1 : 0;
});

/** What reads the sources only. Each counts as one. */
async function checks(total) {
  console.log("Checks");
  await count(total, "types (bun check)", () => run(bun, ["check"]));
  await count(total, "lint (oxlint)", () => run(join(bin, "oxlint"), ["--deny-warnings"]));
  await count(total, "format (bun fmt --check)", () => run(bun, ["fmt", "--check", ...sources]));
}

async function build(total, sanitizer) {
  const args = ["-C", "native", "WERROR=1", ...(sanitizer ? [`SAN=${sanitizer}`] : [])];
  await count(total, `native build (make ${args.slice(2).join(" ")})`, () => run("make", args));
  // With warnings it may still do for the tests.
  if (total.failed && !sanitizer) await native().catch(() => {});
}

async function count(total, title, work) {
  try {
    await step(title, work);
    total.passed++;
  } catch (error) {
    if (!(error instanceof Stop)) throw error;
    console.log(error.message.replace(/^/gm, "    "));
    total.failed++;
  }
}

async function environment(sanitizer) {
  if (!sanitizer) return {};
  const env = { VMM_NATIVE: join(root, `native/build-${sanitizer}`) };
  if (sanitizer === "ubsan") return { ...env, UBSAN_OPTIONS: "print_stacktrace=1" };
  const { output } = await run("gcc", ["-print-file-name=libasan.so"]);
  // Leaks: Bun frees little at its end. Signals: Bun has handlers of its own.
  const options = "detect_leaks=0:handle_segv=0:handle_sigbus=0:allow_user_segv_handler=1";
  return { ...env, LD_PRELOAD: output.trim(), ASAN_OPTIONS: options };
}

/** Runs `bun test` with its output shown as it comes; gives the counts. */
async function tests(filters, env) {
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(join(cache, "test-"));
  try {
    const report = join(folder, "report.xml");
    const where = filters.length ? filters : sources.map((name) => `./${name}`);
    const args = ["test", "--timeout=120000", "--reporter=junit", `--reporter-outfile=${report}`];
    const { code, signal, seen } = await watch([...args, ...where], env);
    const reported = existsSync(report);
    const counts = reported ? readReport(readFileSync(report, "utf8")) : seen;
    // Bun's own end, or an error outside of any test, is in no count.
    if (!reported || (code !== 0 && counts.failed === 0)) {
      console.log(
        `bun test ended with ${signal ?? `status ${code}`}${reported ? "" : " before it was done"}.`,
      );
      counts.failed++;
    }
    return counts;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** `seen` counts the lines that tell of a test: all there is if Bun dies before its report. */
function watch(args, env) {
  return new Promise((done, failed) => {
    const child = spawn(bun, args, {
      cwd: root,
      env: { ...process.env, ...(process.stdout.isTTY ? { FORCE_COLOR: "1" } : {}), ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const seen = { passed: 0, failed: 0, skipped: 0 };
    for (const stream of [child.stdout, child.stderr]) {
      let rest = "";
      stream.setEncoding("utf8");
      stream.on("data", (text) => {
        process.stdout.write(text);
        const lines = (rest + text).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          // eslint-disable-next-line no-control-regex
          const plain = line.replace(/\x1b\[[0-9;]*m/g, "");
          if (/^(\(pass\)|✓) /.test(plain)) seen.passed++;
          if (/^(\(fail\)|✗) /.test(plain)) seen.failed++;
          if (/^(\(skip\)|\(todo\)|»|✎) /.test(plain)) seen.skipped++;
        }
      });
    }
    child.on("error", failed);
    child.on("close", (code, signal) => done({ code, signal, seen }));
  });
}

function readReport(xml) {
  const head = /<testsuites\b[^>]*>/.exec(xml)?.[0] ?? "";
  const number = (name) => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(head)?.[1] ?? 0);
  const failed = number("failures") + number("errors");
  const skipped = number("skipped");
  return { passed: number("tests") - failed - skipped, failed, skipped };
}
