/** vctl start: starts a VM, by vmd, or in the foreground. */
import { Command, InvalidArgumentError } from "commander";
import { realpathSync } from "node:fs";
import { waitsForGdb } from "../../vmd/gdb-option.ts";
import type { RequestInput } from "../../vmd/protocol.ts";
import { formatPortForward } from "../../vmd/net/port-forward.ts";
import { say, UsageError, vmReference } from "../cli.ts";
import { type Answer, Client, RefusedError } from "../client.ts";
import { addStartOptions, type StartOptions } from "../start-options.ts";

type StartRequest = Extract<RequestInput, { request: "start" }>;

/** vmctl's texts for vmd's own codes. */
const OWN = new Set(["BIOS", "DISK", "NETWORK", "CDROM", "CDROMTYPE", "TEMPLATE"]);

function reference(text: string): number | string {
  try {
    return vmReference(text);
  } catch (error) {
    throw new InvalidArgumentError(`${(error as Error).message}.`);
  }
}

export function startCommand(): Command {
  const command = new Command("start")
    .description("Start a VM")
    .argument("<id>", "a configured VM's id or name, or a new VM's name", reference);
  return addStartOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  vctl start web                                   a VM of vm.conf
  vctl start -c -b vmlinuz -i initrd.gz -a console=ttyS0 -m 1G test
  vctl start -c -b bsd openbsd
  vctl start --foreground -b bios.bin --engine unicorn firmware`,
    )
    .action(start);
}

async function start(vm: number | string, options: StartOptions): Promise<void> {
  const { foreground: here, crossCheck } = options;
  const foreground = here === true || crossCheck === true;
  // Without a daemon, root's VM is this terminal's own; a user gets a daemon.
  const alone = options.console === true && process.geteuid!() === 0 && !Client.isThere();
  if (foreground || alone) {
    const { startInForeground } = await import("../foreground.ts");
    return await startInForeground(vm, options);
  }
  await startByDaemon(vm, options);
}

async function startByDaemon(vm: number | string, options: StartOptions): Promise<void> {
  if (options.registers) throw new UsageError("--registers goes with --foreground");
  if (!options.sandbox) throw new UsageError("--no-sandbox goes with --foreground, or is vmd's");
  const request = startRequest(vm, options);
  warn(request);
  using client = Client.connect({ start: true });
  let started: Answer;
  let descriptor: number | undefined;
  try {
    client.send({ ...request, attach: options.console });
    ({ answer: started, descriptor } = client.receive());
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    const own = OWN.has(error.code);
    throw new UsageError(own ? error.message : `start vm command failed: ${error.message}`);
  }
  say(`started vm ${started.vm} successfully, tty ${started.tty}`);
  if (request.gdb !== undefined) say(waitsForGdb(started.name, request.gdb));
  if (!options.console) return;
  say(`${started.name}: ${started.boot}; engine ${started.engine}; ~. detaches`);
  if (descriptor === undefined) throw new UsageError("read error");
  const { followDescriptor } = await import("../vm-console.ts");
  const end = await followDescriptor(client, started.vm, descriptor);
  process.exit(end?.code ?? 0);
}

/** What vmctl says about a VM that lacks something. */
function warn(request: StartRequest): void {
  const { request: _, vm: __, template, disks = [], interfaces = [], ...rest } = request;
  const given = Object.values(rest).some((value) => value !== undefined);
  if (!given && disks.length === 0 && interfaces.length === 0) return;
  if (template !== undefined) return;
  if (request.kernel === undefined && disks.length === 0 && request.cdrom === undefined) return;
  if (disks.length === 0) say("starting without disks");
  if (interfaces.length === 0 && !request.interfaceCount)
    say("starting without network interfaces");
}

function startRequest(vm: number | string, options: StartOptions): StartRequest {
  const { initrd, network = [], local, forward, append, disk = [] } = options;
  if (forward !== undefined && !local) throw new UsageError("--forward goes with -L");
  const interfaces = [
    ...(local ? [{ local: true, forwards: forward?.map(formatPortForward) }] : []),
    ...network.map((one) => ({ ...one, local: false })),
  ];
  if (interfaces.length > 4) throw new UsageError("too many network interfaces");
  return {
    request: "start",
    vm,
    template: options.template,
    kernel: canonical(options.boot),
    initrd: initrd !== undefined && "path" in initrd ? canonical(initrd.path) : undefined,
    interfaceCount: initrd !== undefined && "interfaces" in initrd ? initrd.interfaces : undefined,
    cmdline: append,
    modules: options.module?.map(canonicalModule),
    memory: options.memory,
    cpus: options.cpus,
    disks: disk.map((one) => ({ ...one, path: canonical(one.path) })),
    cdrom: canonical(options.cdrom),
    bootDevice: options.bootDevice,
    interfaces,
    engine: options.engine,
    format: options.format,
    bits: options.bits,
    reboot: options.reboot ? undefined : false,
    debugExit: options.debugExit,
    virtualTime: options.virtualTime,
    portable: options.portable,
    tscKhz: options.tsc,
    devices: options.device,
    shares: options.share?.map((one) => ({
      ...one,
      path: canonical(one.path),
      allow: [...(one.allow ?? [])],
      deny: [...(one.deny ?? [])],
    })),
    vsock: options.vsock && { ...options.vsock, path: absolute(options.vsock.path) },
    gdb:
      options.gdb !== undefined && "path" in options.gdb
        ? { path: absolute(options.gdb.path) }
        : options.gdb,
    epoch: options.epoch,
    traceExits: options.traceExits === undefined ? undefined : absolute(options.traceExits),
    record: options.record === undefined ? undefined : absolute(options.record),
  };
}

/** vmd has another working directory. @throws UsageError when there is no such file */
function canonical<T extends string | undefined>(path: T): T {
  if (path === undefined) return path;
  try {
    return realpathSync(path) as T;
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new UsageError(`${path}: ${missing ? "no such file" : (error as Error).message}`);
  }
}

function canonicalModule(specification: string): string {
  const space = specification.indexOf(" ");
  if (space < 0) return canonical(specification);
  return canonical(specification.slice(0, space)) + specification.slice(space);
}

function absolute(path: string): string {
  return path.startsWith("/") ? path : `${process.cwd()}/${path}`;
}
