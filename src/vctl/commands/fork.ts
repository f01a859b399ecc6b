/** vctl fork: copies of a VM that runs. */
import { Command, InvalidArgumentError } from "commander";
import { frozenFor } from "../frozen-disks.ts";
import { newId } from "../../vmd/snapshot/restored.ts";
import { say, UsageError, vmReference } from "../cli.ts";
import { type Answer, Client, RefusedError } from "../client.ts";
import { failed } from "../failed.ts";

function count(text: string): number {
  const number = Number(text);
  if (!/^[0-9]+$/.test(text) || number < 1 || number > 1000) {
    throw new InvalidArgumentError("it is a number from 1 to 1000.");
  }
  return number;
}

export function forkCommand(): Command {
  return new Command("fork")
    .description("Make copies of a VM that runs, which go on beside it")
    .argument("<id>", "a VM's id or name")
    .argument("<name>", "the copy's name; of more, what their names begin with")
    .option("-n, --count <number>", "how many: NAME-1, NAME-2 and so on", count)
    .addHelpText(
      "after",
      `
Copies share the VM's memory until they write it. Each has other link addresses, an own random number
generator's output, and a generation of its own in vmmci. What they write to their disks is gone when
they end; the VM's own disks must be qcow2 images, and are frozen as by vctl snapshot.

Examples:
  vctl fork web try
  vctl fork -n 100 web try`,
    )
    .action((id: string, name: string, options: { count?: number }) => {
      const vm = vmReference(id);
      const { count: copies } = options;
      const names =
        copies === undefined
          ? [name]
          : Array.from({ length: copies }, (_, index) => `${name}-${index + 1}`);
      using client = Client.connect();
      try {
        const answer = fork(client, vm, names);
        for (const copy of answer.copies as Answer[]) {
          say(`started vm ${copy.vm} successfully: ${copy.name}, in ${copy.ms.toFixed(1)} ms`);
        }
        if (answer.failure !== null) throw new UsageError(`fork command failed: ${answer.failure}`);
      } catch (error) {
        throw failed("fork", error);
      }
    });
}

function fork(client: Client, vm: number | string, names: string[]): Answer {
  const snapshot = newId();
  const frozen = frozenFor(client, vm, snapshot);
  try {
    return client.call({ request: "fork", vm, names, snapshot, overlays: frozen.overlays });
  } catch (error) {
    // Else the VM may write to the new images already.
    if (error instanceof RefusedError) frozen.undo();
    throw error;
  }
}
