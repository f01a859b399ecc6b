/**
 * The software engine under guests that would break its cache of translated code: hostile.S, and
 * 600 bytes of a fuzzer's that rewrite themselves all over low memory. A child process runs each,
 * with a buffer of 1 MiB (VMM_CODE_BUFFER_MIB) that fills many times: what goes wrong here is the
 * end of the process.
 */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { probe } from "../../src/vmm/engine.ts";
import type { SmallOptions } from "./harness.ts";

const there = probe("unicorn").available && process.env.VMD_LAB === undefined;

function run(name: string, entry: "flat" | "rom", options: SmallOptions) {
  const guest = { name, entry, emulated: false, sameExits: false, notInLab: true };
  const script = `
    import { runSmall } from ${JSON.stringify(join(import.meta.dir, "harness.ts"))};
    const { console: text, ending } = runSmall(
      ${JSON.stringify(guest)}, "unicorn", ${JSON.stringify(options)});
    process.stdout.write(JSON.stringify([text, ending]));`;
  const { stdout, stderr, exitCode, signalCode } = Bun.spawnSync([process.execPath, "-e", script], {
    env: { ...process.env, VMM_CODE_BUFFER_MIB: "1" },
    stdout: "pipe",
    stderr: "pipe",
  });
  expect([exitCode, signalCode, stderr.toString()]).toEqual([0, undefined, ""]);
  return JSON.parse(stdout.toString()) as [string, string];
}

test.skipIf(!there)(
  "more code than the buffer holds, and breakpoints that a task switch takes away",
  () => {
    const [text, ending] = run("hostile", "flat", {});
    expect(text.split("\n").filter((line) => line.includes("FAILED"))).toEqual([]);
    expect(ending).toBe("exit 0");
  },
  60_000,
);

test.skipIf(!there)(
  "a fuzzer's firmware",
  () => {
    const [, ending] = run("hostile-firmware", "rom", { deadline: 1000, virtualTime: false });
    expect(ending).toBe("not ended by itself");
  },
  60_000,
);
