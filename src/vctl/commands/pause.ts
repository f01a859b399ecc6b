/** vctl pause, vctl unpause: hold a VM's CPU, and let it go on. */
import { Command } from "commander";
import { say, UsageError, vmReference } from "../cli.ts";
import { Client, RefusedError } from "../client.ts";

function command(request: "pause" | "unpause", description: string): Command {
  return new Command(request)
    .description(description)
    .argument("<id>", "a VM's id or name")
    .addHelpText("after", `\nExamples:\n  vctl ${request} web`)
    .action((id: string) => {
      const vm = vmReference(id);
      using client = Client.connect();
      try {
        const answer = client.call({ request, vm });
        say(`${request}d vm ${answer.vm} successfully`);
      } catch (error) {
        if (!(error instanceof RefusedError)) throw error;
        throw new UsageError(`${request} vm command failed: ${error.message}`);
      }
    });
}

export const pauseCommand = () => command("pause", "Pause a VM");
export const unpauseCommand = () => command("unpause", "Let a paused VM go on");
