/**
 * The daemon's front door: the control socket, the control process behind it, and the clients whose
 * requests come through. Who a client is, the kernel says here, where it is accepted.
 */
import { chownSync, closeSync, existsSync, unlinkSync } from "node:fs";
import { daemonLibrary, libraryPath, NativeError, ptr } from "../../vmm/native.ts";
import { programPath } from "../../vmm/root.ts";
import { Channel } from "../channel.ts";
import { connectDescriptor } from "../descriptor-socket.ts";
import { parseRequest, type Reply, type Request } from "../protocol.ts";
import type { Confinement } from "../vm-messages.ts";
import { type FromControl, PIECE, type ToControl } from "./control-messages.ts";
import { environment } from "../environment.ts";
import type { Log } from "./log.ts";
import type { Owner } from "./settings.ts";

/** Clients of one user, but for root's. */
const CLIENTS_PER_USER = 32;
const RETRY = 10;
/** Requests of a connection that have no answer yet: each costs memory here. */
const PENDING = 64;
/** The control process is started again, but not this often in this time, ms. */
const RESTARTS = 5;
const RESTART_WINDOW = 10_000;

/** A client, as the daemon sees it. */
export interface Client {
  readonly id: number;
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  /** Aborted when it goes. */
  readonly gone: AbortSignal;
}

/** What a request comes to. */
export interface Answer {
  reply: Record<string, unknown>;
  /** Goes to the client, and is closed here. */
  descriptor?: number;
}

export interface FrontDoorOptions {
  path: string;
  /** Owner of the socket; absent: whoever runs this. */
  owner: Owner | undefined;
  confine: Confinement | undefined;
  log: Log;
  /** Answers a request. @throws an Error whose `code` and message the client is told */
  handle(request: Request, client: Client): Promise<Answer>;
  /** The control process ended by itself. */
  broken(why: string): void;
}

/** Another daemon has the socket. */
export class SocketError extends Error {
  override name = "SocketError";
}

export class FrontDoor {
  readonly #options: FrontDoorOptions;
  readonly #listener: number;
  readonly #clients = new Map<number, Client & { abort: AbortController; pending: number }>();
  #channel!: Channel;
  #process!: Bun.Subprocess;
  #starts: number[] = [];
  #lastClient = 0;
  #closed = false;
  #retrying = false;

  /** @throws SocketError, NativeError */
  constructor(options: FrontDoorOptions) {
    this.#options = options;
    this.#listener = listenAt(options.path, options.owner);
    this.#start();
  }

  #start(): void {
    const { confine } = this.#options;
    const [ours, theirs] = Channel.pair();
    this.#channel = new Channel(ours);
    const identity = [confine?.uid ?? -1, confine?.gid ?? -1].map(String);
    const program = [process.execPath, programPath("vmd/daemon/control.ts"), ...identity];
    this.#process = Bun.spawn(
      confine === undefined ? program : [libraryPath("vmd-launch"), ...program, "confine"],
      { stdio: ["ignore", "ignore", "inherit", theirs, this.#listener], env: environment() },
    );
    closeSync(theirs);
    this.#starts.push(performance.now());
    void connectDescriptor(ours, {
      data: (_, data) => this.#hear(data.toString()),
      close: () => {},
    });
    void this.#watch(this.#process);
  }

  // Clients lose their connections, VMs notice nothing.
  async #watch(child: Bun.Subprocess): Promise<void> {
    const code = await child.exited;
    if (this.#closed) return;
    const how = child.signalCode ?? `code ${code}`;
    for (const client of this.#clients.keys()) this.#gone(client);
    this.#starts = this.#starts.filter((at) => performance.now() - at < RESTART_WINDOW);
    if (this.#starts.length >= RESTARTS) {
      this.#options.broken(`the control process ended with ${how}, again and again`);
      return;
    }
    this.#options.log.warn(`the control process ended with ${how}: started again`);
    this.#start();
  }

  get clients(): number {
    return this.#clients.size;
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Ends the control process, and with it all connections; takes the socket away. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#process.kill("SIGKILL");
    closeSync(this.#listener);
    try {
      unlinkSync(this.#options.path);
    } catch {
      // Somebody else took it away.
    }
  }

  #tell(message: ToControl, descriptors: readonly number[] = []): void {
    if (this.#closed) {
      for (const descriptor of descriptors) closeSync(descriptor);
      return;
    }
    this.#channel.send(message, descriptors);
    this.#flush();
  }

  #flush(): void {
    if (this.#retrying || this.#channel.backlog === 0) return;
    this.#retrying = true;
    setTimeout(() => {
      this.#retrying = false;
      this.#channel.flush();
      this.#flush();
    }, RETRY);
  }

  #hear(text: string): void {
    let message: FromControl;
    try {
      message = JSON.parse(text) as FromControl;
    } catch {
      this.#distrust("what is no message");
      return;
    }
    if (message.kind === "knock") this.#accept();
    else if (message.kind === "gone") this.#gone(message.client);
    else void this.#request(message.client, message.line);
  }

  // It reads what strangers send: one of them may have taken it over.
  #distrust(why: string): void {
    this.#options.log.warn(`the control process says ${why}`);
    this.#process.kill("SIGKILL");
  }

