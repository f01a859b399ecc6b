/**
 * Boots one guest again and again, in real time, and holds every log against the golden one.
 *
 *   bun golden/soak.ts [count] [unicorn | kvm]
 *
 * Lines that depend on the host's speed are left out (compare.ts). Where the golden log is of another
 * version of the kernel, the first boot's log is what the others are held against. Prints what
 * differs, and at the end how many boots had a wrong line.
 */
import { join } from "node:path";
import { boot, packageVersion } from "./boot.ts";
import { difference, goldenLog, steadyLines } from "./compare.ts";
import { linuxAmd64 } from "./guests/index.ts";
import { labGuests } from "./lab-boots.ts";
import { normalise } from "./normalise.ts";

const [count = "200", engine = "unicorn"] = process.argv.slice(2);
if (engine !== "unicorn" && engine !== "kvm") {
  console.error(`soak: engine ${engine}: it is unicorn or kvm`);
  process.exit(1);
}
const onKvm = engine === "kvm";
const guest = onKvm ? labGuests["linux-amd64"][0] : linuxAmd64;
const file = join(import.meta.dir, onKvm ? "lab-boots.test.ts" : "boots.test.ts");
const golden = goldenLog(file, guest.name) ?? goldenLog(file, "linux-amd64");
if (golden === undefined) throw new Error(`${file} has no golden log yet`);
const log = async () =>
  steadyLines(normalise(await boot(guest, { engine, virtualTime: false, timeout: 120_000 })));
const isOther = golden.version !== packageVersion(guest);
if (isOther) console.log(`the golden log is of ${golden.version}: the first boot stands for it`);
const expected = isOther ? await log() : steadyLines(golden.lines.join("\n"));

let wrong = 0;
const started = performance.now();
for (let i = 1; i <= Number(count); i++) {
  let problem: string[];
  try {
    const { missing, extra } = difference(expected, await log());
    problem = [...missing.map((line) => `- ${line}`), ...extra.map((line) => `+ ${line}`)];
  } catch (error) {
    problem = [String(error)];
  }
  if (problem.length === 0) continue;
  wrong++;
  console.log(`boot ${i}:\n${problem.join("\n")}`);
}
const seconds = ((performance.now() - started) / 1000).toFixed(0);
console.log(`${count} boots on ${engine} in ${seconds} s, ${wrong} with a wrong line`);
process.exit(wrong === 0 ? 0 : 1);
