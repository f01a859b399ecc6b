/** vctl top: the VMs that run, with what they take, again and again. */
import { Command, InvalidArgumentError } from "commander";
import { readFileSync } from "node:fs";
import { formatSize } from "../../vmd/size.ts";
import type { VmStatus } from "../../vmd/protocol.ts";
import { print } from "../cli.ts";
import { Client } from "../client.ts";
import { formatTable } from "../table.ts";

interface TopOptions {
  delay: number;
  iterations?: number;
  json?: boolean;
}

/** Of a tick of /proc/PID/stat, ms. */
const TICK = 10;
const CLEAR = "\x1b[H\x1b[J";

function positive(text: string): number {
  const value = Number(text);
  if (Number.isFinite(value) && value > 0) return value;
  throw new InvalidArgumentError("it is no number above 0.");
}

export function topCommand(): Command {
  return new Command("top")
    .description("Show what running VMs take, again and again")
    .option("-d, --delay <seconds>", "between two looks", positive, 2)
    .option("-n, --iterations <count>", "so often, then end", positive)
    .option("--json", "a line of JSON each time")
    .addHelpText("after", "\nExamples:\n  vctl top\n  vctl top -n 1 --json")
    .action(top);
}

async function top({ delay, iterations = Infinity, json }: TopOptions): Promise<void> {
  using client = Client.connect();
  const live = process.stdout.isTTY;
  let before = new Map<number, number>();
  let at = performance.now();
  for (let i = 0; i < iterations; i++) {
    if (i > 0) await Bun.sleep(delay * 1000);
    const { vms } = client.call({ request: "status", running: true }) as { vms: VmStatus[] };
    const now = performance.now();
    const times = new Map(vms.map((vm) => [vm.id, cpuTime(vm.pid)]));
    const share = (id: number) => {
      const last = before.get(id);
      return last === undefined ? null : ((times.get(id)! - last) / (now - at)) * 100;
    };
    if (json) {
      const shares = vms.map((vm) => ({ ...vm, cpu: share(vm.id) }));
      print(`${JSON.stringify(shares)}\n`);
      before = times;
      at = now;
      continue;
    }
    const rows = vms
      .toSorted((a, b) => (times.get(b.id) ?? 0) - (times.get(a.id) ?? 0))
      .map((vm) => [
        vm.id,
        vm.pid ?? "-",
        share(vm.id)?.toFixed(1) ?? "-",
        vm.currentMemory === null ? "-" : formatSize(vm.currentMemory),
        formatSize(vm.maxMemory),
        vm.uptime === null ? "-" : `${vm.uptime.toFixed(0)}s`,
        vm.engine ?? "-",
        vm.state,
        vm.name,
      ]);
    const head = ["ID", "PID", "%CPU", "CURMEM", "MAXMEM", "UP", "ENGINE", "STATE", "NAME"];
    const right = "right" as const;
    const align = [right, right, right, right, right, right, "left", "left", "left"] as const;
    const text = formatTable(rows, { head, align: [...align] });
    print(live ? CLEAR + text : text);
    before = times;
    at = now;
  }
}

/** CPU time of a process so far, ms; proc(5), fields utime and stime of stat. */
function cpuTime(pid: number | null): number {
  if (pid === null) return 0;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) * TICK;
  } catch {
    return 0;
  }
}
