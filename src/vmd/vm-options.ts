/** What a VM is started with, and the one place where that is checked. */
import { ENGINES } from "../vmm/engine-library.ts";
import type { DiskOption } from "./disk-files.ts";
import type { EngineChoice } from "../vmm/select.ts";
import type { BootFormat } from "./boot/index.ts";
import { findFirmware } from "./firmware.ts";
import type { OpenedInterface } from "./descriptions.ts";
import { checkShare, type ShareOption } from "./share-option.ts";
import { checkVsock, type VsockOption } from "./vsock-option.ts";
import { checkGdb, type GdbOption, parseGdb } from "./gdb-option.ts";
import { parseSize, SizeError } from "./size.ts";

/** Devices that a VM has when they are asked for. */
export const EXTRA_DEVICES = ["balloon", "console"] as const;
export type ExtraDevice = (typeof EXTRA_DEVICES)[number];

/** What to start. */
export interface VmOptions {
  /** For messages. Default "vm". */
  name?: string;
  /** Path of a kernel or firmware image. Default, with a disk or a disc: the host's firmware. */
  kernel?: string;
  /** Path of an initial RAM disk. */
  initrd?: string;
  /** Kernel command line. */
  cmdline?: string;
  /** Multiboot modules: paths, each perhaps with arguments after a space. */
  modules?: readonly string[];
  /** Disk images: paths, or what openVmDisk takes. */
  disks?: readonly (string | DiskOption)[];
  /** Path of a disc image. */
  cdrom?: string;
  /** More devices: a memory balloon, a virtio console (the guest's hvc0). */
  devices?: readonly ExtraDevice[];
  /** A socket device: AF_VSOCK in the guest, unix sockets at the path and behind it on the host. */
  vsock?: VsockOption;
  /** Directories that the guest may mount by 9p. */
  shares?: readonly ShareOption[];
  /** Network interfaces, by open descriptors, which are the VM's from then on. */
  interfaces?: readonly OpenedInterface[];
  /** What firmware boots from; default: the first disk. */
  bootDevice?: "cdrom" | "disk" | "net";
  /** Bytes, or a size such as "512M". Default 512 MiB. */
  memory?: number | string;
  /**
   * A processor that other engines and hosts have, too, so that the VM can go on there. Default false.
   */
  portable?: boolean;
  /** How fast its TSC counts, kHz. Default: 1 GHz, where KVM can't have that as the host's. */
  tscKhz?: number;
  /** Default "auto": KVM where it runs guests, else Unicorn. */
  engine?: EngineChoice;
  /** How to load the kernel. Default "auto": by what the file is. */
  format?: BootFormat | "auto";
  /** Enter a kernel that has the choice in 32-bit mode. */
  bits?: 32 | 64;
  /** Port 0xf4 ends the VM with an exit code. Default false. */
  debugExit?: boolean;
  /** A guest's reset starts it again rather than ending it. Default true. */
  reboot?: boolean;
  /** Time that passes with executed code, so that runs repeat. Unicorn only. Default false. */
  virtualTime?: boolean;
  /** UTC at the start, in ms since 1970. Default now; with virtual time, the start of 2000. */
  epoch?: number;
  /** Whether its process gives up what it does not need. Default true. */
  sandbox?: boolean;
  /**
   * Where GDB may connect, "[HOST]:PORT" or a unix socket's path. The guest waits for it before its
   * first instruction.
   */
  gdb?: string | GdbOption;
  /** Record every exit in this file. */
  traceExits?: string;
  /**
   * Record the run in this file, so that it can be run again: with virtual time, on Unicorn.
   */
  record?: string;
}

/** Options with what has a default filled in. */
export interface VcpuOptions extends VmOptions {
  gdb?: GdbOption;
  name: string;
  kernel: string;
  memory: number;
  epoch: number;
}

/** A VM could not be started; the message is one sentence for the user. */
export class VmError extends Error {
  override name = "VmError";
}

/** Default RAM, bytes; as vmd's. */
const DEFAULT_MEMORY = 512 * 2 ** 20;
/** vmd's limits, bytes. */
export const MIN_MEMORY = 2 ** 20;
export const MAX_MEMORY = 128 * 2 ** 30;
export const TSC_KHZ_MIN = 100_000;
export const TSC_KHZ_MAX = 8_000_000;
const PAGE = 4096;
/** Runs that repeat start at a moment that is always the same. */
const VIRTUAL_EPOCH = Date.UTC(2000, 0, 1);

