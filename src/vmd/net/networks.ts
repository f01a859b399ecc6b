/**
 * The networks of a daemon: for each interface of a VM, the other end that its configuration asks
 * for, and that the daemon's rights allow.
 *
 *               root                                      anybody
 *   switch      a tap in the switch's bridge              a port of the switch's process
 *   local       a tap with an address, and NAT            passt
 *   tap named   that tap                                  that tap, made for this user before
 *   nothing     a tap, for the administrator to use       passt
 *   forwards    passt                                     passt
 */
import { closeSync } from "node:fs";
import type { Confinement } from "../vm-messages.ts";
import { Bridge } from "./bridge.ts";
import type { LocalLease } from "./dhcp.ts";
import { NetworkError } from "./host-command.ts";
import {
  LOCAL_PREFIX,
  LocalAddressError,
  localAddresses,
  type LocalPrefix,
} from "./local-address.ts";
import { hostResolver, LocalNetwork } from "./local-network.ts";
import { hostMacOf, isInterfaceMac, parseMac, randomMac } from "./mac.ts";
import { Passt } from "./passt.ts";
import type { PortForward } from "./port-forward.ts";
import { SwitchHost } from "./switch-host.ts";
import { openTap, type TapOptions } from "./tap.ts";

/** A switch as vm.conf has it. */
export interface SwitchRequest {
  readonly name: string;
  readonly enable?: boolean;
  /** The bridge's name. */
  readonly interface: string;
  readonly lockedLladdr?: boolean;
  readonly up?: boolean;
}

/** An interface as vm.conf has it. */
export interface InterfaceRequest {
  readonly local: boolean;
  readonly tap?: string;
  readonly lladdr?: string;
  readonly lockedLladdr?: boolean;
  readonly switch?: string;
  readonly up?: boolean;
  /** Ports of the host that lead to the guest: with passt only. */
  readonly forwards?: readonly PortForward[];
}

/** Whose interface it is. */
export interface InterfaceOwner {
  readonly id: number;
  readonly name: string;
  /** The interface's place, from 0. */
  readonly place: number;
  /** It boots from the network. */
  readonly bootNet?: boolean;
}

/** What a VM process gets. The descriptor is its; what is here must go with it. */
export interface InterfaceEnd {
  /**
   * tap and switch: packets behind a virtio header of 12 bytes, which take offloads (setTapOffloads,
   * offloadMessage). passt: a stream of frames, each behind its length of 4 bytes, without offloads.
   */
  readonly kind: "tap" | "switch" | "passt";
  readonly descriptor: number;
  /** The guest's link address. */
  readonly mac: Uint8Array;
  /** Frames from other addresses are to be dropped. */
  readonly locked: boolean;
  /** A local interface's: DHCP is answered with it by the VM process. */
  readonly lease?: LocalLease;
  /** Where it is, for status and log: "tap3", "switch lan", "passt". */
  readonly where: string;
}

export interface NetworksOptions {
  readonly switches?: readonly SwitchRequest[];
  readonly localPrefix?: LocalPrefix;
  /** How processes of switches confine themselves, and whom passt becomes. */
  readonly confine?: Confinement;
  /** Told what isn't as it should be. */
  readonly warn?: (message: string) => void;
  /** Default: whether this process is root's. */
  readonly root?: boolean;
}

export class Networks implements Disposable {
  readonly #options: NetworksOptions;
  readonly #root: boolean;
  readonly #bridges = new Map<string, Bridge>();
  readonly #switches = new Map<string, SwitchHost>();
  readonly #ends = new Map<InterfaceEnd, () => void>();
  #local: LocalNetwork | undefined;
  #request: ReadonlyMap<string, SwitchRequest>;

  constructor(options: NetworksOptions = {}) {
    this.#options = options;
    this.#root = options.root ?? process.geteuid!() === 0;
    this.#request = byName(options.switches ?? []);
  }

  /** From the next interface on: a configuration was read again. Switches in use stay. */
  set switches(switches: readonly SwitchRequest[]) {
    this.#request = byName(switches);
  }

