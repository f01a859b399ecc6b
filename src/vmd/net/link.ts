/** Network interfaces of the host, by ip(8). */
import { runCommand, tryCommand } from "./host-command.ts";

export interface Link {
  name: string;
  /** "bridge", "tun", …; absent: a device of its own. */
  kind?: string;
  /** "fe:e1:ba:d1:00:01" */
  address: string;
}

const purpose = "a network interface";

/** ip(8) with these words. @throws NetworkError */
export function ip(...words: string[]): string {
  return runCommand(["ip", ...words], { purpose });
}

/** @returns undefined when there is no such interface. @throws NetworkError */
export function findLink(name: string): Link | undefined {
  const { code, out } = tryCommand(["ip", "-json", "-details", "link", "show", "dev", name], {
    purpose,
  });
  if (code !== 0) return undefined;
  const [link] = JSON.parse(out) as { address?: string; linkinfo?: { info_kind?: string } }[];
  return { name, kind: link.linkinfo?.info_kind, address: link.address ?? "" };
}

/** Interfaces' names as Linux takes them, of which those that vm.conf takes are some. */
export function isLinkName(name: string): boolean {
  return /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/.test(name);
}
