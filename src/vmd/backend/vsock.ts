/**
 * The host's side of a guest's sockets, in the VM process: a stream socket for each connection.
 *
 * This process may not connect, so whoever started it does (vsock-host.ts), and hands over the
 * descriptors. Bytes go straight between them and guest memory; what a socket doesn't take is kept,
 * 64 KiB of a connection's at most, as the device sees to it.
 */
import { closeSync } from "node:fs";
import type { GuestMemory } from "../../vmm/memory.ts";
import { type Pointer, processLibrary, ptr } from "../../vmm/native.ts";
import { Watch } from "../console-hub.ts";
import {
  READ_END,
  READ_GONE,
  type VsockBackend,
  type VsockEvents,
} from "../virtio/vsock-backend.ts";
import { VsockShutdown } from "../virtio/vsock-packet.ts";
import { BUFFER } from "../virtio/vsock.ts";

/** Connections at once: this process has 1024 descriptors, and others to use them for. */
export const SOCKETS_MAX = 768;
/** Connections that a guest asks for in a second: each costs whoever started this process work. */
export const ASKS_PER_SECOND = 500;
const EAGAIN = -11;
/** Descriptors that are looked at in one call. */
const POLLED = 256;

export interface VsockSocketsHost {
  /** Told what is to wake the vCPU: descriptors, and bits of Watch. */
  watch(descriptor: number, events: number): void;
  /** Asks for a connection to a port; `answer` brings it. */
  ask(id: number, port: number): void;
  /** Somebody is at the listening socket. Not called again before `listen`. */
  knock(): void;
  /** ms, for what is allowed in a second. */
  now(): number;
}

interface Connection {
  /** −1 while it is asked for. */
  descriptor: number;
  /** What it is asked for by. */
  readonly id: number;
  /** The guest has agreed to it. */
  accepted: boolean;
  /** There may be something to read. */
  readable: boolean;
  /** Nothing more comes. */
  ended: boolean;
  /** The guest takes nothing more. */
  deaf: boolean;
  /** Nothing can be written any more. */
  broken: boolean;
  /** A ring of what the guest sent and the socket didn't take. */
  kept: Uint8Array | undefined;
  head: number;
  count: number;
  /** Nothing more is sent once that is gone. */
  shutLater: boolean;
}

export class VsockSockets implements VsockBackend {
  readonly #listener: number;
  readonly #host: VsockSocketsHost;
  readonly #connections = new Map<number, Connection>();
  /** Keys by what was asked. */
  readonly #asked = new Map<number, number>();
  /** Buffers that no connection uses now. */
  readonly #spare: Uint8Array[] = [];
  readonly #keys = new Uint32Array(SOCKETS_MAX);
  readonly #descriptors = new Int32Array(SOCKETS_MAX + 1);
  readonly #events = new Int32Array(SOCKETS_MAX + 1);
  #memory!: GuestMemory;
  #device: VsockEvents | undefined;
  #listens = false;
  #knocked = false;
  #lastId = 0;
  #second = 0;
  #asks = 0;
  #look = false;

  /** @param listener a listening socket, which is only looked at: this process may not accept. */
  constructor(listener: number, host: VsockSocketsHost) {
    this.#listener = listener;
    this.#host = host;
  }

