/** vctl replay: runs again what start --record has recorded. */
import { Command, InvalidArgumentError, Option } from "commander";
import { type GdbOption, waitsForGdb } from "../../vmd/gdb-option.ts";
import { complain, printBytes, say, UsageError } from "../cli.ts";
import { gdb } from "../start-options.ts";

interface ReplayOptions {
  until?: number;
  console?: boolean;
  registers?: boolean;
  gdb?: GdbOption;
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

async function replay(path: string, options: ReplayOptions): Promise<void> {
  const { until, console, registers } = options;
  if (options.gdb !== undefined) return await debug(path, options, options.gdb);
  const { replayRecording } = await import("../../vmd/recording/replay.ts");
  const result = replayRecording(path, {
    until,
    console: console ? printBytes : undefined,
  });
  const { exits, now, end, image, isCut, difference } = result;
  if (until !== undefined || registers) complain(`${result.registers}\n`);
  if (difference !== undefined) {
    throw new UsageError(`${path}: not the same: ${difference}`);
  }
  const time = `${(now / 1e9).toFixed(6)} s of the guest's time`;
  if (isCut) {
    throw new UsageError(`${path}: it ends too early: the same up to exit ${exits}, ${time}`);
  }
  if (end !== undefined) say(end.message);
  say(`${exits} exits, ${time}`);
  say(end === undefined ? `image: ${image}` : `final image: ${image}, the same`);
}

async function debug(path: string, options: ReplayOptions, address: GdbOption): Promise<void> {
  const { ReplaySession } = await import("../../vmd/recording/replay-session.ts");
  const { Divergence } = await import("../../vmd/recording/player.ts");
  const { serveReplay } = await import("../../vmd/gdb/replay-server.ts");
  const { GdbHost } = await import("../../vmd/gdb-host.ts");
  const output = { console: options.console ? printBytes : undefined };
  using session = new ReplaySession(path, output);
  using host = new GdbHost(address);
  try {
    if (options.until !== undefined) session.seekExit(options.until);
    const listener = host.take();
    say(waitsForGdb(path, address));
    serveReplay(session, listener);
  } catch (error) {
    if (!(error instanceof Divergence)) throw error;
    throw new UsageError(`${path}: not the same: ${error.message}`);
  }
}
