/** vctl merge: a differential snapshot and those that it is based on, in one file. */
import { Command } from "commander";
import { say } from "../cli.ts";

export function mergeCommand(): Command {
  return new Command("merge")
    .description("Write a differential snapshot and all that it is based on into one file")
    .argument("<snapshot>", "the last of them")
    .argument("<file>", "the file; it may be the snapshot itself, which is then replaced")
    .option("-z, --compress", "compress its pages, which are then read at once when it is restored")
    .addHelpText("after", "\nExamples:\n  vctl merge web.3 web.whole\n  vctl merge web.3 web.3")
    .action(async (snapshot: string, file: string, { compress }: { compress?: boolean }) => {
      const { mergeSnapshotFiles } = await import("../../vmd/snapshot/merge.ts");
      const { snapshots, bytes } = mergeSnapshotFiles(snapshot, file, { compress });
      say(`${file}: ${snapshots} snapshots in ${Math.ceil(bytes / 2 ** 20)} MiB`);
    });
}