  /** A machine begins. */
  begin(memory: GuestMemory): this {
    this.#memory = memory;
    this.#look = true;
    if (!this.#listens) this.#host.watch(this.#listener, Watch.INPUT);
    this.#listens = true;
    return this;
  }

  attach(device: VsockEvents): void {
    this.#device = device;
  }

  // --- from outside

  /** The answer to what was asked: a descriptor that doesn't block, or none. */
  answer(id: number, descriptor?: number): void {
    const key = this.#asked.get(id);
    this.#asked.delete(id);
    const connection = key === undefined ? undefined : this.#connections.get(key);
    if (key === undefined || connection === undefined) {
      // The guest, or its machine, has forgotten it.
      if (descriptor !== undefined) closeSync(descriptor);
      return;
    }
    if (descriptor === undefined) {
      this.#connections.delete(key);
      this.#device?.refused(key);
      return;
    }
    connection.descriptor = descriptor;
    connection.readable = true;
    this.#host.watch(descriptor, Watch.INPUT);
    this.#device?.connected(key);
  }

  /** Somebody, at the other end of the descriptor, wants to reach a port of the guest's. */
  open(port: number, descriptor: number): void {
    const full = this.#connections.size >= SOCKETS_MAX;
    const key = full ? undefined : this.#device?.incoming(port);
    if (key === undefined) {
      closeSync(descriptor);
      return;
    }
    this.#connections.set(key, connectionOf(0, descriptor));
    this.#host.watch(descriptor, Watch.INPUT);
  }

  /** Who was at the listening socket has been let in: it is to be looked at again. */
  listen(): void {
    this.#knocked = false;
    this.#look = true;
  }

  /** Something may have come: `poll` is to look. */
  attend(): void {
    this.#look = true;
  }

  /** Tells the device what came. */
  poll(): void {
    if (!this.#look) return;
    this.#look = false;
    let count = 0;
    for (const [key, connection] of this.#connections) {
      const events =
        (connection.readable && connection.accepted && !connection.deaf ? 0 : Watch.INPUT) |
        (connection.count > 0 ? Watch.ROOM : 0);
      if (connection.descriptor < 0 || events === 0) continue;
      this.#keys[count] = key;
      this.#descriptors[count] = connection.descriptor;
      this.#events[count] = events;
      count++;
    }
    if (!this.#knocked) {
      this.#descriptors[count] = this.#listener;
      this.#events[count] = Watch.INPUT;
      count++;
    }
    for (let from = 0; from < count; from += POLLED) {
      const length = Math.min(POLLED, count - from);
      processLibrary().vmm_poll(
        ptr(this.#descriptors, 4 * from),
        ptr(this.#events, 4 * from),
        length,
        0,
      );
    }
    if (!this.#knocked && this.#events[--count] !== 0) {
      this.#knocked = true;
      this.#host.knock();
    }
    for (let i = 0; i < count; i++) this.#came(this.#keys[i], this.#events[i]);
  }

  #came(key: number, events: number): void {
    const connection = this.#connections.get(key);
    if (connection === undefined) return;
    if ((events & Watch.ROOM) !== 0) this.#flush(key, connection);
    if ((events & Watch.INPUT) === 0) return;
    if (connection.ended || connection.deaf || !connection.accepted) {
      // Who only shuts down half still takes something.
      if (isGone(connection)) this.#device?.ended(key);
      return;
    }
    connection.readable = true;
    this.#device?.available(key);
  }

  /** The machine is about to go: so do its connections. */
  abandon(): void {
    for (const key of [...this.#connections.keys()]) this.close(key);
    this.#device = undefined;
  }

  // --- from the device

  connect(key: number, port: number): boolean {
    const second = Math.floor(this.#host.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#asks = 0;
    }
    if (this.#connections.size >= SOCKETS_MAX || ++this.#asks > ASKS_PER_SECOND) return false;
    const id = ++this.#lastId;
    this.#asked.set(id, key);
    const connection = connectionOf(id, -1);
    connection.accepted = true;
    this.#connections.set(key, connection);
    this.#host.ask(id, port);
    return true;
  }

  accepted(key: number): void {
    const connection = this.#connections.get(key);
    if (connection === undefined) return;
    connection.accepted = true;
    connection.readable = true;
    const answer = Buffer.from(`OK ${this.#device?.hostPort(key)}\n`);
    if (send(connection, ptr(answer), answer.length) < answer.length) connection.broken = true;
  }

  write(key: number, address: number, length: number): number {
    const connection = this.#connections.get(key);
    // For whoever is gone it is as good as there.
    if (connection === undefined || connection.broken) return length;
    let sent = 0;
    if (connection.count === 0) {
      sent = send(connection, this.#memory.pointer(address, length) as Pointer, length);
      if (sent < 0) {
        this.#broke(connection);
        return length;
      }
    }
    if (sent < length) this.#keep(connection, address + sent, length - sent);
    return sent;
  }

  read(key: number, address: number, length: number): number {
    const connection = this.#connections.get(key);
    if (connection === undefined || !connection.readable) return 0;
    const { descriptor } = connection;
    const pointer = this.#memory.pointer(address, length) as Pointer;
    const got = Number(processLibrary().vmm_read(descriptor, pointer, length));
    if (got > 0) {
      this.#memory.written(address, got);
      return got;
    }
    connection.readable = false;
    if (got === EAGAIN) return 0;
    connection.ended = true;
    return got < 0 || isGone(connection) ? READ_GONE : READ_END;
  }

  shutdown(key: number, what: number): void {
    const connection = this.#connections.get(key);
    if (connection === undefined || connection.descriptor < 0) return;
    let now = what;
    if ((what & VsockShutdown.RECEIVE) !== 0) connection.deaf = true;
    if ((what & VsockShutdown.SEND) !== 0 && connection.count > 0) {
      connection.shutLater = true;
      now &= ~VsockShutdown.SEND;
    }
    if (now !== 0) processLibrary().vmm_shutdown(connection.descriptor, now);
  }

  close(key: number): void {
    const connection = this.#connections.get(key);
    if (connection === undefined) return;
    this.#connections.delete(key);
    this.#asked.delete(connection.id);
    this.#spareBuffer(connection);
    if (connection.descriptor < 0) return;
    this.#host.watch(connection.descriptor, Watch.NOTHING);
    closeSync(connection.descriptor);
  }

  // --- what is kept

  #keep(connection: Connection, address: number, length: number): void {
    if (connection.kept === undefined) {
      connection.kept = this.#spare.pop() ?? new Uint8Array(BUFFER);
      this.#host.watch(connection.descriptor, Watch.INPUT | Watch.ROOM);
    }
    const { kept } = connection;
    const at = (connection.head + connection.count) % BUFFER;
    const first = Math.min(length, BUFFER - at);
    this.#memory.read(address, kept.subarray(at, at + first));
    if (first < length) this.#memory.read(address + first, kept.subarray(0, length - first));
    connection.count += length;
  }

  #flush(key: number, connection: Connection): void {
    const before = connection.count;
    while (connection.count > 0) {
      const kept = connection.kept as Uint8Array;
      const length = Math.min(connection.count, BUFFER - connection.head);
      const sent = send(connection, ptr(kept, connection.head), length);
      if (sent < 0) {
        this.#broke(connection);
        break;
      }
      if (sent === 0) break;
      connection.head = (connection.head + sent) % BUFFER;
      connection.count -= sent;
    }
    const left = before - connection.count;
    if (connection.count === 0) {
      this.#spareBuffer(connection);
      this.#host.watch(connection.descriptor, Watch.INPUT);
      if (connection.shutLater) {
        connection.shutLater = false;
        processLibrary().vmm_shutdown(connection.descriptor, VsockShutdown.SEND);
      }
    }
    if (left > 0) this.#device?.room(key, left);
  }

  /** The other side takes nothing more; what it has sent can still be read. */
  #broke(connection: Connection): void {
    connection.broken = true;
    connection.count = 0;
    // If it was shut down for reading it says nothing more of itself.
    this.#look = true;
  }

  #spareBuffer(connection: Connection): void {
    if (connection.kept !== undefined) this.#spare.push(connection.kept);
    connection.kept = undefined;
    connection.head = connection.count = 0;
  }
}

function connectionOf(id: number, descriptor: number): Connection {
  return {
    descriptor,
    id,
    accepted: false,
    readable: false,
    ended: false,
    deaf: false,
    broken: false,
    kept: undefined,
    head: 0,
    count: 0,
    shutLater: false,
  };
}

/** @returns bytes that were taken, 0 when there is no room, less when nobody will take any. */
function send({ descriptor }: Connection, data: Pointer, length: number): number {
  const sent = Number(processLibrary().vmm_send(descriptor, data, length, null, 0));
  return sent === EAGAIN ? 0 : sent;
}

const nothing = new Uint8Array(1);

/** Whether nobody is at the other end: then even nothing can't be sent. */
function isGone(connection: Connection): boolean {
  return connection.broken || send(connection, ptr(nothing), 0) < 0;
}
