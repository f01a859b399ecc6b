/** vctl start: runs a VM with its console in this terminal. */
import { writeSync } from "node:fs";
import { Command, InvalidArgumentError, Option } from "commander";
import { parseSize } from "../../vmd/size.ts";
import { type Ending, Vm, type VmOptions } from "../../vmd/vm.ts";
import { checkVmOptions, FORMATS, MAX_MEMORY } from "../../vmd/vm-options.ts";
import { ENGINES } from "../../vmm/engine-library.ts";
import { complain, say, UsageError } from "../cli.ts";
import { attach } from "../console.ts";

const MAX_NAME = 63;

interface StartOptions {
  console?: boolean;
  boot?: string;
  initrd?: string;
  append?: string;
  module?: string[];
  memory?: number;
  epoch?: number;
  engine: VmOptions["engine"];
  format: VmOptions["format"];
  bits: 32 | 64;
  reboot: boolean;
  debugExit?: boolean;
  traceExits?: string;
  virtualTime?: boolean;
  crossCheck?: boolean;
  registers?: boolean;
}

function memory(text: string): number {
  let size: number;
  try {
    size = Math.floor(parseSize(text) / 2 ** 20) * 2 ** 20;
  } catch {
    throw new InvalidArgumentError("it is no size such as 512M or 1G.");
  }
  if (size < 2 ** 20) throw new InvalidArgumentError("memory size must be at least 1MB.");
  if (size > MAX_MEMORY) {
    throw new InvalidArgumentError("memory size too large (limit is 128G).");
  }
  return size;
}

function epoch(text: string): number {
  const time = Date.parse(text);
  if (Number.isNaN(time))
    throw new InvalidArgumentError("it is no date such as 2026-01-01T12:00:00Z.");
  return time;
}

function bits(text: string): 32 | 64 {
  if (text !== "32" && text !== "64") throw new InvalidArgumentError("it is 32 or 64.");
  return Number(text) as 32 | 64;
}

function name(text: string): string {
  if (text.length > MAX_NAME) throw new InvalidArgumentError("name too long.");
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(text))
    throw new InvalidArgumentError("invalid VM name.");
  return text;
}

export function startCommand(): Command {
  return new Command("start")
    .description("Start a VM")
    .argument("<name>", "what the VM is called", name)
    .option("-c, --console", "attach the VM's console to this terminal (~. ends)")
    .option("-b, --boot <path>", "kernel or firmware image")
    .option("-i, --initrd <path>", "initial RAM disk")
    .option("-a, --append <cmdline>", "kernel command line")
    .option("--module <path and arguments>", "Multiboot module (repeatable)", collect)
    .option("-m, --memory <size>", "memory, for example 512M or 2G (default: 512M)", memory)
    .addOption(
      new Option("--engine <engine>", "what runs the guest's code")
        .choices(["auto", ...ENGINES])
        .default("auto"),
    )
    .addOption(
      new Option("--format <format>", "how to load the kernel")
        .choices([...FORMATS])
        .default("auto"),
    )
    .option("--bits <32|64>", "enter the kernel in this mode, where it has the choice", bits, 64)
    .option("--no-reboot", "a guest's reset ends the VM instead of starting it again")
    .option("--debug-exit", "a write of N to port 0xf4 ends the VM with exit code (N<<1)|1")
    .option("--trace-exits <file>", "record every exit with its answer")
    .option("--cross-check", "run on both engines, exit by exit, and stop at the first difference")
    .option("--virtual-time", "time passes with executed code: runs repeat (unicorn)")
    .option("--epoch <date>", "what the guest's clock says at the start (default: now)", epoch)
    .option("--registers", "print the CPU's registers when the VM ends")
    .addHelpText(
      "after",
      `
Examples:
  vctl start -c -b vmlinuz -i initrd.gz -a console=ttyS0 -m 1G web
  vctl start -c -b bsd openbsd
  vctl start -c -b bios.bin --engine unicorn firmware`,
    )
    .action(start);
}

function collect(value: string, previous: string[] = []): string[] {
  return [...previous, value];
}

async function start(name: string, options: StartOptions): Promise<void> {
  if (options.boot === undefined || options.boot === "")
    throw new UsageError("no kernel or disk/cdrom specified");
  if (!options.console) {
    throw new UsageError("start runs the VM in this terminal for now: -c is needed");
  }
  const settings: VmOptions = {
    name,
    kernel: options.boot,
    initrd: options.initrd,
    cmdline: options.append,
    modules: options.module,
    memory: options.memory,
    engine: options.engine,
    format: options.format,
    bits: options.bits,
    reboot: options.reboot,
    debugExit: options.debugExit,
    traceExits: options.traceExits,
    virtualTime: options.virtualTime,
    epoch: options.epoch,
  };
  if (options.crossCheck) {
    const other = ALONE.find((option) => given(options[option]));
    if (other !== undefined) throw new UsageError(`--cross-check doesn't go with ${flag(other)}`);
    return await checkOnBothEngines(settings);
  }
  const vm = await Vm.start(settings);
  if (vm.engineReason !== "") say(vm.engineReason);
  say(`${name}: ${vm.boot}; engine ${vm.engine}; ~. ends`);
  const attachment = attach(vm, () => void vm.stop());
  const ending = await vm.ended;
  await attachment.detach();
  report(ending, options.registers === true);
  if (attachment.failure !== undefined) throw new UsageError(attachment.failure);
  process.exit(ending.code);
}

/** What a run on both engines can't do: it chooses engines and time by itself, and records nothing. */
const ALONE = ["engine", "traceExits", "virtualTime", "registers"] as const;

function given(value: string | boolean | undefined): boolean {
  return value !== undefined && value !== false && value !== "auto";
}

function flag(option: string): string {
  return `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

async function checkOnBothEngines(settings: VmOptions): Promise<void> {
  const { BootFiles } = await import("../../vmd/boot-files.ts");
  const { crossCheck } = await import("../../vmd/cross-check.ts");
  const { memory, epoch } = checkVmOptions(settings);
  using files = BootFiles.open(settings);
  const result = crossCheck({
    engines: ENGINES,
    memory,
    epoch,
    debugExit: settings.debugExit === true,
    output: (bytes) => void writeSync(1, bytes),
    debug: (bytes) => void writeSync(2, bytes),
    rom: files.rom,
    load: (machine) => files.load(machine),
  });
  say(`${settings.name}: ${result.equal} exits are equal on ${ENGINES.join(" and ")}`);
  if (result.difference !== undefined) complain(`${result.difference}\n`);
  say(`${settings.name}: ${result.ending}`);
  process.exit(result.failed || result.difference !== undefined ? 1 : 0);
}

function report(ending: Ending, registers: boolean): void {
  say(ending.message);
  if (registers && ending.registers !== "") complain(`${ending.registers}\n`);
}
