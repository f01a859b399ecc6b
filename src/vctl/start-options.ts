/** The options of vctl start: vmctl's, and ours. */
import { Command, InvalidArgumentError, Option } from "commander";
import { parseSize } from "../vmd/size.ts";
import type { ExtraDevice, VmOptions } from "../vmd/vm-options.ts";
import { EXTRA_DEVICES, FORMATS, MAX_MEMORY, TSC_KHZ_MAX, TSC_KHZ_MIN } from "../vmd/vm-options.ts";
import {
  MAX_FORWARDS,
  parsePortForward,
  type PortForward,
  sameHostPort,
} from "../vmd/net/port-forward.ts";
import { parseShare, type ShareOption } from "../vmd/share-option.ts";
import { type GdbOption, parseGdb } from "../vmd/gdb-option.ts";
import { parseVsock, type VsockOption } from "../vmd/vsock-option.ts";
import type { DiskOption } from "../vmd/disk-files.ts";
import { type NetworkOption, parseDisk, parseNetwork } from "./device-words.ts";
import { ENGINES } from "../vmm/engine-library.ts";

const MIB = 2 ** 20;
const MAX_DISKS = 4;
const MAX_INTERFACES = 4;
const MAX_SHARES = 4;

export interface StartOptions {
  console?: boolean;
  foreground?: boolean;
  boot?: string;
  bootDevice?: "cdrom" | "disk" | "net";
  /** A path, or how many interfaces there are to be. */
  initrd?: { path: string } | { interfaces: number };
  append?: string;
  module?: string[];
  memory?: number;
  cpus?: number;
  disk?: DiskOption[];
  cdrom?: string;
  network?: NetworkOption[];
  local?: boolean;
  forward?: PortForward[];
  template?: string;
  epoch?: number;
  engine?: VmOptions["engine"];
  portable?: boolean;
  tsc?: number;
  format?: VmOptions["format"];
  bits?: 32 | 64;
  reboot: boolean;
  sandbox: boolean;
  debugExit?: boolean;
  traceExits?: string;
  record?: string;
  virtualTime?: boolean;
  crossCheck?: boolean;
  registers?: boolean;
  device?: ExtraDevice[];
  vsock?: VsockOption;
  gdb?: GdbOption;
  share?: ShareOption[];
}

/** For an option that is given once at most. */
function once<T>(what: string, parse: (text: string) => T) {
  return (text: string, previous: T | undefined): T => {
    if (previous !== undefined) throw new InvalidArgumentError(`${what} specified multiple times.`);
    return parse(text);
  };
}

const asIs = (text: string) => text;

function memory(text: string): number {
  let size: number;
  try {
    size = Math.floor(parseSize(text) / MIB) * MIB;
  } catch {
    throw new InvalidArgumentError("it is no size such as 512M or 1G.");
  }
  if (size < MIB) throw new InvalidArgumentError("memory size must be at least 1MB.");
  if (size > MAX_MEMORY) throw new InvalidArgumentError("memory size too large (limit is 128G).");
  return size;
}

function epoch(text: string): number {
  const time = Date.parse(text);
  if (!Number.isNaN(time)) return time;
  throw new InvalidArgumentError("it is no date such as 2026-01-01T12:00:00Z.");
}

function bits(text: string): 32 | 64 {
  if (text !== "32" && text !== "64") throw new InvalidArgumentError("it is 32 or 64.");
  return Number(text) as 32 | 64;
}

function tsc(text: string): number {
  const khz = Number(text);
  if (Number.isInteger(khz) && khz >= TSC_KHZ_MIN && khz <= TSC_KHZ_MAX) return khz;
  throw new InvalidArgumentError(`it is no number from ${TSC_KHZ_MIN} to ${TSC_KHZ_MAX}.`);
}

function cpus(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > 64) {
    throw new InvalidArgumentError("it is no number from 1 to 64.");
  }
  if (count > 1) throw new InvalidArgumentError("this machine has one CPU.");
  return count;
}

/** vmctl's -i is a count of interfaces; a path is an initial RAM disk. */
function initrd(text: string): { path: string } | { interfaces: number } {
  if (!/^[0-9]+$/.test(text)) return { path: text };
  const count = Number(text);
  if (count > MAX_INTERFACES) throw new InvalidArgumentError("too many network interfaces.");
  return { interfaces: count };
}

/** For an option that may be given again. @param parse throws a sentence. */
function several<T>(limit: number, message: string, parse: (text: string) => T) {
  return (text: string, previous: T[] = []): T[] => {
    if (previous.length >= limit) throw new InvalidArgumentError(message);
    try {
      return [...previous, parse(text)];
    } catch (error) {
      throw new InvalidArgumentError(`${(error as Error).message}.`);
    }
  };
}

function forward(text: string, previous: PortForward[] = []): PortForward[] {
  if (previous.length === MAX_FORWARDS) throw new InvalidArgumentError("too many port forwards.");
  const one = parsePortForward(text);
  if (one === undefined) {
    throw new InvalidArgumentError("it is no port forward such as 2222:22 or 0.0.0.0:53:53/udp.");
  }
  if (previous.some((other) => sameHostPort(one, other))) {
    throw new InvalidArgumentError(`port ${one.port} of the host leads elsewhere.`);
  }
  return [...previous, one];
}

