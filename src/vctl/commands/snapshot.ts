/** vctl snapshot: a VM's machine into a file. */
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  unlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { FrozenDisks } from "../../vmd/snapshot/disks.ts";
import { frozenFor } from "../frozen-disks.ts";
import { newId } from "../../vmd/snapshot/restored.ts";
import { SNAPSHOT_DOWNTIME } from "../../vmd/snapshot/write.ts";
import { readPiece, wait, writeWhole } from "../carry.ts";
import { say, UsageError, vmReference } from "../cli.ts";
import { type Answer, Client, RefusedError } from "../client.ts";
import { failed } from "../failed.ts";

const STDOUT = 1;

interface SnapshotOptions {
  compress?: boolean;
  differential?: boolean;
  stop?: boolean;
  force?: boolean;
  live?: boolean;
  downtime: number;
}

function milliseconds(text: string): number {
  const number = Number(text);
  if (/^[0-9]+$/.test(text) && number >= 1 && number <= 60_000) return number;
  throw new InvalidArgumentError("it is 1 to 60000.");
}

export function snapshotCommand(): Command {
  return new Command("snapshot")
    .description("Write a VM's machine into a file, from which vctl restore goes on")
    .argument("<id>", "a VM's id or name")
    .argument("<file>", "the file; -: standard output")
    .option("-c, --compress", "compress its pages; it can't be restored as fast then")
    .option("-d, --differential", "only what changed since the last one; the first holds all")
    .option(
      "-l, --live",
      "copy memory while its guest runs: it stands still for the last of it only",
    )
    .option("--downtime <ms>", "with --live, for about so long", milliseconds, SNAPSHOT_DOWNTIME)
    .option("-s, --stop", "stop the VM, and leave its disks as they are")
    .option("-f, --force", "replace the file if it is there")
    .addHelpText(
      "after",
      `
The VM goes on. Its disks must be qcow2 images: each is kept as it is, under another name, and a new
image based on it takes its place. With --stop, disks may be of any kind, and are not touched.

Before that its guest runs on for 100 ms, and the pages that it touches are noted in the file, for vctl
restore --prefetch; not those of a VM that is paused.

A differential snapshot needs the files of those before it: vctl merge makes one file of them. Changes
are noted from the first one on.

Examples:
  vctl snapshot web web.snap
  vctl snapshot -d web web.1
  vctl snapshot --live web - | ssh host 'cat >web.snap'
  vctl snapshot --stop web web.snap`,
    )
    .action(async (id: string, file: string, options: SnapshotOptions) => {
      const vm = vmReference(id);
      const path = resolve(file);
      if (options.live && (options.stop || options.differential)) {
        throw new UsageError("--live goes neither with --stop nor with --differential");
      }
      if (file === "-" && options.differential) throw new UsageError("--differential needs a file");
      if (file === "-" && process.stdout.isTTY) throw new UsageError("a snapshot is no text");
      if (file !== "-" && existsSync(path) && options.force !== true) {
        throw new UsageError(`${file}: file exists; -f replaces it`);
      }
      using client = Client.connect();
      try {
        const { bytes, pages, paused, differential, rounds } =
          file === "-" ? await carry(client, vm, options) : take(client, vm, path, options);
        const what = differential ? " that changed" : "";
        const how =
          rounds === undefined ? "" : ` in ${rounds} ${rounds === 1 ? "round" : "rounds"}`;
        const size = `${(bytes / 2 ** 20).toFixed(1)} MiB, ${pages} pages${what}${how}`;
        say(`wrote ${file}: ${size}; the vm stood still for ${Math.round(paused)} ms`);
      } catch (error) {
        throw failed("snapshot", error);
      }
    });
}

/** The request's fields that don't depend on where it goes. */
function requestOf(vm: number | string, id: string, options: SnapshotOptions) {
  const { compress = false, differential = false, stop = false, live, downtime } = options;
  const request = { request: "snapshot", vm, snapshot: id, compress, differential, stop } as const;
  return { ...request, downtime: live ? downtime : undefined };
}

/** To standard output, by a pipe with a name: vmd opens it with the rights of whoever asks. */
async function carry(
  client: Client,
  vm: number | string,
  options: SnapshotOptions,
): Promise<Answer> {
  const id = newId();
  const folder = mkdtempSync(join(tmpdir(), "vctl-"));
  try {
    const pipe = join(folder, "snapshot");
    const { exitCode } = Bun.spawnSync(["mkfifo", "-m", "600", pipe]);
    if (exitCode !== 0) throw new UsageError(`${pipe}: no pipe can be made`);
    const descriptor = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
    const frozen = options.stop ? new FrozenDisks([], id) : frozenFor(client, vm, id);
    const { overlays } = frozen;
    try {
      client.send({ ...requestOf(vm, id, options), path: pipe, pipe: true, overlays });
      return await passOn(client, descriptor);
    } catch (error) {
      if (error instanceof RefusedError) frozen.undo();
      throw error;
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** @returns what vmd answers when all of it is through */
async function passOn(client: Client, descriptor: number): Promise<Answer> {
  let broken = false;
  const pass = () => {
    for (;;) {
      const came = readPiece(descriptor);
      if (came === "none" || came === "end") return;
      if (!writeWhole(STDOUT, came)) {
        broken = true;
        return;
      }
    }
  };
  for (;;) {
    const [answered, came] = wait([client.descriptor, descriptor]);
    if (came) pass();
    if (broken) {
      // vmd finds that nobody reads, and says so.
      closeSync(descriptor);
      return client.receive().answer;
    }
    if (answered) {
      const { answer } = client.receive();
      pass();
      closeSync(descriptor);
      return answer;
    }
    // Signals are heard here. A pipe that vmd hasn't opened yet is at its end.
    await Bun.sleep(came ? 1 : 0);
  }
}

function take(client: Client, vm: number | string, path: string, options: SnapshotOptions): Answer {
  const id = newId();
  // Nothing is at the file's name before all of it is there.
  const partial = `${path}.${id.slice(0, 8)}.partial`;
  const frozen = options.stop ? new FrozenDisks([], id) : frozenFor(client, vm, id);
  let answer: Answer;
  try {
    const { overlays } = frozen;
    answer = client.call({ ...requestOf(vm, id, options), path: partial, as: path, overlays });
  } catch (error) {
    if (existsSync(partial)) unlinkSync(partial);
    // Else the VM may write to the new images already.
    if (error instanceof RefusedError) frozen.undo();
    throw error;
  }
  renameSync(partial, path);
  return answer;
}
