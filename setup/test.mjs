// `npm test`: sets up what is missing, then checks and tests everything.
//
//   npm test                          all of it
//   npm test -- PATH…                 only the test files whose path contains one of these
//   npm test -- --native asan         the tests on a native build with AddressSanitizer
//   npm test -- --native ubsan        ... with UndefinedBehaviorSanitizer
//
// The last line is `N passed, N failed`, and `, N skipped` if any were. Type check,
// lint, format check and the native build count as one each.

import { existsSync } from "node:fs";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { parseArgs, stripVTControlCharacters } from "node:util";
import { systemPackages } from "./apt.mjs";
import { guestFiles } from "./guests.mjs";
import { bundles, make, native } from "./native.mjs";
import { bun, nodeModules } from "./node-modules.mjs";
import { main, root, run, seconds, step, Stop } from "./steps.mjs";

const bin = join(root, "node_modules/.bin");
const sources = ["src", "golden", "bench", "lab", "fuzz", "setup"].filter((folder) =>
  existsSync(join(root, folder)),
);

/** What reads the sources only. Each counts as one. */
async function checks(total) {
  console.log("Checks");
  await count(total, "types (bun check)", () => run(bun, ["check"]));
  await count(total, "lint (oxlint)", () => run(join(bin, "oxlint"), ["--deny-warnings"]));
  await count(total, "format (bun fmt --check)", () => run(bun, ["fmt", "--check", ...sources]));
}

async function build(total, sanitizer) {
  const args = ["WERROR=1", ...(sanitizer ? [`SAN=${sanitizer}`] : [])];
  await count(total, `native build (make ${args.join(" ")})`, () => make(args));
  await count(total, "bundles (bun build)", () => bundles(bun));
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
  const preload = `${output.trim()}:${join(env.VMM_NATIVE, "altstack.so")}`;
  return { ...env, LD_PRELOAD: preload, ASAN_OPTIONS: options };
}

/** Runs `bun test` with its output shown as it comes; gives the counts. */
async function tests(filters, env) {
  const where = filters.length ? filters : sources.map((name) => `./${name}`);
  const { code, signal, seen, summary, failures } = await watch(
    ["test", "--timeout=120000", ...where],
    env,
  );
  const counts = summary ?? seen;
  // Bun's own end, before its summary or after, is in no count.
  if (!summary || (code !== 0 && counts.failed === 0)) {
    console.log(`bun test ended with ${signal ?? `status ${code}`}.`);
    counts.failed++;
  }
  // Once more, where they are found: there are thousands of lines above.
  for (const failure of failures) console.log(`\n${failure.join("\n")}`);
  return counts;
}

/** Of the lines before a failed test's own, those that are printed again at the end, at most. */
const REPEATED = 60;

/**
 * `summary` is what Bun says at its end: " 12 pass", " 1 fail", " 2 skip" (its JUnit report
 * leaves out errors outside of tests). `seen` counts the lines about single tests: all there
 * is if Bun dies. `failures` are the failed tests' lines: what was printed since the test before.
 */
function watch(args, env) {
  return new Promise((done, failed) => {
    const child = spawn(bun, args, {
      cwd: root,
      env: { ...process.env, ...(process.stdout.isTTY ? { FORCE_COLOR: "1" } : {}), ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const seen = { passed: 0, failed: 0, skipped: 0 };
    const failures = [];
    let summary;
    let recent = [];
    let over = false;
    const read = (line) => {
      const single = /^(\(pass\)|✓|\(fail\)|✗|\(skip\)|»|\(todo\)|✎) /.exec(line)?.[1];
      recent.push(line);
      // Bun names them again at its end, without what they said.
      over ||= /^\d+ tests? failed:$/.test(line);
      if (single) {
        seen[meaning[single]]++;
        if (meaning[single] === "failed" && !over) failures.push(recent.slice(-REPEATED));
        recent = [];
      }
      const [, number, what] = /^ +(\d+) (pass|fail|skip|todo)$/.exec(line) ?? [];
      if (what === "pass") summary = { passed: 0, failed: 0, skipped: 0 };
      if (what && summary) summary[meaning[`(${what})`]] += Number(number);
    };
    for (const stream of [child.stdout, child.stderr]) {
      let rest = "";
      stream.setEncoding("utf8");
      stream.on("data", (text) => {
        process.stdout.write(text);
        const lines = (rest + stripVTControlCharacters(text)).split("\n");
        rest = lines.pop();
        lines.forEach(read);
      });
    }
    child.on("error", failed);
    child.on("close", (code, signal) => done({ code, signal, seen, summary, failures }));
  });
}

/** Bun's words and signs. */
const meaning = {
  "(pass)": "passed",
  "(fail)": "failed",
  "(skip)": "skipped",
  "(todo)": "skipped",
  "✓": "passed",
  "✗": "failed",
  "»": "skipped",
  "✎": "skipped",
};

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
