/**
 * What the devices of a machine lead to that runs for nothing: nothing comes, and of what the guest
 * begins nothing is ever done.
 */
import type { StartFiles } from "../vm-messages.ts";
import type { VirtioBackends } from "../machine.ts";
import { parseMac } from "../net/mac.ts";
import type { BlockBackend } from "../virtio/blk.ts";
import type { NetBackend } from "../virtio/net.ts";

/** What a guest may read of a disk's size, bytes: it may have any. */
const SIZE = 2 ** 40;
const nothing = () => {};

/** @param devices names of those that are the machine's alone */
export function idleBackends(
  { disks, cdrom, interfaces }: Pick<StartFiles, "disks" | "cdrom" | "interfaces">,
  devices: readonly string[] = [],
): VirtioBackends {
  return {
    random: (into) => void crypto.getRandomValues(into),
    interfaces: interfaces.map(({ mac, locked, mtu, limits }) => {
      return { backend: idleNet(), mac: parseMac(mac) as Uint8Array, locked, mtu, limits };
    }),
    disks: disks.map(({ readOnly, limits }, index) => {
      return { backend: idleDisk(readOnly), id: `disk${index}`, limits };
    }),
    cdrom: cdrom && { size: SIZE, read: nothing },
    balloon: devices.includes("balloon") ? { discard: nothing } : undefined,
    console: devices.includes("console") ? { output: nothing, blocked: () => false } : undefined,
  };
}

function idleDisk(readOnly: boolean): BlockBackend {
  return {
    size: SIZE,
    readOnly,
    done: nothing,
    read: nothing,
    write: nothing,
    flush: nothing,
    discard: nothing,
    zero: nothing,
    poll: nothing,
    settle: nothing,
    abandon: nothing,
  };
}

function idleNet(): NetBackend {
  return {
    // A guest that has chosen offloads keeps them.
    offloads: true,
    start: nothing,
    settle: nothing,
    stop: nothing,
    canSend: true,
    send: () => true,
    offer: nothing,
    flush: nothing,
    look: () => false,
    sent: () => 0,
    receive: () => false,
    length: 0,
    buffers: 0,
    filled: nothing,
  };
}
