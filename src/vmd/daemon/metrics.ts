/** What the daemon knows of its VMs, in Prometheus' text format. */
import type { ManagedVm } from "./managed-vm.ts";

interface Metric {
  name: string;
  help: string;
  type: "gauge" | "counter";
  values: { labels: Record<string, string>; value: number }[];
}

/** @param clients connected now. */
export async function metricsText(vms: readonly ManagedVm[], clients: number): Promise<string> {
  const metrics: Metric[] = [];
  const metric = (name: string, type: Metric["type"], help: string) => {
    const one: Metric = { name: `vmd_${name}`, help, type, values: [] };
    metrics.push(one);
    return (value: number, labels: Record<string, string> = {}) => {
      one.values.push({ labels, value });
    };
  };
  metric("clients", "gauge", "Clients of the control socket.")(clients);
  const state = metric("vm_state", "gauge", "1 for the state that a VM is in.");
  const memory = metric("vm_resident_bytes", "gauge", "Resident memory of a VM's process.");
  const limit = metric("vm_memory_bytes", "gauge", "Memory that a VM may have.");
  const reboots = metric("vm_reboots_total", "counter", "Resets by the guest since its start.");
  const exits = metric("vm_exits_total", "counter", "Exits since the guest's last reset.");
  const printed = metric("vm_console_bytes_total", "counter", "Bytes that the guest printed.");
  const time = metric("vm_guest_seconds", "gauge", "The guest's time since its last reset.");
  for (const vm of vms) {
    const labels = { vm: vm.name, id: `${vm.id}` };
    const status = vm.status();
    state(1, { ...labels, state: status.state });
    limit(status.maxMemory, labels);
    if (status.currentMemory === null) continue;
    memory(status.currentMemory, labels);
    reboots(status.reboots, labels);
    const statistics = await vm.host
      .ask({ kind: "statistics" }, "statistics")
      .then((answer) => answer.statistics)
      .catch(() => undefined);
    if (statistics === undefined) continue;
    exits(statistics.exits, labels);
    printed(statistics.printed, labels);
    time(statistics.now / 1e9, labels);
  }
  return metrics.map(format).join("");
}

function format({ name, help, type, values }: Metric): string {
  const lines = values.map(({ labels, value }) => {
    const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escape(text)}"`);
    return `${name}${pairs.length > 0 ? `{${pairs.join(",")}}` : ""} ${value}\n`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

function escape(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
