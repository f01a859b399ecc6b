/** vctl balloon: how much memory a guest gives away. */
import { Command, InvalidArgumentError } from "commander";
import { formatSize, parseSize } from "../../vmd/size.ts";
import { print, UsageError, vmReference } from "../cli.ts";
import { Client, RefusedError } from "../client.ts";

function size(text: string): number {
  try {
    return parseSize(text);
  } catch {
    throw new InvalidArgumentError("it is no size such as 128M.");
  }
}

export function balloonCommand(): Command {
  return new Command("balloon")
    .description("Have a guest give memory away, or tell how much it has given")
    .argument("<id>", "a VM's id or name")
    .argument("[size]", "how much it is to give away, for example 128M; 0 for nothing", size)
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  vctl balloon web 128M\n  vctl balloon web 0")
    .action((id: string, target: number | undefined, options: { json?: boolean }) => {
      const vm = vmReference(id);
      using client = Client.connect();
      try {
        const { balloon } = client.call({ request: "balloon", vm, target });
        if (options.json) print(`${JSON.stringify(balloon)}\n`);
        else {
          print(`target ${formatSize(balloon.target)}, given ${formatSize(balloon.actual)}\n`);
        }
      } catch (error) {
        if (!(error instanceof RefusedError)) throw error;
        throw new UsageError(`balloon command failed: ${error.message}`);
      }
    });
}
