// The lab: a real AMD-V KVM host by emulation, for the KVM engine. QEMU emulates a CPU
// with SVM and nested paging; the Linux in it ("L1") has a true kvm_amd, in which the
// guests of a job ("L2") run. Nothing here knows what a job is for.
//
//   bun lab -- COMMAND…       runs it in L1, in a copy of this project at /vmd
//   bun lab --qemu -- COMMAND…      with QEMU there, too
//   bun lab --networks -- COMMAND…  with taps, bridges and nftables in its kernel
//
// Its output and exit status are those of the command.

export { labMissing, runInLab } from "./run.ts";
export type { LabOptions, LabResult } from "./run.ts";
import { runInLab } from "./run.ts";
import type { LabOptions } from "./run.ts";

const usage = "usage: bun lab [--qemu] [--networks] [--timeout seconds] [--memory MiB] -- COMMAND…";

/** Our options stand before the command's first word; all behind it is the command's. */
function parse(words: string[]): { options: LabOptions; command: string[] } | undefined {
  const options: LabOptions = { timeout: 3600 };
  while (words[0]?.startsWith("-")) {
    const word = words.shift();
    if (word === "--") break;
    if (word === "--qemu") options.qemu = true;
    else if (word === "--networks") options.networks = true;
    else if (word === "--timeout" && Number(words[0]) > 0) options.timeout = Number(words.shift());
    else if (word === "--memory" && Number(words[0]) > 0) options.memory = Number(words.shift());
    else return undefined;
  }
  return words.length ? { options, command: words } : undefined;
}

async function main(): Promise<number> {
  const parsed = parse(process.argv.slice(2));
  if (!parsed) {
    console.error(usage);
    return 2;
  }
  const { code } = await runInLab(parsed.command, {
    ...parsed.options,
    onStdout: (data) => void process.stdout.write(data),
    onStderr: (data) => void process.stderr.write(data),
  });
  return code;
}

if (import.meta.main)
  main().then(
    (code) => process.exit(code),
    (error) => {
      console.error(error.message);
      process.exit(125);
    },
  );
