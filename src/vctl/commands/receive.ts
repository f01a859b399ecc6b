/** vctl receive: a VM that vctl send sends, or a snapshot, comes out of standard input and goes on. */
import { Command, Option } from "commander";
import { ENGINES } from "../../vmm/engine-library.ts";
import type { ReceiveOptions } from "../receiving.ts";

const collect = (text: string, before: string[] = []) => [...before, text];

export function receiveCommand(): Command {
  return new Command("receive")
    .description("Take on a VM that vctl send sends, or a snapshot, from standard input")
    .argument("<name>", "the VM's name here")
    .option("-n, --network <switch>", "connect an interface to a switch (repeatable)", collect)
    .option("-L, --local", "a local interface, before those")
    .addOption(
      new Option("--engine <engine>", "another engine than it had").choices(["auto", ...ENGINES]),
    )
    .addHelpText(
      "after",
      `
Examples:
  vctl send web | vctl receive web2
  vctl receive web <web.snapshot`,
    )
    .action(async (name: string, options: ReceiveOptions) => {
      const { receive } = await import("../receiving.ts");
      await receive(name, options);
    });
}