  /** Opens an interface's other end. @throws NetworkError */
  async open(request: InterfaceRequest, owner: InterfaceOwner): Promise<InterfaceEnd> {
    const mac = macOf(request, owner);
    if (request.switch !== undefined && request.local) {
      throw new NetworkError("an interface is local, or in a switch: not both");
    }
    if ((request.forwards ?? []).length > 0) {
      if (request.switch === undefined && request.tap === undefined) {
        return await this.#passt(request, mac);
      }
      throw new NetworkError("port forwards are for user-mode networks, not for a switch or a tap");
    }
    if (request.switch !== undefined) return await this.#inSwitch(request, owner, mac);
    if (request.local && this.#root) return this.#localEnd(request, owner, mac);
    if (this.#root || request.tap !== undefined) return this.#tap(request, owner, mac);
    return await this.#passt(request, mac);
  }

  /** Undoes what was done for an interface, but for the descriptor, whoever has it. */
  close(end: InterfaceEnd): void {
    const undo = this.#ends.get(end);
    this.#ends.delete(end);
    undo?.();
  }

  /** Removes what was made: bridges, switches, the table for local interfaces. */
  [Symbol.dispose](): void {
    for (const end of [...this.#ends.keys()]) this.close(end);
    for (const one of this.#bridges.values()) one[Symbol.dispose]();
    this.#bridges.clear();
    for (const one of this.#switches.values()) one.stop();
    this.#switches.clear();
    this.#local?.[Symbol.dispose]();
    this.#local = undefined;
  }

  async #inSwitch(
    request: InterfaceRequest,
    owner: InterfaceOwner,
    mac: Uint8Array,
  ): Promise<InterfaceEnd> {
    const found = this.#request.get(request.switch!);
    if (found === undefined) throw new NetworkError(`switch "${request.switch}" not found`);
    if (found.enable === false) throw new NetworkError(`switch "${found.name}" is disabled`);
    const locked = request.lockedLladdr === true || found.lockedLladdr === true;
    if (this.#root) {
      const { name: bridge } = this.#bridge(found);
      return this.#tap({ ...request, lockedLladdr: locked }, owner, mac, { bridge });
    }
    const host = this.#switch(found.name);
    try {
      const unconfined = await host.running();
      if (unconfined !== "") this.#options.warn?.(`switch ${found.name}: ${unconfined}`);
      const { number, descriptor } = await host.addPort(locked ? mac : undefined);
      const end = {
        kind: "switch",
        descriptor,
        mac,
        locked,
        where: `switch ${found.name}`,
      } as const;
      this.#ends.set(end, () => host.removePort(number));
      return end;
    } catch (error) {
      throw new NetworkError((error as Error).message);
    }
  }

  #bridge({ name, interface: link, up }: SwitchRequest): Bridge {
    let bridge = this.#bridges.get(link);
    if (bridge === undefined) {
      const place = [...this.#request.keys()].indexOf(name);
      bridge = new Bridge({ name: link, description: `switch${place}-${name}`, up });
      this.#bridges.set(link, bridge);
    }
    return bridge;
  }

  #switch(name: string): SwitchHost {
    let host = this.#switches.get(name);
    if (host === undefined) {
      const made = new SwitchHost({ name, confine: this.#options.confine });
      host = made;
      this.#switches.set(name, made);
      // The next VM has a new one, should it end.
      void this.#forget(made);
    }
    return host;
  }

  // The next VM has a new one, should it end.
  async #forget(host: SwitchHost): Promise<void> {
    await host.ended;
    if (this.#switches.get(host.name) === host) this.#switches.delete(host.name);
  }

  #tap(
    request: InterfaceRequest,
    owner: InterfaceOwner,
    mac: Uint8Array,
    more: TapOptions = {},
  ): InterfaceEnd {
    const { name, descriptor } = openTap({
      name: request.tap,
      mac: hostMacOf(mac),
      description: `vm${owner.id}-if${owner.place}-${owner.name}`,
      up: request.up,
      ...more,
    });
    const locked = request.lockedLladdr === true;
    return { kind: "tap", descriptor, mac, locked, where: name };
  }

  #localEnd(request: InterfaceRequest, owner: InterfaceOwner, mac: Uint8Array): InterfaceEnd {
    const { localPrefix = LOCAL_PREFIX } = this.#options;
    let addresses: { host: number; guest: number };
    try {
      addresses = localAddresses(localPrefix, owner.id, owner.place);
    } catch (error) {
      if (error instanceof LocalAddressError) throw new NetworkError(error.message);
      throw error;
    }
    const { host, guest } = addresses;
    this.#local ??= new LocalNetwork({ resolver: hostResolver() });
    const local = this.#local;
    const tap = this.#tap(request, owner, mac, { address: host });
    const one = { tap: tap.where, host, guest };
    try {
      local.add(one);
    } catch (error) {
      closeSync(tap.descriptor);
      throw error;
    }
    const lease = {
      ...{ mac, hostMac: hostMacOf(mac), hostAddress: host, guestAddress: guest },
      // vmd's hints for an unattended installation.
      ...(owner.bootNet === true ? { bootFile: "auto_install", hostName: owner.name } : {}),
    };
    const end = { ...tap, lease };
    this.#ends.set(end, () => local.remove(one));
    return end;
  }

  async #passt(
    { forwards, lockedLladdr }: InterfaceRequest,
    mac: Uint8Array,
  ): Promise<InterfaceEnd> {
    const { descriptor } = await Passt.start({
      forwards,
      mac: hostMacOf(mac),
      user: this.#options.confine,
      mtu: 1500,
    });
    return { kind: "passt", descriptor, mac, locked: lockedLladdr === true, where: "passt" };
  }
}

function byName(switches: readonly SwitchRequest[]): ReadonlyMap<string, SwitchRequest> {
  return new Map(switches.map((one) => [one.name, one]));
}

function macOf({ lladdr }: InterfaceRequest, { place }: InterfaceOwner): Uint8Array {
  const mac = lladdr === undefined ? new Uint8Array(6) : parseMac(lladdr);
  // All zeros are vmd's way to say: any.
  if (mac?.every((byte) => byte === 0)) return randomMac(place);
  if (mac !== undefined && isInterfaceMac(mac)) return mac;
  throw new NetworkError(`${lladdr} is no address of an interface`);
}
