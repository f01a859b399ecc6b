/** vctl replay: runs again what start --record has recorded. */
import { Command, InvalidArgumentError } from "commander";
import { complain, printBytes, say, UsageError } from "../cli.ts";

interface ReplayOptions {
  until?: number;
  console?: boolean;
  registers?: boolean;
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
    .addHelpText(
      "after",
      `
Examples:
  vctl start --record boot.rec -b vmlinuz -i initrd.gz -a console=ttyS0 test
  vctl replay boot.rec                  the same to the last bit, or where it isn't
  vctl replay --until 5000 boot.rec`,
    )
    .action(replay);
}

async function replay(path: string, { until, console, registers }: ReplayOptions): Promise<void> {
  const { replayRecording } = await import("../../vmd/recording/replay.ts");
  const result = replayRecording(path, {
    until,
    console: console ? printBytes : undefined,
  });
  const { exits, now, end, image, difference } = result;
  if (until !== undefined || registers) complain(`${result.registers}\n`);
  if (difference !== undefined) {
    throw new UsageError(`${path}: not the same: ${difference}`);
  }
  if (end !== undefined) say(end.message);
  say(`${exits} exits, ${(now / 1e9).toFixed(6)} s of the guest's time`);
  say(end === undefined ? `image: ${image}` : `final image: ${image}, the same`);
}
