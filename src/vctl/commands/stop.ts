/** vctl stop: asks VMs to shut down, or ends them. */
import { Command } from "commander";
import { say, UsageError, vmReference } from "../cli.ts";
import { Client, RefusedError } from "../client.ts";

interface StopOptions {
  all?: boolean;
  force?: boolean;
  wait?: boolean;
}

export function stopCommand(): Command {
  return new Command("stop")
    .description("Stop a VM")
    .argument("[id]", "a VM's id or name")
    .option("-a, --all", "all VMs that run")
    .option("-f, --force", "without asking the guest")
    .option("-w, --wait", "until it is gone")
    .addHelpText("after", "\nExamples:\n  vctl stop web\n  vctl stop -fw 3\n  vctl stop -a")
    .action(stop);
}

function stop(id: string | undefined, { all, force, wait }: StopOptions): void {
  if (all && id !== undefined) throw new UsageError("both -a and an id");
  const vm = all ? undefined : vmReference(id);
  using client = Client.connect();
  const who = id === undefined ? "stopping vms" : `stopping vm ${id}`;
  let vms: { vm: number; name: string }[];
  try {
    vms = client.call({ request: "stop", vm, force, wait }).vms;
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    const known = ["NOTRUNNING", "ENOENT"].includes(error.code);
    say(`${who}: ${known ? error.message : `failed: ${error.message}`}`);
    process.exit(1);
  }
  const what = wait
    ? "terminated vm"
    : force
      ? "forced to terminate vm"
      : "requested to shutdown vm";
  for (const one of vms) say(`stopping vm ${one.name}: ${what} ${one.vm}`);
}
