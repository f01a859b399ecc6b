/** vctl console: a VM's console in this terminal. */
import { Command } from "commander";
import { UsageError, vmReference } from "../cli.ts";
import { Client, RefusedError } from "../client.ts";
import { followConsole } from "../vm-console.ts";

interface ConsoleOptions {
  debug?: boolean;
  late?: boolean;
  virtio?: boolean;
}

export function consoleCommand(): Command {
  return new Command("console")
    .description("Attach a VM's console to this terminal (~. detaches, ~? helps)")
    .argument("<id>", "a VM's id or name")
    .option("--debug", "what firmware writes to its debug ports instead")
    .option("--virtio", "the virtio console instead, of a VM with that device")
    .option("--late", "without what was printed before")
    .addHelpText("after", "\nExamples:\n  vctl console web\n  vctl console --debug firmware")
    .action(async (id: string, { debug, late = false, virtio }: ConsoleOptions) => {
      const vm = vmReference(id);
      using client = Client.connect();
      try {
        const stream = virtio ? "virtio" : debug ? "debug" : "console";
        await followConsole(client, vm, { stream, late });
      } catch (error) {
        if (!(error instanceof RefusedError)) throw error;
        throw new UsageError(error.code === "NOTRUNNING" ? "console not found" : error.message);
      }
    });
}
