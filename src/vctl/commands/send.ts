/** vctl send: a VM goes out of standard output, or through a command, to a `vctl receive`. */
import { Command, InvalidArgumentError } from "commander";
import type { SendOptions } from "../sending.ts";

function between(least: number, most: number): (text: string) => number {
  return (text) => {
    const number = Number(text);
    if (/^\d{1,6}$/.test(text) && number >= least && number <= most) return number;
    throw new InvalidArgumentError(`it is a number from ${least} to ${most}.`);
  };
}

export function sendCommand(): Command {
  return new Command("send")
    .description("Send a VM, which then goes on where vctl receive is, to standard output")
    .argument("<id>", "a VM's id or name")
    .option("-l, --live", "while its guest runs: it stands still for the last of it only")
    .option("--downtime <ms>", "with --live, for about so long", between(1, 60_000), 300)
    .option("--rounds <number>", "with --live, after so many at the latest", between(1, 1000), 30)
    .option("--via <command>", "by a shell command that runs vctl receive")
    .option("--duplex", "what it answers comes on standard input")
    .addHelpText(
      "after",
      `
Examples:
  vctl send web | vctl receive web2
  vctl send --live --via 'ssh host vctl receive web' web`,
    )
    .action(async (id: string, options: SendOptions) => {
      const { send } = await import("../sending.ts");
      await send(id, options);
    });
}