  #accept(): void {
    const { vmm_accept, vmm_peer } = daemonLibrary();
    const descriptor = vmm_accept(this.#listener);
    if (descriptor < 0) {
      this.#tell({ kind: "client" });
      return;
    }
    const ids = new Int32Array(3);
    const failed = vmm_peer(descriptor, ptr(ids)) < 0;
    const [uid, gid, pid] = ids;
    const same = [...this.#clients.values()].filter((client) => client.uid === uid).length;
    if (failed || (uid !== 0 && same >= CLIENTS_PER_USER)) {
      closeSync(descriptor);
      this.#tell({ kind: "client" });
      return;
    }
    const id = ++this.#lastClient;
    const abort = new AbortController();
    this.#clients.set(id, {
      id,
      uid: uid >>> 0,
      gid: gid >>> 0,
      pid,
      gone: abort.signal,
      abort,
      pending: 0,
    });
    this.#tell({ kind: "client", client: id }, [descriptor]);
  }

  #gone(id: number): void {
    const client = this.#clients.get(id);
    this.#clients.delete(id);
    client?.abort.abort();
  }

  async #request(id: number, line: string): Promise<void> {
    const client = this.#clients.get(id);
    if (client === undefined) return;
    const { log, handle } = this.#options;
    let parsed: ReturnType<typeof parseRequest>;
    try {
      parsed = parseRequest(line);
    } catch {
      this.#distrust("what is no request");
      return;
    }
    const { id: requestId, body } = parsed;
    if (client.pending >= PENDING) {
      const error = `more than ${PENDING} requests of this connection wait`;
      const refusal = { id: requestId, ok: false, code: "EAGAIN", error };
      this.#say(id, `${JSON.stringify(refusal)}\n`, undefined);
      return;
    }
    client.pending++;
    let reply: Reply;
    let descriptor: number | undefined;
    try {
      const answer = await handle(body, client);
      reply = { id: requestId, ok: true, ...answer.reply };
      descriptor = answer.descriptor;
    } catch (error) {
      const { message, stack, name } = error as Error;
      // A VM that ended before it answered is nobody's mistake.
      const code = (error as { code?: string }).code ?? (name === "VmError" ? "EIO" : undefined);
      if (code === undefined) log.warn(`internal error: ${stack ?? message}`);
      reply = {
        id: requestId,
        ok: false,
        code: code ?? "EIO",
        error: code === undefined ? "internal error; vmd's log says more" : message,
      };
    }
    client.pending--;
    this.#say(id, `${JSON.stringify(reply)}\n`, descriptor);
  }

  #say(client: number, text: string, descriptor: number | undefined): void {
    for (let at = 0; at < text.length; at += PIECE) {
      const last = at + PIECE >= text.length;
      const descriptors = last && descriptor !== undefined ? [descriptor] : [];
      this.#tell({ kind: "say", client, text: text.slice(at, at + PIECE) }, descriptors);
    }
  }
}

/** A socket at a path, in place of a dead one. @throws SocketError when another daemon answers there */
function listenAt(path: string, owner: Owner | undefined): number {
  const name = ptr(Buffer.from(`${path}\0`));
  if (existsSync(path)) {
    const other = daemonLibrary().vmm_connect(name);
    if (other >= 0) {
      closeSync(other);
      throw new SocketError(`${path}: another vmd is there already`);
    }
    unlinkSync(path);
  }
  const listener = daemonLibrary().vmm_listen(name, 0o660);
  if (listener < 0) throw new SocketError(new NativeError(path, listener).message);
  try {
    if (owner !== undefined) chownSync(path, owner.uid, owner.gid ?? 0);
  } catch (error) {
    closeSync(listener);
    unlinkSync(path);
    throw new SocketError(`${path}: ${(error as NodeJS.ErrnoException).code}`);
  }
  return listener;
}
