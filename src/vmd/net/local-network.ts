/**
 * What lets guests of local interfaces reach other networks: forwarding, and the nftables table
 * "inet vmd", which is made and removed whole.
 *
 * vmd leaves this to pf.conf. Here nobody expects to write it: guests get out under the host's
 * address, are answered, and nobody gets in unasked, unless the administrator's own rules redirect
 * them there. A guest's packets have its own address, or are dropped.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { NetworkError, runCommand, tryCommand } from "./host-command.ts";
import { formatIpv4, parseIpv4 } from "./ipv4.ts";

const FORWARD = "/proc/sys/net/ipv4/ip_forward";
const TABLE = "inet vmd";
const purpose = "a local interface's way to other networks";

/** A local interface. */
export interface LocalInterface {
  /** The tap's name. */
  readonly tap: string;
  readonly host: number;
  readonly guest: number;
}

export interface LocalNetworkOptions {
  /** The resolver that questions to the host's addresses are passed on to; absent: none. */
  resolver?: number;
}

export class LocalNetwork implements Disposable {
  /** Forwarding was off: then it is for local interfaces alone, and off again at the end. */
  readonly #turnedOn: boolean;
  #open = true;

  /** @throws NetworkError */
  constructor({ resolver }: LocalNetworkOptions = {}) {
    // A table that a daemon left behind that was killed says whether that one had turned it on.
    const left = nft(`list chain ${TABLE} forward`);
    this.#turnedOn = !forwards() || (left.code === 0 && left.out.includes("policy drop"));
    load(rules(this.#turnedOn, resolver));
    if (this.#turnedOn) forward(true);
  }

  /** @throws NetworkError */
  add(one: LocalInterface): void {
    load(elements("add", one));
  }

  /** Harmless when it isn't there any more. */
  remove(one: LocalInterface): void {
    nft(elements("delete", one));
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.#turnedOn) forward(false);
    load(`delete table ${TABLE}\n`);
  }
}

/** The host's resolver as others can reach it: not one that listens for the host alone. */
export function hostResolver(
  files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"],
): number | undefined {
  for (const file of files) {
    let text = "";
    try {
      text = readFileSync(file, "utf8");
    } catch {
      continue;
    }
    for (const [, address] of text.matchAll(/^\s*nameserver\s+(\S+)/gm)) {
      const resolver = parseIpv4(address);
      if (resolver !== undefined && resolver >>> 24 !== 127 && resolver !== 0) return resolver;
    }
  }
  return undefined;
}

function rules(turnedOn: boolean, resolver: number | undefined): string {
  const dns =
    resolver === undefined
      ? ""
      : `
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    iifname @interfaces ip daddr @hosts meta l4proto { tcp, udp } th dport 53 dnat ip to ${formatIpv4(resolver)}
  }`;
  return `
add table ${TABLE}
delete table ${TABLE}
table ${TABLE} {
  set interfaces { type ifname; }
  set hosts { type ipv4_addr; }
  set guests { type ipv4_addr; }
  set ends { type ifname . ipv4_addr; }
  chain spoofed {
    type filter hook prerouting priority raw; policy accept;
    iifname @interfaces meta nfproto ipv4 iifname . ip saddr != @ends drop
  }
  chain forward {
    type filter hook forward priority filter; policy ${turnedOn ? "drop" : "accept"};
    iifname @interfaces accept
    oifname @interfaces ct state established,related accept
    oifname @interfaces ct status dnat accept
    oifname @interfaces drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @guests oifname != @interfaces masquerade
  }${dns}
}
`;
}

function elements(what: "add" | "delete", { tap, host, guest }: LocalInterface): string {
  const [atHost, atGuest] = [formatIpv4(host), formatIpv4(guest)];
  return [
    `${what} element ${TABLE} interfaces { "${tap}" }`,
    `${what} element ${TABLE} hosts { ${atHost} }`,
    `${what} element ${TABLE} guests { ${atGuest} }`,
    `${what} element ${TABLE} ends { "${tap}" . ${atGuest} }`,
    "",
  ].join("\n");
}

function nft(script: string): { code: number | null; out: string } {
  return tryCommand(["nft", "-f", "-"], { input: script, purpose });
}

function load(script: string): void {
  runCommand(["nft", "-f", "-"], { input: script, purpose });
}

function forwards(): boolean {
  return readFileSync(FORWARD, "utf8").trim() === "1";
}

function forward(on: boolean): void {
  try {
    writeFileSync(FORWARD, on ? "1" : "0");
  } catch (error) {
    throw new NetworkError(`${FORWARD}: ${(error as NodeJS.ErrnoException).code ?? error}`);
  }
}
