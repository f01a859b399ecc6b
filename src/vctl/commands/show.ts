/** vctl show: everything about one VM; without one, what status shows. */
import { Command } from "commander";
import { formatSize } from "../../vmd/size.ts";
import { print, vmReference } from "../cli.ts";
import { type Answer, Client } from "../client.ts";
import { status } from "./status.ts";

export function showCommand(): Command {
  return new Command("show")
    .description("Show everything about a VM")
    .argument("[id]", "a VM's id or name; without one, all are listed as by status")
    .option("-r, --running", "only those that run")
    .option("--json", "one JSON object")
    .addHelpText("after", "\nExamples:\n  vctl show web\n  vctl show --json 3")
    .action((id: string | undefined, options: { running?: boolean; json?: boolean }) => {
      if (id === undefined) {
        status(id, options);
        return;
      }
      const vm = vmReference(id);
      using client = Client.connect();
      const answer: Answer = client.call({ request: "show", vm }).vm;
      print(options.json ? `${JSON.stringify(answer, undefined, 2)}\n` : describe(answer));
    });
}

function describe(vm: Answer): string {
  const lines: [string, string][] = [];
  const add = (label: string, value: unknown) => {
    if (value === null || value === undefined || value === "") return;
    lines.push([label, String(value)]);
  };
  const size = (bytes: number | null) => (bytes === null ? null : formatSize(bytes));
  add("name", vm.name);
  add("id", vm.id);
  add("state", vm.state);
  add("owner", vm.owner);
  add("configured", vm.configured ? "yes" : "no");
  add("memory", size(vm.maxMemory));
  add("kernel", vm.kernel);
  add("initrd", vm.initrd);
  add("command line", vm.cmdline);
  add("boot device", vm.bootDevice);
  for (const disk of vm.disks) add("disk", `${disk.path}${disk.format ? ` (${disk.format})` : ""}`);
  add("cdrom", vm.cdrom);
  for (const card of vm.interfaces) {
    const where = card.local ? "local" : (card.switch ?? "unattached");
    add("interface", card.mac === null ? where : `${where} ${card.mac}`);
  }
  for (const [option, value] of Object.entries(vm.machine)) add(option, value);
  add("pid", vm.pid);
  add("terminal", vm.tty);
  add("resident", size(vm.currentMemory));
  add("runs", vm.boot);
  add("engine in use", vm.engine);
  add("up", vm.uptime === null ? null : `${vm.uptime.toFixed(0)} s`);
  add("reboots", vm.reboots);
  if (vm.statistics !== null) {
    add("guest time", `${(vm.statistics.now / 1e9).toFixed(1)} s`);
    add("exits", vm.statistics.exits);
    add("console", `${vm.statistics.printed} bytes, ${vm.statistics.watchers} watchers`);
  }
  add("last end", vm.lastEnding);
  const width = Math.max(...lines.map(([label]) => label.length));
  return lines.map(([label, value]) => `${label.padEnd(width)}  ${value}\n`).join("");
}