function device(text: string, previous: ExtraDevice[] = []): ExtraDevice[] {
  const found = EXTRA_DEVICES.find((one) => one === text);
  if (found === undefined) {
    throw new InvalidArgumentError(`it is ${EXTRA_DEVICES.join(" or ")}.`);
  }
  return previous.includes(found) ? previous : [...previous, found];
}

function share(text: string, previous: ShareOption[] = []): ShareOption[] {
  if (previous.length === MAX_SHARES) throw new InvalidArgumentError("too many shares.");
  const one = parseShare(text);
  if (typeof one === "string") throw new InvalidArgumentError(one);
  if (previous.some(({ tag }) => tag === one.tag)) {
    throw new InvalidArgumentError(`another share has the tag ${one.tag}.`);
  }
  return [...previous, one];
}

function vsock(text: string): VsockOption {
  try {
    return parseVsock(text);
  } catch (error) {
    throw new InvalidArgumentError(`${(error as Error).message}.`);
  }
}

/** Where gdb connects, of the command line. */
export function gdb(text: string): GdbOption {
  try {
    return parseGdb(text);
  } catch (error) {
    throw new InvalidArgumentError(`${(error as Error).message}.`);
  }
}

/** Adds them to the command. */
export function addStartOptions(command: Command): Command {
  const option = (flags: string, description: string) => new Option(flags, description);
  return command
    .option("-c, --console", "attach the VM's console to this terminal")
    .addOption(
      option("-b, --boot <path>", "kernel or firmware image").argParser(once("boot image", asIs)),
    )
    .addOption(
      option("-i, --initrd <path>", "initial RAM disk; or a count of network interfaces").argParser(
        once("initrd", initrd),
      ),
    )
    .addOption(
      option("-a, --append <cmdline>", "kernel command line").argParser(once("command line", asIs)),
    )
    .option(
      "--module <path and arguments>",
      "Multiboot module (repeatable)",
      several(16, "too many modules.", asIs),
    )
    .addOption(
      option("-m, --memory <size>", "memory, for example 512M or 2G (default: 512M)").argParser(
        once("memory", memory),
      ),
    )
    .option(
      "-d, --disk <[format:]path[,ro][,rate=size][,burst=size][,operations=number]>",
      "disk image (repeatable)",
      several(MAX_DISKS, "too many disks.", parseDisk),
    )
    .addOption(option("-r, --cdrom <path>", "ISO image").argParser(once("iso image", asIs)))
    .addOption(
      option("-B, --boot-device <device>", "what to boot from").choices(["cdrom", "disk", "net"]),
    )
    .option(
      "-n, --network <switch[,rate=size][,burst=size][,operations=number]>",
      "interface on this switch (repeatable)",
      several(MAX_INTERFACES, "too many network interfaces.", parseNetwork),
    )
    .option("-L, --local", "interface in local mode")
    .option(
      "--forward <[address:]port:port[/udp]>",
      "with -L, a port of the host that leads to the guest's, by a user-mode network (repeatable)",
      forward,
    )
    .addOption(option("-p, --cpus <count>", "virtual CPUs (1)").argParser(once("cpus", cpus)))
    .addOption(
      option("-t, --template <name>", "create the VM as an instance of this one").argParser(
        once("template", asIs),
      ),
    )
    .addOption(
      option("--engine <engine>", "what runs the guest's code (default: auto)").choices([
        "auto",
        ...ENGINES,
      ]),
    )
    .option("--portable", "a processor that both engines have: it can go on with the other")
    .option("--tsc <kHz>", "with --portable, how fast its time-stamp counter counts", tsc)
    .addOption(
      option("--format <format>", "how to load the kernel (default: auto)").choices([...FORMATS]),
    )
    .option("--bits <32|64>", "enter the kernel in this mode, where it has the choice", bits)
    .addOption(
      option("--device <device>", "a device more (repeatable)")
        .choices([...EXTRA_DEVICES])
        .argParser(device),
    )
    .option(
      "--share <tag=path[,ro][,allow=glob][,deny=glob][,user=name]>",
      "a directory that the guest may mount by 9p (repeatable)",
      share,
    )
    .option("--vsock <cid,path>", "a socket device, and where the host reaches the guest", vsock)
    .addOption(
      option(
        "--gdb <[host]:port or path>",
        "wait for GDB there before the first instruction (host: 127.0.0.1)",
      ).argParser(once("gdb", gdb)),
    )
    .option("--no-reboot", "a guest's reset ends the VM instead of starting it again")
    .option("--debug-exit", "a write of N to port 0xf4 ends the VM with exit code (N<<1)|1")
    .option("--trace-exits <file>", "record every exit with its answer")
    .option(
      "--record <file>",
      "record the run: vctl replay runs it again (unicorn, with virtual time)",
    )
    .option("--virtual-time", "time passes with executed code: runs repeat (unicorn)")
    .option("--epoch <date>", "what the guest's clock says at the start (default: now)", epoch)
    .option("--foreground", "run it here, with no daemon: it ends with this command")
    .option("--cross-check", "run on both engines, exit by exit, and stop at the first difference")
    .option("--registers", "print the CPU's registers when a VM in the foreground ends")
    .option("--no-sandbox", "a VM in the foreground keeps this user, its files and system calls");
}
