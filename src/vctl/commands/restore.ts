/** vctl restore: a VM that goes on from a snapshot. */
import { closeSync } from "node:fs";
import { resolve } from "node:path";
import { Command, Option } from "commander";
import { ENGINES, type EngineName } from "../../vmm/engine-library.ts";
import { openOne } from "../../vmd/snapshot/chain.ts";
import type { DiskOfVm } from "../../vmd/snapshot/disks.ts";
import { debug, say, UsageError } from "../cli.ts";
import { Client } from "../client.ts";
import { failed } from "../failed.ts";

interface RestoreOptions {
  console?: boolean;
  verify?: boolean;
  prefetch?: boolean;
  engine?: "auto" | EngineName;
}

export function restoreCommand(): Command {
  return new Command("restore")
    .description("Start a VM that goes on from a snapshot")
    .argument("<file>", "what vctl snapshot wrote")
    .argument("[name]", "the VM's name; default: as it was")
    .option("-c, --console", "connect to its console")
    .addOption(
      new Option("--engine <engine>", "another engine than it had").choices(["auto", ...ENGINES]),
    )
    .option("--verify", "check all of the file before anything runs")
    .option("--prefetch", "read what its guest used last beside it, before it is touched")
    .addHelpText(
      "after",
      `
Its memory is read when it is touched; a file that this vmd has neither written nor restored before is
checked first. What is written to its disks goes into new images, FILE.disk0.qcow2 and so on, unless
the snapshot was taken with --stop: then they are used as they are, if nobody has written them since.

A snapshot of a guest that ran says which pages it touched in the last 100 ms. With --prefetch these are
read while the VM is made and its guest begins to run: of use where the file isn't in the host's memory.

Examples:
  vctl restore web.snap
  vctl restore web.snap web2
  vctl restore --prefetch web.snap`,
    )
    .action(async (file: string, name: string | undefined, options: RestoreOptions) => {
      const path = resolve(file);
      using client = Client.connect({ start: true });
      try {
        const disks = (await disksOf(path)).map(({ path: image, format, readOnly }) => {
          debug(`disk ${image}`);
          return { path: resolve(image), format, readOnly };
        });
        const request = {
          request: "restore",
          path,
          vm: name,
          disks,
          verify: options.verify,
          prefetch: options.prefetch,
          engine: options.engine,
          attach: options.console,
        } as const;
        client.send(request);
        // vmd has something to do meanwhile.
        const follow = options.console ? await import("../vm-console.ts") : undefined;
        const { answer, descriptor } = client.receive();
        say(`restored vm ${answer.vm} successfully, tty ${answer.tty}`);
        if (options.prefetch === true && answer.prefetched === null) {
          say(`${file}: it doesn't say what its guest used last: nothing is prefetched`);
        }
        if (follow === undefined) return;
        if (descriptor === undefined) throw new UsageError("read error");
        const end = await follow.followDescriptor(client, answer.vm, descriptor);
        process.exit(end?.code ?? 0);
      } catch (error) {
        throw failed("restore", error);
      }
    });
}

async function disksOf(path: string): Promise<DiskOfVm[]> {
  const { descriptor, config } = openOne(path);
  closeSync(descriptor);
  if ((config.options.disks ?? []).length === 0) return [];
  const { disksToGoOn } = await import("../../vmd/snapshot/disks.ts");
  return disksToGoOn(config, path);
}
