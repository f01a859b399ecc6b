// `npm run demo`: sets up what is missing, then boots a stock Debian kernel to a shell
// in this terminal. Without a terminal it types into that shell itself and checks the answer.
// Arguments go to vctl: npm run demo -- --engine unicorn

import { spawn } from "node:child_process";
import { join, relative } from "node:path";
import { systemPackages } from "./apt.mjs";
import { guestFiles } from "./guests.mjs";
import { bundles, native } from "./native.mjs";
import { bun, nodeModules } from "./node-modules.mjs";
import { cache, main, root, run, seconds, Stop } from "./steps.mjs";

const vctl = (args, stdio) =>
  spawn(bun, ["src/vctl/index.ts", ...args], { cwd: root, stdio: [stdio, stdio, "inherit"] });

/** The terminal is the guest's console. */
function watch(args) {
  const child = vctl(args, "inherit");
  process.on("SIGINT", () => {}); // it goes to vctl
  return new Promise((done) => child.on("close", (code) => done(code ?? 1)));
}

/** What is typed at the shell, and the line that has to come back. */
const dialogue = [
  { type: "echo $((6*7))", expect: /^42\r?$/m },
  { type: "uname -m", expect: /^x86_64\r?$/m },
];

/** Types into the guest's shell and reads what it answers. */
function prove(args) {
  const child = vctl(args, "pipe");
  const left = [...dialogue];
  const prompt = /demo \S+ # /;
  const limit = setTimeout(() => child.kill(), 180_000);
  let text = "";
  let waiting = prompt;
  child.stdout.setEncoding("utf8");
  child.stdin.on("error", () => {});
  child.stdout.on("data", (data) => {
    process.stdout.write(data);
    text += data;
    if (!waiting?.test(text)) return;
    text = "";
    const next = left.shift();
    waiting = next?.expect;
    child.stdin.write(`${next?.type ?? "exit"}\r`);
  });
  return new Promise((done, failed) => {
    child.on("close", (code) => {
      clearTimeout(limit);
      if (waiting) return failed(new Stop("the guest did not answer as it should have."));
      console.log(`\nThe guest booted, answered and powered off (${seconds()} in all).`);
      done(code ?? 1);
    });
  });
}

await main("demo", async () => {
  console.log("Set-up");
  await systemPackages();
  await nodeModules();
  await native();
  await bundles(bun);
  await guestFiles({ demo: true });
  const initrd = (await run(bun, ["golden/guests/demo.ts"])).output.trim();
  console.log(`  all there (${seconds()})\n`);

  const path = (file) => relative(root, file);
  const args = ["start", "-c", "-m", "256M"];
  args.push("-b", path(join(cache, "guests/linux-amd64/vmlinuz")), "-i", path(initrd));
  args.push("-a", "console=ttyS0", ...process.argv.slice(2), "demo");
  console.log(`$ bun vctl ${args.join(" ")}`);
  return process.stdin.isTTY ? watch(args) : prove(args);
});
