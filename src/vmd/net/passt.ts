/**
 * User-mode networks: a passt(1) process is at the other end, which makes the host's sockets of what
 * a guest sends. It needs no rights. On its socket, a stream, each frame is behind its length: 32
 * bits, in network order; there is no virtio header.
 *
 * It answers ARP, DHCP and router solicitations, with the host's own address, route and resolver.
 */
import { chownSync, closeSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { check, netLibrary, ptr } from "../../vmm/native.ts";
import { commandEnvironment, missing, NetworkError } from "./host-command.ts";
import { formatIpv4 } from "./ipv4.ts";
import { hostResolver } from "./local-network.ts";
import { formatMac } from "./mac.ts";
import { formatPortForward, type PortForward } from "./port-forward.ts";

/** It has so long to begin, ms. */
const PATIENCE = 5000;
const LOOK = 5;
/** What it says is kept up to here, for the sentence that tells why it ended. */
const LONGEST = 4096;

export interface PasstOptions {
  /** Whom it runs as, where root starts it. Default: nobody. */
  user?: { readonly uid?: number; readonly gid?: number };
  forwards?: readonly PortForward[];
  /** Its link address. Default: the host's. */
  mac?: Uint8Array;
  /** The guest's IPv4 address; its mask's length; the gateway's. Default: as the host has them. */
  address?: { readonly guest: number; readonly length: number; readonly gateway: number };
  /** Whether the gateway's address leads to the host's own services, those on 127.0.0.1 too. */
  hostAccess?: boolean;
  mtu?: number;
}

export class Passt {
  readonly pid: number;
  /** The VM's end, to be handed over and closed: passt ends when nobody has it any more. */
  readonly descriptor: number;
  /** Resolves when it is gone, with what it said last. Never rejects. */
  readonly ended: Promise<string>;
  readonly #process: Bun.Subprocess<"ignore", "ignore", "pipe">;

  private constructor(
    process: Bun.Subprocess<"ignore", "ignore", "pipe">,
    descriptor: number,
    ended: Promise<string>,
  ) {
    this.#process = process;
    this.pid = process.pid;
    this.descriptor = descriptor;
    this.ended = ended;
  }

  /** Starts one, and waits until it forwards. @throws NetworkError */
  static async start(options: PasstOptions = {}): Promise<Passt> {
    const env = commandEnvironment();
    const program = Bun.which("passt", { PATH: env.PATH });
    if (program === null) throw missing("passt", "a user-mode network");
    const pair = new Int32Array(2);
    check("a pair of sockets", netLibrary().vmm_passt_pair(ptr(pair)));
    const [ours, theirs] = pair;
    // It writes its number there when it is ready, as the user that it becomes.
    const folder = mkdtempSync(join(tmpdir(), "vmd-passt-"));
    const ready = join(folder, "pid");
    let passt: Passt;
    try {
      const user = userOf(options);
      if (user !== undefined) chownSync(folder, user.uid, user.gid);
      const process = Bun.spawn([program, ...words(options, ready)], {
        stdio: ["ignore", "ignore", "pipe", theirs],
        env,
      });
      const said = lastWords(process.stderr);
      const ended = process.exited.then(async () => await said);
      passt = new Passt(process, ours, ended);
    } catch (error) {
      closeSync(ours);
      rmSync(folder, { recursive: true, force: true });
      throw error;
    } finally {
      closeSync(theirs);
    }
    try {
      await passt.#begin(ready, options.forwards ?? []);
      return passt;
    } catch (error) {
      closeSync(ours);
      passt.stop();
      throw error;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  async #begin(ready: string, forwards: readonly PortForward[]): Promise<void> {
    const end = performance.now() + PATIENCE;
    while (!isWritten(ready)) {
      if (this.#process.exitCode !== null || this.#process.signalCode !== null) {
        throw new NetworkError(explain(await this.ended, forwards));
      }
      if (performance.now() > end) throw new NetworkError("passt does not begin");
      await Bun.sleep(LOOK);
    }
  }

  stop(): void {
    this.#process.kill("SIGKILL");
  }
}

/** Whom it becomes; undefined: it stays who it is. */
function userOf({ user }: PasstOptions): { uid: number; gid: number } | undefined {
  if (process.geteuid!() !== 0) return undefined;
  const uid = user?.uid ?? 65_534;
  return { uid, gid: user?.gid ?? uid };
}

function words(options: PasstOptions, ready: string): string[] {
  const { forwards = [], mac, address, hostAccess = false, mtu } = options;
  const list = ["--foreground", "--quiet", "--stderr", "--fd", "3", "--pid", ready];
  const user = userOf(options);
  if (user !== undefined) list.push("--runas", `${user.uid}:${user.gid}`);
  if (mac !== undefined) list.push("--mac-addr", formatMac(mac));
  if (mtu !== undefined) list.push("--mtu", `${mtu}`);
  if (address !== undefined) {
    list.push("--address", formatIpv4(address.guest), "--netmask", `${address.length}`);
    list.push("--gateway", formatIpv4(address.gateway));
  }
  if (!hostAccess) {
    list.push("--no-map-gw");
    // Without that way, a resolver on 127.0.0.1 is none for the guest.
    const resolver = hostResolver();
    if (resolver !== undefined) list.push("--dns", formatIpv4(resolver));
  }
  for (const [protocol, option] of [
    ["tcp", "--tcp-ports"],
    ["udp", "--udp-ports"],
  ] as const) {
    const some = forwards.filter((forward) => forward.protocol === protocol);
    for (const { address: host, port, guestPort } of some) {
      list.push(option, `${host}/${port}:${guestPort}`);
    }
    // UDP's would else be TCP's.
    if (some.length === 0) list.push(option, "none");
  }
  return list;
}

function isWritten(path: string): boolean {
  return (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 0;
}

async function lastWords(stream: ReadableStream<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) text = (text + decoder.decode(chunk)).slice(-LONGEST);
  const lines = text.split("\n").filter((line) => line !== "" && !line.endsWith(" to syslog"));
  return lines.at(-1) ?? "";
}

function explain(words: string, forwards: readonly PortForward[]): string {
  if (words.includes("External interface not usable")) {
    return "a user-mode network needs a way out: the host has no default route";
  }
  const port = /Failed to bind any port for '-[tu] ([0-9.]+)\/([0-9]+):/.exec(words);
  const forward = forwards.find((one) => one.address === port?.[1] && `${one.port}` === port[2]);
  if (forward !== undefined) {
    return `port forward ${formatPortForward(forward)}: the host's port is in use, or not this user's`;
  }
  return `passt: ${words === "" ? "it ended" : words}`;
}
