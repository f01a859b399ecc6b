/** vctl replay: runs again what start --record has recorded. */
import { Command, InvalidArgumentError, Option } from "commander";
import type { GdbOption } from "../../vmd/gdb-option.ts";
import { gdb } from "../start-options.ts";

interface ReplayOptions {
  until?: number;
  console?: boolean;
  registers?: boolean;
  gdb?: GdbOption;
  sandbox: boolean;
}

function exit(text: string): number {
  const count = Number(text);
  if (/^[0-9]+$/.test(text) && Number.isSafeInteger(count)) return count;
  throw new InvalidArgumentError("it is no number of an exit.");
}

export function replayCommand(): Command {
  return new Command("replay")
    .description("Run again what start --record has recorded, and compare")
    .argument("<file>", "a recording; nothing else is needed")
    .option("--until <exit>", "stop after this exit, and print the CPU's registers", exit)
    .option("-c, --console", "print what the guest prints on COM1")
    .option("--registers", "print the CPU's registers at the end")
    .addOption(
      new Option(
        "--gdb <[host]:port or path>",
        "gdb goes through it, forwards and backwards, from here or from behind --until",
      ).argParser(gdb),
    )
    .option("--no-sandbox", "the guest's process keeps this user, its files and system calls")
    .addHelpText(
      "after",
      `
Examples:
  vctl start -c --record boot.rec -b vmlinuz -i initrd.gz -a console=ttyS0 test
  vctl replay boot.rec                  the same to the last bit, or where it isn't
  vctl replay --until 5000 boot.rec
  vctl replay --gdb :1234 boot.rec      then, in gdb: target remote :1234`,
    )
    .action(replay);
}

async function replay(path: string, { sandbox, ...options }: ReplayOptions): Promise<void> {
  const { openBootFile, openPlainly } = await import("../../vmd/boot-files.ts");
  const { GdbHost } = await import("../../vmd/gdb-host.ts");
  const { runConfined } = await import("../guest-host.ts");
  const { descriptor } = openBootFile(path, openPlainly);
  using host = options.gdb === undefined ? undefined : new GdbHost(options.gdb);
  const descriptors = host === undefined ? [descriptor] : [descriptor, host.take()];
  process.exitCode = await runConfined(
    { kind: "recording", path, ...options },
    descriptors,
    sandbox,
  );
}
