/**
 * A guest's socket device, as whoever started its VM sees it: it connects for the guest, and lets
 * in who wants to reach the guest. The VM process, which may do neither, gets the descriptors.
 *
 * The paths are Firecracker's: see VsockOption.
 */
import { closeSync, lstatSync, unlinkSync } from "node:fs";
import { check, daemonLibrary, processLibrary, ptr } from "../vmm/native.ts";
import type { ToVm } from "./vm-messages.ts";
import type { VsockOption } from "./vsock-option.ts";

/** Only who the VM belongs to may reach its guest. */
const MODE = 0o600;
/** Clients that have not said yet what they want. */
export const PENDING_MAX = 64;
/** So many come in by one knock. */
const ENTERED_MAX = 256;
/** They have so long, ms. */
export const SILENCE_MAX = 5000;
/** How often they are looked at: after the first time, and at most, ms. */
const FIRST_LOOK = 1;
const LAST_LOOK = 50;
/** "CONNECT 4294967295", without its end. */
const LINE_MAX = 18;
const EAGAIN = -11;
const EADDRINUSE = -98;
const ECONNREFUSED = -111;
const NEWLINE = 10;

/** With whose rights paths are used. Results are descriptors, or negative errno values. */
export interface VsockRights {
  listen(path: string, mode: number): number;
  /** Never waits. */
  connect(path: string): number;
  remove(path: string): void;
}

const text = (path: string) => ptr(Buffer.from(`${path}\0`));

/** This process's own. */
export const ownRights: VsockRights = {
  listen: (path, mode) => daemonLibrary().vmm_listen(text(path), mode),
  connect: (path) => daemonLibrary().vmm_connect_now(text(path)),
  remove: (path) => {
    try {
      unlinkSync(path);
    } catch {
      // Somebody else took it away.
    }
  },
};

/** Modes of vmm_socket_as; native/vmm.h. */
const SocketMode = { CONNECT: -1, REMOVE: -2 } as const;

/** Another user's. Needs root. */
export function rightsOf(uid: number, gid: number, groups: readonly number[]): VsockRights {
  const all = Uint32Array.from(groups.length > 0 ? groups : [gid]);
  const as = (path: string, mode: number) =>
    daemonLibrary().vmm_socket_as(text(path), mode, uid, gid, ptr(all), all.length);
  return {
    listen: as,
    connect: (path) => as(path, SocketMode.CONNECT),
    remove: (path) => void as(path, SocketMode.REMOVE),
  };
}

/** One that has connected, and not said yet what it wants. */
interface Client {
  readonly descriptor: number;
  /** Until when it may take its time. */
  readonly until: number;
  line: string;
}

export class VsockHost implements Disposable {
  readonly cid: number;
  /** How the VM process is told; descriptors are closed there. */
  tell: (message: ToVm, descriptors?: readonly number[]) => void = (_, descriptors = []) => {
    for (const descriptor of descriptors) closeSync(descriptor);
  };
  readonly #path: string;
  readonly #rights: VsockRights;
  readonly #listener: number;
  readonly #silence: number;
  readonly #byte = new Uint8Array(1);
  #clients: Client[] = [];
  /** The VM process said that somebody is there. */
  #knocked = false;
  /** Clients let in since. */
  #entered = 0;
  #timer: Timer | undefined;
  #pause = FIRST_LOOK;
  #closed = false;

  /**
   * @param silence how long a client may say nothing, ms.
   * @throws NativeError when it can't listen at the path
   */
  constructor({ cid, path }: VsockOption, rights = ownRights, silence = SILENCE_MAX) {
    this.cid = cid;
    this.#path = path;
    this.#rights = rights;
    this.#silence = silence;
    let listener = rights.listen(path, MODE);
    if (listener === EADDRINUSE && this.#isLeft()) {
      rights.remove(path);
      listener = rights.listen(path, MODE);
    }
    this.#listener = check(`vsock ${path}`, listener);
  }

  /** Whether a VM that is no more has left its socket. */
  #isLeft(): boolean {
    try {
      if (!lstatSync(this.#path).isSocket()) return false;
    } catch {
      return false;
    }
    const descriptor = this.#rights.connect(this.#path);
    if (descriptor >= 0) closeSync(descriptor);
    return descriptor === ECONNREFUSED;
  }

  /** The listening socket, for the VM process to look at: a descriptor of its own. */
  listener(): number {
    return check("a descriptor", daemonLibrary().vmm_duplicate(this.#listener));
  }

  /** The guest wants to reach a port. */
  connect(id: number, port: number): void {
    if (this.#closed) return;
    const descriptor = this.#rights.connect(`${this.#path}_${port}`);
    this.tell({ kind: "vsock-answer", id }, descriptor < 0 ? [] : [descriptor]);
  }

  /** Somebody is at the listening socket. */
  accept(): void {
    if (this.#closed) return;
    this.#knocked = true;
    this.#entered = 0;
    this.#pause = FIRST_LOOK;
    this.#look();
  }

  #look(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#letIn();
    const now = performance.now();
    this.#clients = this.#clients.filter((client) => this.#isPending(client, now));
    // There may be room now.
    this.#letIn();
    if (this.#clients.length === 0) return;
    this.#timer = setTimeout(() => this.#look(), this.#pause);
    this.#pause = Math.min(2 * this.#pause, LAST_LOOK);
  }

  /** Takes those who are there, while there is room. */
  #letIn(): void {
    if (!this.#knocked) return;
    while (this.#clients.length < PENDING_MAX) {
      // With more of them, the VM process is to take these first, and to knock again.
      const enough = this.#entered++ >= ENTERED_MAX;
      const descriptor = enough ? EAGAIN : daemonLibrary().vmm_accept(this.#listener);
      if (descriptor < 0) {
        this.#knocked = false;
        this.tell({ kind: "vsock-listen" });
        return;
      }
      this.#clients.push({ descriptor, until: performance.now() + this.#silence, line: "" });
    }
  }

  /** Reads a client's line, and not one byte more: what follows is for the guest. */
  #isPending(client: Client, now: number): boolean {
    for (;;) {
      const got = Number(processLibrary().vmm_read(client.descriptor, ptr(this.#byte), 1));
      if (got === EAGAIN && now < client.until) return true;
      if (got !== 1) break;
      if (this.#byte[0] === NEWLINE) {
        const port = portOf(client.line);
        if (port === undefined) break;
        this.tell({ kind: "vsock-open", port }, [client.descriptor]);
        return false;
      }
      client.line += String.fromCharCode(this.#byte[0]);
      if (client.line.length > LINE_MAX) break;
    }
    closeSync(client.descriptor);
    return false;
  }

  /** Takes the socket away. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const { descriptor } of this.#clients.splice(0)) closeSync(descriptor);
    closeSync(this.#listener);
    this.#rights.remove(this.#path);
  }
}

/** The port of "CONNECT port". */
function portOf(line: string): number | undefined {
  const port = /^CONNECT (\d{1,10})$/.exec(line)?.[1];
  return port === undefined || Number(port) > 0xffffffff ? undefined : Number(port);
}
