/** Who may do what: vmd's rules for owners and for instances of templates. */
import type { RequestOf } from "../protocol.ts";
import { notPermitted, RefusalError } from "./refusal.ts";
import type { Caller, InstanceRights, Owner, VmSettings } from "./settings.ts";

/** Whether a caller rules the daemon: root, or, of a user's own daemon, that user. */
export function isAdministrator(caller: Caller, daemonUid: number): boolean {
  return caller.uid === 0 || caller.uid === daemonUid;
}

/** Whether a caller may operate what belongs to an owner. */
export function isOwner(caller: Caller, owner: Owner): boolean {
  if (caller.uid === owner.uid) return true;
  return owner.gid !== undefined && caller.groups.includes(owner.gid);
}

/** Requests that only the administrator may make. */
export const RESTRICTED: ReadonlySet<string> = new Set([
  "load",
  "reload",
  "reset",
  "log",
  // It may be anything, in the place of any VM.
  "receive",
]);

/** What of a start no template can allow. @throws RefusalError */
export function checkRights(request: RequestOf<"start">, administrator: boolean): void {
  if (administrator) return;
  const { shares = [], interfaces } = request;
  if (shares.some(({ user }) => user !== undefined)) {
    throw new RefusalError("EPERM", "a share's user is the administrator's to say");
  }
  if (interfaces.some(({ forwards = [] }) => forwards.length > 0)) {
    throw new RefusalError("EPERM", "port forwards are the administrator's to give");
  }
}

/**
 * The settings of an instance.
 * @throws RefusalError for what its template doesn't allow.
 */
export function instanceSettings(
  template: VmSettings | undefined,
  request: RequestOf<"start">,
  wanted: VmSettings,
  caller: Caller,
  administrator: boolean,
): VmSettings {
  if (template === undefined) throw new RefusalError("TEMPLATE", "invalid template");
  const { instances } = template;
  if (!administrator && !mayInstantiate(caller, instances)) throw notPermitted();
  const check = (given: boolean, right: keyof Omit<InstanceRights, "owner">) => {
    if (given && !administrator && instances?.[right] !== true) throw notPermitted();
  };
  const bootGiven = [request.kernel, request.initrd, request.cmdline, request.modules];
  check(
    bootGiven.some((value) => value !== undefined),
    "boot",
  );
  check(request.cpus !== undefined, "cpus");
  check(request.memory !== undefined, "memory");
  check(request.cdrom !== undefined, "cdrom");
  check(request.disks.length > 0 || request.shares !== undefined, "disk");
  check(
    request.interfaces.length > 0 ||
      request.interfaceCount !== undefined ||
      request.vsock !== undefined,
    "interface",
  );
  const theirs = new Set(template.disks.map(({ path }) => path));
  if (wanted.disks.some(({ path }) => theirs.has(path))) {
    throw new RefusalError("EBUSY", "an instance can't have a disk of its template");
  }
  const macs = new Set(template.interfaces.map(({ lladdr }) => lladdr));
  if (wanted.interfaces.some(({ lladdr }) => lladdr !== undefined && macs.has(lladdr))) {
    throw new RefusalError("EBUSY", "an instance can't have a link address of its template");
  }
  return {
    ...template,
    name: wanted.name,
    kernel: wanted.kernel ?? template.kernel,
    initrd: wanted.initrd ?? template.initrd,
    cmdline: wanted.cmdline ?? template.cmdline,
    modules: request.modules === undefined ? template.modules : wanted.modules,
    memory: request.memory === undefined ? template.memory : wanted.memory,
    disks: wanted.disks,
    cdrom: wanted.cdrom ?? template.cdrom,
    bootDevice: wanted.bootDevice ?? template.bootDevice,
    interfaces:
      wanted.interfaces.length > 0
        ? wanted.interfaces
        : template.interfaces.map(({ switch: name, local }) => ({ switch: name, local })),
    shares: request.shares === undefined ? template.shares : wanted.shares,
    // A path belongs to one VM.
    vsock: wanted.vsock,
    owner: wanted.owner,
    instances: instances?.instance === true ? instances : undefined,
    configured: false,
    machine: { ...template.machine, ...wanted.machine },
    trace: wanted.trace,
    record: wanted.record,
    gdb: wanted.gdb,
  };
}

function mayInstantiate(caller: Caller, rights: InstanceRights | undefined): boolean {
  const owner = rights?.owner;
  if (owner === undefined) return false;
  if (owner.uid !== undefined && caller.uid === owner.uid) return true;
  return owner.gid !== undefined && caller.groups.includes(owner.gid);
}
