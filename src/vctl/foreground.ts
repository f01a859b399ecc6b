/** A VM in the foreground: it needs no daemon, and ends with this command. */
import { type Ending, Vm, type VmOptions } from "../vmd/vm.ts";
import { checkVmOptions } from "../vmd/vm-options.ts";
import type { OpenedInterface } from "../vmd/descriptions.ts";
import type { PortForward } from "../vmd/net/port-forward.ts";
import { complain, say, UsageError } from "./cli.ts";
import { attach } from "./console.ts";
import { type GdbOption, waitsForGdb } from "../vmd/gdb-option.ts";
import type { StartOptions } from "./start-options.ts";

/** What a run on both engines can't do: it chooses engines and time by itself, and records nothing. */
const ALONE = [
  "disk",
  "cdrom",
  "bootDevice",
  "device",
  "vsock",
  "share",
  "gdb",
  "local",
  "engine",
  "portable",
  "tsc",
  "traceExits",
  "record",
  "virtualTime",
  "registers",
] as const;
/** What only vmd's VMs can have. */
const BY_DAEMON = { network: ", which has no switches: they are vmd's", template: "" } as const;

/** Exits with the code that the VM's end says. @throws UsageError, VmError */
export async function startInForeground(vm: number | string, options: StartOptions): Promise<void> {
  if (typeof vm === "number") throw new UsageError(`invalid VM name: ${vm}`);
  for (const [option, why] of Object.entries(BY_DAEMON)) {
    if (!given(options[option as keyof typeof BY_DAEMON])) continue;
    throw new UsageError(`${flag(option)} doesn't go with a VM in the foreground${why}`);
  }
  if (options.forward !== undefined && !options.local) {
    throw new UsageError("--forward goes with -L");
  }
  if (!options.boot && (options.disk ?? []).length === 0 && options.cdrom === undefined) {
    throw new UsageError("no kernel or disk/cdrom specified");
  }
  const { initrd } = options;
  if (initrd !== undefined && "interfaces" in initrd) {
    throw new UsageError("-i with a count doesn't go with a VM in the foreground");
  }
  const settings: VmOptions = {
    name: vm,
    kernel: options.boot,
    initrd: initrd?.path,
    cmdline: options.append,
    modules: options.module,
    disks: options.disk,
    cdrom: options.cdrom,
    bootDevice: options.bootDevice,
    devices: options.device,
    vsock: options.vsock,
    gdb: options.gdb,
    shares: options.share,
    memory: options.memory,
    engine: options.engine,
    format: options.format,
    bits: options.bits,
    reboot: options.reboot,
    debugExit: options.debugExit,
    traceExits: options.traceExits,
    record: options.record,
    virtualTime: options.virtualTime,
    portable: options.portable,
    tscKhz: options.tsc,
    epoch: options.epoch,
    sandbox: options.sandbox,
  };
  if (options.crossCheck) {
    const not = ALONE.find((option) => given(options[option]));
    if (not !== undefined) throw new UsageError(`--cross-check doesn't go with ${flag(not)}`);
    const { runConfined } = await import("./guest-host.ts");
    const job = { kind: "both", options: checkVmOptions(settings) } as const;
    process.exitCode = await runConfined(job, [], options.sandbox);
    return;
  }
  if (options.local) settings.interfaces = [await userInterface(vm, options.forward)];
  await run(settings, options.registers === true);
}

/** A local interface without vmd is a user-mode network: DHCP and NAT need no rights there. */
async function userInterface(
  name: string,
  forwards: readonly PortForward[] | undefined,
): Promise<OpenedInterface> {
  const { NetworkError, Networks, openedInterface } = await import("../vmd/net/index.ts");
  try {
    // passt ends when the VM's process does: nothing is left to be undone.
    const networks = new Networks({ root: false });
    const owner = { id: 1, name, place: 0 };
    return openedInterface(await networks.open({ local: true, forwards }, owner));
  } catch (error) {
    throw error instanceof NetworkError ? new UsageError(error.message) : error;
  }
}

async function run(settings: VmOptions, registers: boolean): Promise<void> {
  const vm = await Vm.start(settings);
  vm.onEvent((event) => {
    if (event.kind === "trouble") say(event.text);
  });
  if (vm.engineReason !== "") say(vm.engineReason);
  if (vm.unconfined !== "") say(vm.unconfined);
  say(`${vm.name}: ${vm.boot}; engine ${vm.engine}; ~. ends`);
  if (settings.gdb !== undefined) say(waitsForGdb(vm.name, settings.gdb as GdbOption));
  const attachment = attach(vm, () => void vm.stop());
  const ending = await vm.ended;
  await attachment.detach();
  report(ending, registers);
  if (attachment.failure !== undefined) throw new UsageError(attachment.failure);
  process.exit(ending.code);
}

function given(value: unknown): boolean {
  return value !== undefined && value !== false && value !== "auto";
}

function flag(option: string): string {
  return `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function report(ending: Ending, registers: boolean): void {
  say(ending.message);
  if (ending.image !== undefined) say(`final image: ${ending.image}`);
  if (registers && ending.registers !== "") complain(`${ending.registers}\n`);
}
