/** vctl wait: until a VM has stopped. */
import { Command } from "commander";
import { say, vmReference } from "../cli.ts";
import { Client } from "../client.ts";

export function waitCommand(): Command {
  return new Command("wait")
    .description("Wait until a VM has stopped")
    .argument("<id>", "a VM's id or name")
    .addHelpText("after", "\nExamples:\n  vctl wait web && echo gone")
    .action((id: string) => {
      const vm = vmReference(id);
      using client = Client.connect();
      const answer = client.call({ request: "wait", vm });
      say(`waiting for vm ${answer.name}: terminated vm ${answer.vm}`);
    });
}
