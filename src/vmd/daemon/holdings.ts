/**
 * What the daemon holds of the host for a VM: what it boots from, disks, terminal, interfaces, shares,
 * sockets. All is opened with the rights of whoever named it, and given back when the VM has ended.
 */
import { closeSync } from "node:fs";
import type { Accounts } from "../accounts.ts";
import type { GdbHost } from "../gdb-host.ts";
import { type InterfaceEnd, type Networks, openedInterface } from "../net/index.ts";
import { SHARE_ROOT_FLAGS, ShareError } from "../share/share-host.ts";
import type { ShareOption } from "../share-option.ts";
import { type OpenedShare, openShares } from "../shares.ts";
import type { VmLaunch } from "../vm-host.ts";
import type { Confinement } from "../vm-messages.ts";
import type { VsockHost } from "../vsock-host.ts";
import { openGdb } from "./gdb.ts";
import type { Log } from "./log.ts";
import { Resources } from "./resources.ts";
import { openAs, type VmSettings } from "./settings.ts";
import { openVsock } from "./vsock.ts";

/** What of the daemon it takes. */
export interface HoldingsContext {
  readonly log: Log;
  readonly accounts: () => Accounts;
  /** Absent: VM processes are not confined. */
  readonly confine: Confinement | undefined;
  readonly networks: Networks;
}

export class Holdings implements Disposable {
  readonly resources: Resources;
  readonly #id: number;
  readonly #settings: VmSettings;
  readonly #context: HoldingsContext;
  readonly #ends: InterfaceEnd[] = [];
  #shares: OpenedShare[] = [];
  #vsock: VsockHost | undefined;
  #gdb: GdbHost | undefined;
  /** The VM's process has what was opened for it. */
  #given = false;

  /** Opens files. @param id the VM's @throws RefusalError */
  constructor(
    id: number,
    settings: VmSettings,
    context: HoldingsContext,
    kind: { restored: boolean; disksLater: boolean },
  ) {
    this.#id = id;
    this.#settings = settings;
    this.#context = context;
    this.resources = new Resources(settings, context.accounts(), kind);
  }

  /** Opens the rest; what was opened before it fails is given back with it. @throws RefusalError, ShareError, NetworkError */
  async connect(): Promise<void> {
    const settings = this.#settings;
    await this.#openInterfaces();
    this.#shares = await this.#openShares();
    this.#vsock = openVsock(settings, this.#context.accounts());
    this.#gdb = openGdb(settings);
  }

  /** As a VM's process is started with it. */
  get launch(): Pick<VmLaunch, "interfaces" | "vsock" | "gdb" | "shares"> &
    Pick<Resources, "files" | "trace" | "disks" | "cdrom" | "terminal"> {
    const { files, trace, disks, cdrom, terminal } = this.resources;
    const interfaces = this.#ends.map((end, place) => {
      return { ...openedInterface(end), limits: this.#settings.interfaces[place].limits };
    });
    const sockets = { vsock: this.#vsock, gdb: this.#gdb, shares: this.#shares };
    return { files, trace, disks, cdrom, terminal, interfaces, ...sockets };
  }

  /** Where its interfaces lead, in their order. */
  get ends(): readonly InterfaceEnd[] {
    return this.#ends;
  }

  /** The VM's process has its descriptors. */
  given(): void {
    this.#given = true;
    this.resources.given();
  }

  async #openInterfaces(): Promise<void> {
    const { networks, log } = this.#context;
    const { name, interfaces, bootDevice } = this.#settings;
    for (const [place, request] of interfaces.entries()) {
      const whose = { id: this.#id, name, place, bootNet: bootDevice === "net" };
      const end = await networks.open(request, whose);
      this.#ends.push(end);
      log.debug("interface", { vm: name, place, where: end.where });
    }
  }

  /** As whoever named them: with their rights a directory is opened, and its files are theirs. */
  async #openShares(): Promise<OpenedShare[]> {
    const opened: OpenedShare[] = [];
    const { log, confine } = this.#context;
    const { name, shares = [] } = this.#settings;
    const warn = (message: string) => log.warn(message, { vm: name });
    for (const { by, ...share } of shares) {
      const foreign = by !== undefined && by.uid !== process.geteuid!();
      const open = ({ path }: ShareOption) => {
        try {
          return openAs(path, SHARE_ROOT_FLAGS, by);
        } catch (error) {
          throw new ShareError(`share ${path}: ${(error as NodeJS.ErrnoException).code}`);
        }
      };
      try {
        const whom = foreign ? { uid: by.uid, gid: by.gid } : confine;
        opened.push(...(await openShares([share], { confine: whom, open, warn })));
      } catch (error) {
        for (const { host } of opened) host.stop();
        throw error;
      }
    }
    return opened;
  }

  [Symbol.dispose](): void {
    for (const { host } of this.#shares.splice(0)) host.stop();
    for (const end of this.#ends.splice(0)) {
      if (!this.#given) closeSync(end.descriptor);
      this.#context.networks.close(end);
    }
    this.#vsock?.[Symbol.dispose]();
    this.#gdb?.[Symbol.dispose]();
    this.resources[Symbol.dispose]();
  }
}
