/** vctl metrics: figures of vmd and its VMs, for Prometheus. */
import { Command } from "commander";
import { print } from "../cli.ts";
import { Client } from "../client.ts";

export function metricsCommand(): Command {
  return new Command("metrics")
    .description("Print figures in Prometheus' text format")
    .addHelpText("after", "\nExamples:\n  vctl metrics > /var/lib/node_exporter/vmd.prom")
    .action(() => {
      using client = Client.connect();
      print(client.call({ request: "metrics" }).text);
    });
}