export const FORMATS: readonly (BootFormat | "auto")[] = [
  "auto",
  "linux",
  "vmlinux",
  "pvh",
  "openbsd",
  "netbsd",
  "freebsd",
  "multiboot",
  "firmware",
];

function memorySize(memory: number | string | undefined): number {
  if (typeof memory !== "string") return memory ?? DEFAULT_MEMORY;
  try {
    return parseSize(memory);
  } catch (error) {
    throw error instanceof SizeError ? new VmError(error.message) : error;
  }
}

function gdbOption(
  option: string | GdbOption | undefined,
  wrong: (what: string) => VmError,
): GdbOption | undefined {
  if (option === undefined) return undefined;
  if (typeof option !== "string") {
    const sentence = checkGdb(option);
    if (sentence !== undefined) throw wrong(sentence);
    return option;
  }
  try {
    return parseGdb(option);
  } catch (error) {
    throw wrong(`gdb ${option}: ${(error as Error).message}`);
  }
}

/** What of a machine would make each run another. */
function unrecordable({ engine, shares, vsock, gdb, traceExits }: VmOptions): string | undefined {
  if (engine === "kvm") return "engine kvm has no virtual time; use unicorn";
  if (shares !== undefined && shares.length > 0) return "a share's files are the host's";
  if (vsock !== undefined) return "a socket device leads to the host's sockets";
  if (gdb !== undefined) return "a debugger stops it where it wants";
  return traceExits === undefined ? undefined : "a trace of its exits is recorded already";
}

/** Fills in defaults. @throws VmError that names what won't do. */
export function checkVmOptions(options: VmOptions): VcpuOptions {
  const { name = "vm", engine = "auto", format = "auto", bits = 64 } = options;
  const memory = memorySize(options.memory);
  const virtualTime = options.virtualTime === true || options.record !== undefined;
  const epoch = options.epoch ?? (virtualTime ? VIRTUAL_EPOCH : Date.now());
  const wrong = (what: string) => new VmError(`${name}: ${what}`);
  const bootable = (options.disks ?? []).length > 0 || options.cdrom !== undefined;
  const kernel = options.kernel ?? (bootable ? findFirmware() : undefined);
  if (typeof kernel !== "string" || kernel === "") throw wrong("no kernel or firmware specified");
  if (!Number.isInteger(memory) || memory % PAGE !== 0) {
    throw wrong(`memory size ${memory} is not a whole number of pages`);
  }
  if (memory < MIN_MEMORY) throw wrong("memory size must be at least 1MB");
  if (memory > MAX_MEMORY) throw wrong("memory size too large (limit is 128G)");
  if (engine !== "auto" && !ENGINES.includes(engine)) {
    throw wrong(`engine ${engine}: it is auto, ${ENGINES.join(" or ")}`);
  }
  if (!FORMATS.includes(format)) throw wrong(`format ${format}: it is ${FORMATS.join(", ")}`);
  if (bits !== 32 && bits !== 64) throw wrong(`bits ${bits}: it is 32 or 64`);
  const { tscKhz } = options;
  if (tscKhz !== undefined) {
    if (options.portable !== true) throw wrong("only a portable processor's TSC can be chosen");
    if (!Number.isInteger(tscKhz) || tscKhz < TSC_KHZ_MIN || tscKhz > TSC_KHZ_MAX) {
      throw wrong(`TSC of ${tscKhz} kHz: it is a number from ${TSC_KHZ_MIN} to ${TSC_KHZ_MAX}`);
    }
  }
  if (options.portable && options.traceExits !== undefined) {
    throw wrong("a VM with a portable processor can't have its exits recorded");
  }
  for (const device of options.devices ?? []) {
    if (!EXTRA_DEVICES.includes(device)) {
      throw wrong(`device ${device}: it is ${EXTRA_DEVICES.join(" or ")}`);
    }
  }
  for (const share of options.shares ?? []) {
    const sentence = checkShare(share);
    if (sentence !== undefined) throw wrong(sentence);
  }
  const vsock = options.vsock && checkVsock(options.vsock);
  if (vsock !== undefined) throw wrong(vsock);
  if (!Number.isFinite(epoch)) throw wrong(`epoch ${epoch} is no time`);
  const gdb = gdbOption(options.gdb, wrong);
  if (gdb !== undefined && options.traceExits !== undefined) {
    throw wrong("a VM with a debugger can't have its exits recorded");
  }
  const checked = { ...options, name, kernel, memory, epoch, gdb };
  if (options.record === undefined) return checked;
  const not = unrecordable(options);
  if (not !== undefined) throw wrong(`it can't be recorded: ${not}`);
  return { ...checked, engine: "unicorn", virtualTime: true };
}
