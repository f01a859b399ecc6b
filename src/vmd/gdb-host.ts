/**
 * Where a VM's debugger connects, as whoever started the VM sees it: it listens, with the rights of
 * who asked for it, and gives the listening socket to the VM process.
 */
import { closeSync } from "node:fs";
import { daemonLibrary, NativeError, ptr } from "../vmm/native.ts";
import { gdbAddress, type GdbOption } from "./gdb-option.ts";
import { ownRights, type VsockRights } from "./vsock-host.ts";

/** A debugger may do all to a VM: its owner's alone. */
const MODE = 0o600;
const EADDRINUSE = -98;
const ECONNREFUSED = -111;

export class GdbHost implements Disposable {
  readonly #path: string | undefined;
  readonly #rights: Pick<VsockRights, "listen" | "connect" | "remove">;
  #listener: number | undefined;

  /** @throws NativeError when it can't listen there */
  constructor(option: GdbOption, rights = ownRights) {
    this.#rights = rights;
    this.#path = "path" in option ? option.path : undefined;
    const listener = "path" in option ? this.#listen(option.path) : listenTcp(option);
    if (listener < 0) throw new NativeError(`gdb ${gdbAddress(option)}`, listener);
    this.#listener = listener;
  }

  #listen(path: string): number {
    const listener = this.#rights.listen(path, MODE);
    if (listener !== EADDRINUSE) return listener;
    // Of a VM that is gone?
    const other = this.#rights.connect(path);
    if (other >= 0) closeSync(other);
    if (other !== ECONNREFUSED) return listener;
    this.#rights.remove(path);
    return this.#rights.listen(path, MODE);
  }

  /** The listening socket, which is the caller's from then on. */
  take(): number {
    const listener = this.#listener;
    if (listener === undefined) throw new NativeError("the debugger's socket", -9);
    this.#listener = undefined;
    return listener;
  }

  /** Takes the socket away. */
  [Symbol.dispose](): void {
    if (this.#listener !== undefined) closeSync(this.#listener);
    this.#listener = undefined;
    if (this.#path !== undefined) this.#rights.remove(this.#path);
  }
}

function listenTcp({ host, port }: { host: string; port: number }): number {
  return daemonLibrary().vmm_listen_tcp(ptr(Buffer.from(`${host}\0`)), port);
}
