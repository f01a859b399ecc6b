/** vctl snapshot: a VM's machine into a file. */
import { existsSync, unlinkSync, renameSync } from "node:fs";
import { resolve } from "node:path";
import { Command } from "commander";
import { FrozenDisks } from "../../vmd/snapshot/disks.ts";
import { frozenFor } from "../frozen-disks.ts";
import { newId } from "../../vmd/snapshot/restored.ts";
import { say, UsageError, vmReference } from "../cli.ts";
import { type Answer, Client, RefusedError } from "../client.ts";
import { failed } from "../failed.ts";

interface SnapshotOptions {
  compress?: boolean;
  differential?: boolean;
  stop?: boolean;
  force?: boolean;
}

export function snapshotCommand(): Command {
  return new Command("snapshot")
    .description("Write a VM's machine into a file, from which vctl restore goes on")
    .argument("<id>", "a VM's id or name")
    .argument("<file>", "the file")
    .option("-c, --compress", "compress its pages; it can't be restored as fast then")
    .option("-d, --differential", "only what changed since the last one; the first holds all")
    .option("-s, --stop", "stop the VM, and leave its disks as they are")
    .option("-f, --force", "replace the file if it is there")
    .addHelpText(
      "after",
      `
The VM goes on. Its disks must be qcow2 images: each is kept as it is, under another name, and a new
image based on it takes its place. With --stop, disks may be of any kind, and are not touched.

A differential snapshot needs the files of those before it: vctl merge makes one file of them. Changes
are noted from the first one on.

Examples:
  vctl snapshot web web.snap
  vctl snapshot -d web web.1
  vctl snapshot --stop web web.snap`,
    )
    .action((id: string, file: string, options: SnapshotOptions) => {
      const vm = vmReference(id);
      const path = resolve(file);
      if (existsSync(path) && options.force !== true) {
        throw new UsageError(`${file}: file exists; -f replaces it`);
      }
      using client = Client.connect();
      try {
        const { bytes, pages, paused, differential } = take(client, vm, path, options);
        const what = differential ? " that changed" : "";
        const size = `${(bytes / 2 ** 20).toFixed(1)} MiB, ${pages} pages${what}`;
        say(`wrote ${file}: ${size}; the vm stood still for ${Math.round(paused)} ms`);
      } catch (error) {
        throw failed("snapshot", error);
      }
    });
}

function take(
  client: Client,
  vm: number | string,
  path: string,
  { compress = false, differential = false, stop = false }: SnapshotOptions,
): Answer {
  const id = newId();
  // Nothing is at the file's name before all of it is there.
  const partial = `${path}.${id.slice(0, 8)}.partial`;
  const frozen = stop ? new FrozenDisks([], id) : frozenFor(client, vm, id);
  let answer: Answer;
  try {
    const { overlays } = frozen;
    answer = client.call({
      request: "snapshot",
      vm,
      snapshot: id,
      path: partial,
      as: path,
      compress,
      differential,
      stop,
      overlays,
    });
  } catch (error) {
    if (existsSync(partial)) unlinkSync(partial);
    // Else the VM may write to the new images already.
    if (error instanceof RefusedError) frozen.undo();
    throw error;
  }
  renameSync(partial, path);
  return answer;
}
