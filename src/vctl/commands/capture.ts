/** vctl capture: the frames of a VM's interface, in pcap's format. */
import { closeSync, openSync, writeSync } from "node:fs";
import { Command, InvalidArgumentError } from "commander";
import { processLibrary, ptr } from "../../vmm/native.ts";
import { say, UsageError, vmReference } from "../cli.ts";
import { Client, RefusedError } from "../client.ts";

interface CaptureOptions {
  interface: number;
  write?: string;
}

const PIECE = 65_536;
const EAGAIN = -11;

function place(text: string): number {
  if (!/^[0-3]$/.test(text)) throw new InvalidArgumentError("it is a number from 0 to 3.");
  return Number(text);
}

export function captureCommand(): Command {
  return new Command("capture")
    .description("Copy the frames of a VM's interface, as pcap, to standard output")
    .argument("<id>", "a VM's id or name")
    .option("-i, --interface <number>", "which of its interfaces", place, 0)
    .option("-w, --write <file>", "a file to write instead")
    .addHelpText(
      "after",
      "\nExamples:\n  vctl capture web | tcpdump -r -\n  vctl capture -w web.pcap web",
    )
    .action(async (id: string, options: CaptureOptions) => {
      const vm = vmReference(id);
      if (options.write === undefined && process.stdout.isTTY) {
        throw new UsageError("frames are no text: name a file with -w, or another program");
      }
      const out = options.write === undefined ? 1 : create(options.write);
      using client = Client.connect();
      let descriptor: number;
      try {
        ({ descriptor } = client.callForDescriptor({
          request: "capture",
          vm,
          interface: options.interface,
        }));
      } catch (error) {
        if (!(error instanceof RefusedError)) throw error;
        throw new UsageError(`capture command failed: ${error.message}`);
      }
      if (options.write !== undefined) say("capturing; ^C ends");
      await copy(descriptor, out);
    });
}

function create(path: string): number {
  try {
    return openSync(path, "w", 0o600);
  } catch (error) {
    throw new UsageError(`${path}: ${(error as NodeJS.ErrnoException).code}`);
  }
}

/** Until the VM ends, or who reads has enough. */
async function copy(from: number, to: number): Promise<void> {
  const bytes = new Uint8Array(PIECE);
  const wanted = Int32Array.of(1);
  for (;;) {
    const length = Number(processLibrary().vmm_read(from, ptr(bytes), PIECE));
    if (length === EAGAIN) {
      wanted[0] = 1;
      processLibrary().vmm_poll(ptr(Int32Array.of(from)), ptr(wanted), 1, 200);
      // Signals are heard here.
      await Bun.sleep(0);
      continue;
    }
    if (length <= 0) break;
    try {
      for (let at = 0; at < length;) at += writeSync(to, bytes, at, length - at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EPIPE") break;
      throw error;
    }
  }
  closeSync(from);
}
