/** vctl create: makes a disk image: an empty one, one on a base, or a copy of another. */
import { Command } from "commander";
import type { DiskFormat } from "../../vmd/disk/index.ts";
import { formatSize, parseSize } from "../../vmd/size.ts";
import { say, UsageError } from "../cli.ts";

const MIB = 2 ** 20;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

interface CreateOptions {
  base?: string;
  input?: string;
  size?: string;
}

export function createCommand(): Command {
  return new Command("create")
    .description("Create a disk image")
    .argument("<disk>", "the new image: disk.raw, disk.qcow2, raw:disk or qcow2:disk")
    .option("-b, --base <image>", "an image that the new one, a qcow2 image, is based on")
    .option("-i, --input <disk>", "an image to copy; the new one's format may be another")
    .option("-s, --size <size>", "size of the disk, for example 512M or 10G")
    .usage("[-b base | -i disk] [-s size] disk")
    .addHelpText(
      "after",
      `
Examples:
  vctl create -s 10G disk.qcow2
  vctl create -b base.qcow2 derived.qcow2
  vctl create -i disk.qcow2 disk.raw`,
    )
    .action(create);
}

async function create(disk: string, options: CreateOptions, command: Command): Promise<void> {
  const { detectFormat, parseDiskArgument } = await import("../../vmd/disk/index.ts");
  const { path, format = detectFormat(path) } = parseDiskArgument(disk);
  const { base, input } = options;
  const size = options.size === undefined ? undefined : diskSize(options.size);
  if (base !== undefined && format !== "qcow2") {
    throw new UsageError("base images require qcow2 disk format");
  }
  if (base !== undefined && input !== undefined) {
    throw new UsageError("conflicting -b and -i arguments");
  }
  if (base !== undefined) await createOnBase(path, base, size);
  else if (input !== undefined) await convert(path, format, input, size);
  else if (size !== undefined) await createEmpty(path, format, size);
  else {
    const message = `vctl: could not create ${path}: missing size argument`;
    command.error(message, { exitCode: 1 });
  }
  say(`${format} imagefile created`);
}

/** Bytes, whole MiB. @throws SizeError, UsageError */
function diskSize(text: string): number {
  const size = parseSize(text);
  if (size < MIB) throw new UsageError("disk size must be at least 1MB");
  const whole = Math.floor(size / MIB) * MIB;
  if (whole !== size) say(`disk size rounded to ${formatSize(whole)}`);
  return whole;
}

async function createEmpty(path: string, format: DiskFormat, size: number): Promise<void> {
  const { createQcow2, createRaw } = await import("../../vmd/disk/index.ts");
  await failing(path, () => (format === "raw" ? createRaw(path, size) : createQcow2(path, size)));
}

async function createOnBase(path: string, base: string, size?: number): Promise<void> {
  const { createQcow2, detectFormat, openDisk, parseDiskArgument } =
    await import("../../vmd/disk/index.ts");
  const argument = parseDiskArgument(base);
  const format = argument.format ?? detectFormat(argument.path);
  const disk = openDisk(argument.path, { format, readOnly: true });
  const baseSize = disk.size;
  disk.close();
  if (size !== undefined && size !== baseSize) {
    throw new UsageError(`size must be the base's size, ${baseSize} bytes`);
  }
  const options = { base: { path: argument.path, format } };
  await failing(path, () => createQcow2(path, baseSize, options));
}

async function convert(
  path: string,
  format: DiskFormat,
  input: string,
  size: number | undefined,
): Promise<void> {
  const { convertDisk, openDisk, parseDiskArgument } = await import("../../vmd/disk/index.ts");
  const argument = parseDiskArgument(input);
  const source = openDisk(argument.path, { format: argument.format, readOnly: true });
  try {
    const wanted = size ?? source.size;
    if (wanted < source.size) {
      throw new UsageError("size cannot be smaller than input disk size");
    }
    const whole = Math.ceil(wanted / MIB) * MIB;
    if (whole !== wanted) say(`destination size rounded to ${whole / MIB} megabytes`);
    const abort = new AbortController();
    const interrupt = () => abort.abort();
    for (const signal of SIGNALS) process.once(signal, interrupt);
    const { signal } = abort;
    await failing(path, () => convertDisk(source, path, { format, size: whole, signal }));
  } finally {
    source.close();
  }
}

/** Runs what writes the new image: a host failure there is one of the operation. */
async function failing(path: string, work: () => void | Promise<void>): Promise<void> {
  const { DiskError, strerror } = await import("../../vmd/disk/index.ts");
  try {
    await work();
  } catch (error) {
    if (!(error instanceof DiskError) || error.code === undefined) throw error;
    if (!error.message.startsWith(`${path}: `)) throw error;
    throw new UsageError(`create imagefile operation failed: ${strerror(error.code)}`);
  }
}
