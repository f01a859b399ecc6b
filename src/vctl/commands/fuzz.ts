/** vctl fuzz: runs inputs in a guest from one state, again and again, and keeps what is new. */
import { Command, InvalidArgumentError, Option } from "commander";
import { join } from "node:path";
import type { CampaignFlags } from "../../../fuzz/campaign/options.ts";
import type { Request } from "../../../fuzz/guest/command.ts";
import { root } from "../../vmm/root.ts";
import { parseSize } from "../../vmd/size.ts";
import { print, say, UsageError } from "../cli.ts";

interface FuzzFlags extends CampaignFlags, Omit<Request, "file" | "campaign"> {}

function count(text: string): number {
  const value = Number(text);
  if (/^[0-9]+$/.test(text) && Number.isSafeInteger(value)) return value;
  throw new InvalidArgumentError("it is no number.");
}

const each = (value: string, before: string[] = []) => [...before, value];

// fuzz/ is no part of vctl's bundle: it starts processes by its sources' names.
type Options = typeof import("../../../fuzz/campaign/options.ts");
type Guest = typeof import("../../../fuzz/guest/command.ts");
const load = async <T>(path: string): Promise<T> => (await import(join(root, "fuzz", path))) as T;

export async function fuzzCommand(): Promise<Command> {
  const { addCampaignOptions } = await load<Options>("campaign/options.ts");
  const command = new Command("fuzz")
    .description("Run inputs in a guest, each from the same state, and find what breaks it")
    .argument("<file>", "a snapshot, or a kernel that is booted first")
    .option("--start <place>", "where runs begin: an address, a symbol, print:TEXT, ready or now")
    .option("--type <text>", "typed on COM1 before that; \\n is a new line")
    .option("-i, --input <place>", "ADDRESS,SIZE, disk:N, net:N, port:NUMBER or console")
    .option("--length <place>", "where its length goes: a register, ADDRESS,4 or ADDRESS,8")
    .option("--end <address>", "a run that gets there is done; again for more", each)
    .option("--crash <what>", "ADDRESS, exception:VECTOR, print:TEXT or halt; again for more", each)
    .option(
      "--coverage <range>",
      "only code there counts: FROM-TO, module:NAME; again for more",
      each,
    )
    .option(
      "-y, --symbols <file>",
      "names of addresses: an ELF file, System.map; again for more",
      each,
    )
    .addOption(new Option("--budget <blocks>", "what a run may take").argParser(count))
    .addOption(
      new Option(
        "--verify <runs>",
        "compare each so-manieth reset with the state; 0: none",
      ).argParser(count),
    )
    .addOption(new Option("--engine <engine>", "").choices(["unicorn", "kvm"]))
    .addOption(
      new Option("-m, --memory <size>", "of a kernel's machine").argParser((text) =>
        parseSize(text),
      ),
    )
    .option("-a, --cmdline <text>", "a kernel's arguments")
    .option("--initrd <file>", "a kernel's initial RAM disk")
    .option("-d, --disk <image>", "a disk of a kernel's machine; again for more", each)
    .option("--blocks <file>", "where blocks of code begin, for engine kvm: addresses, or drcov")
    .option("--run <file...>", "run these inputs, or a crash's folder, and nothing else")
    .option("--drcov <file>", "write the code that the corpus covers, for Lighthouse")
    .option("--lcov <file>", "... and the lines of C, where the symbols' file says them")
    .option("--structure <module>", "what inputs look like: exports an arbitrary and encode")
    .option("--pages", "with --run: say which pages of memory were written")
    .addOption(
      new Option("--compare <engine>", "run the corpus on this engine, too").choices([
        "unicorn",
        "kvm",
      ]),
    );
  return addCampaignOptions(command)
    .addHelpText(
      "after",
      `
The guest's program may say itself where its input is wanted and when it is done:
fuzz/harness/vmd-fuzz.h. Ends with 2 when something was found.

Examples:
  vctl fuzz --corpus tlv tlv.elf
  vctl fuzz -y System.map --start parse --input rdi,512 --length rsi \\
      --end parse+0x1f4 --crash exception:14 --corpus parse vm.snapshot
  vctl fuzz --run tlv/crashes/3b0c tlv.elf`,
    )
    .action(fuzz);
}

async function fuzz(file: string, flags: FuzzFlags): Promise<void> {
  const { main } = await load<Guest>("guest/command.ts");
  try {
    process.exitCode = await main({ ...flags, file, campaign: flags }, print, say);
  } catch (error) {
    const name = error instanceof Error ? error.name : "";
    if (!/^(Fuzz|Folder|Dictionary|Server|Bundle)Error$/.test(name)) throw error;
    throw new UsageError((error as Error).message.replace(/\.$/, ""));
  }
}
