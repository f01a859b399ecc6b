/** A switch of vm.conf as a bridge of the host. Where there is none, it is made, and removed again. */
import { NetworkError } from "./host-command.ts";
import { formatMac, hostMacOf, randomMac } from "./mac.ts";
import { findLink, ip, isLinkName } from "./link.ts";

export interface BridgeOptions {
  /** "bridge0": the switch's `interface`. */
  name: string;
  /** What ip(8) shows: "switch0-lan". */
  description?: string;
  /** Default: true. */
  up?: boolean;
}

export class Bridge implements Disposable {
  readonly name: string;
  /** Whether it was made here. */
  readonly isMade: boolean;
  #open = true;

  /** @throws NetworkError */
  constructor({ name, description, up = true }: BridgeOptions) {
    if (!isLinkName(name)) throw new NetworkError(`${name} is no name for an interface`);
    const found = findLink(name);
    if (found !== undefined && found.kind !== "bridge") {
      throw new NetworkError(`${name} is an interface already, and no bridge`);
    }
    this.name = name;
    this.isMade = found === undefined;
    // With an address of its own: else it is one of its members', and changes when a VM ends, while
    // the others still send to the old one.
    const address = formatMac(hostMacOf(randomMac(0)));
    if (this.isMade) ip("link", "add", "name", name, "address", address, "type", "bridge");
    try {
      // One that was there keeps its description: it is somebody's.
      if (this.isMade && description !== undefined) {
        ip("link", "set", "dev", name, "alias", description);
      }
      ip("link", "set", "dev", name, up ? "up" : "down");
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Removes it, if it was made here. */
  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.isMade && findLink(this.name) !== undefined) ip("link", "delete", "dev", this.name);
  }
}
