/** vctl status: the VMs, as vmctl lists them. */
import { Command } from "commander";
import { print, vmReference } from "../cli.ts";
import { Client } from "../client.ts";
import { statusTable } from "../status-table.ts";

interface StatusOptions {
  running?: boolean;
  json?: boolean;
}

export function statusCommand(): Command {
  return new Command("status")
    .description("List VMs")
    .argument("[id]", "a VM's id or name; default: all")
    .option("-r, --running", "only those that run")
    .option("--json", "one JSON array")
    .addHelpText("after", "\nExamples:\n  vctl status\n  vctl status -r --json")
    .action(status);
}

/** Prints the table; ends with code 1 when it has no row. */
export function status(id: string | undefined, { running, json }: StatusOptions): void {
  const vm = id === undefined ? undefined : vmReference(id);
  using client = Client.connect({ start: true });
  const { vms } = client.call({ request: "status", vm, running });
  print(json ? `${JSON.stringify(vms, undefined, 2)}\n` : statusTable(vms));
  if (vms.length === 0) process.exit(1);
}
