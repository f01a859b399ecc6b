/** A wire and a host's sockets for targets: backends.ts. */
import type { GuestMemory } from "../../src/vmm/memory.ts";
import type { Chain } from "../../src/vmd/virtio/chain.ts";
import type { NetBackend, NetOffloads } from "../../src/vmd/virtio/net.ts";
import {
  READ_END,
  READ_GONE,
  type VsockBackend,
  type VsockEvents,
} from "../../src/vmd/virtio/vsock-backend.ts";
import { must } from "../own/target.ts";
import { checkSpans, type FuzzBackend } from "./backends.ts";

export class FuzzWire implements NetBackend, FuzzBackend {
  readonly offloads = true;
  length = 0;
  buffers = 0;
  readonly #memory: GuestMemory;
  #started = false;
  #merge = false;
  #atOnce = true;
  #offered: Chain[] = [];
  #received: { length: number; buffers: number }[] = [];
  #under = 0;
  #gone = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  reset(): void {
    this.stop();
    this.#started = false;
    this.#atOnce = true;
  }

  mode(bits: number): void {
    this.#atOnce = (bits & 1) === 0;
  }

  finish(which: number): void {
    const count = Math.min(this.#under, 1 + (which & 7));
    this.#under -= count;
    this.#gone += count;
  }

  settleAll(): void {
    this.finish(255);
  }

  start(_accepted: NetOffloads, merge: boolean): void {
    this.#started = true;
    this.#merge = merge;
  }

  settle(): void {
    this.#gone += this.#under;
    this.#under = 0;
  }

  stop(): void {
    this.#offered = [];
    this.#received = [];
    this.#under = this.#gone = 0;
  }

  get canSend(): boolean {
    return this.#under < 8;
  }

  send(header: Uint8Array, chain: Chain, skip: number): boolean {
    must(this.#started, "a frame is sent by a device that is not started");
    const length = chain.readableBytes - skip;
    checkSpans(this.#memory, chain, false, skip, length);
    must(header.length + length <= 12 + 18 + 65535, `a frame of ${header.length + length} bytes`);
    // Of struct virtio_net_hdr: what the other side would take at its word.
    const flags = header[0];
    const end = (header[6] | (header[7] << 8)) + (header[8] | (header[9] << 8)) + 2;
    must((flags & 1) === 0 || end <= chain.readableBytes - 12, `a checksum at ${end}`);
    if (!this.#atOnce) this.#under++;
    return this.#atOnce;
  }

  offer(chain: Chain): void {
    must(this.#started, "a buffer is offered by a device that is not started");
    must(chain.writableBytes >= 12, "a buffer without room for a header");
    this.#offered.push(chain);
  }

  /** A frame comes from outside; without room it is lost. */
  arrive(length: number): void {
    if (!this.#started) return;
    const frame = new Uint8Array(12 + length).fill(7, 12);
    frame.fill(0, 0, 12);
    let room = 0;
    let buffers = 0;
    while (room < frame.length && buffers < this.#offered.length) {
      room += this.#offered[buffers++].writableBytes;
      if (!this.#merge) break;
    }
    if (room < frame.length) return;
    let at = 0;
    for (const chain of this.#offered.splice(0, buffers)) {
      checkSpans(this.#memory, chain, true, 0, chain.writableBytes);
      at += chain.write(0, frame.subarray(at));
    }
    this.#received.push({ length: frame.length, buffers });
  }

  flush(): void {}

  look(): boolean {
    return true;
  }

  sent(): number {
    const count = this.#gone;
    this.#gone = 0;
    return count;
  }

  receive(): boolean {
    const next = this.#received.shift();
    if (next === undefined) return false;
    ({ length: this.length, buffers: this.buffers } = next);
    return true;
  }

  filled(chain: Chain, length: number): void {
    must(length <= chain.writableBytes, `${length} bytes in a buffer of ${chain.writableBytes}`);
  }
}

/** Connections to a host that does with them what the input says. */
export class FuzzSockets implements VsockBackend, FuzzBackend {
  readonly #memory: GuestMemory;
  /** By key: bytes that are kept. */
  readonly open = new Map<number, number>();
  device!: VsockEvents;
  #takes = true;
  #gives = 0;
  #accepts = true;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  reset(): void {
    this.open.clear();
    this.#takes = this.#accepts = true;
    this.#gives = 0;
  }

  mode(bits: number): void {
    this.#takes = (bits & 1) === 0;
    this.#accepts = (bits & 2) === 0;
    this.#gives = bits >> 2;
  }

  settleAll(): void {
    this.#gives = 0;
    for (const key of this.open.keys()) this.#leave(key);
  }

  #leave(key: number): void {
    const kept = this.open.get(key) ?? 0;
    if (kept === 0) return;
    this.open.set(key, 0);
    this.device.room(key, kept);
  }

  /** Something happens to a connection. */
  event(what: number, which: number): void {
    const keys = [...this.open.keys()];
    const key = keys.length === 0 ? which : keys[which % keys.length];
    switch (what % 6) {
      case 0:
        this.device.connected(key);
        return;
      case 1:
        this.open.delete(key);
        this.device.refused(key);
        return;
      case 2:
        this.device.available(key);
        return;
      case 3:
        this.#leave(key);
        return;
      case 4:
        this.device.ended(key);
        return;
      default: {
        const coming = this.device.incoming(which);
        if (coming !== undefined) this.open.set(coming, 0);
      }
    }
  }

  attach(device: VsockEvents): void {
    this.device = device;
  }

  connect(key: number): boolean {
    if (this.#accepts) this.open.set(key, 0);
    return this.#accepts;
  }

  accepted(key: number): void {
    must(this.open.has(key), "a connection that nobody made is accepted");
  }

  write(key: number, address: number, length: number): number {
    must(this.#memory.contains(address, length), `0x${address.toString(16)}+${length} is no RAM`);
    if (this.#takes) return length;
    const kept = (this.open.get(key) ?? 0) + length;
    must(kept <= 65_536, `the host is to keep ${kept} bytes`);
    this.open.set(key, kept);
    return 0;
  }

  read(_key: number, address: number, length: number): number {
    must(length > 0 && this.#memory.contains(address, length), "no RAM is read into");
    const give = this.#gives;
    if (give === 62) return READ_END;
    if (give === 63) return READ_GONE;
    const bytes = Math.min(length, 16 * give);
    if (bytes > 0) this.#memory.fill(address, bytes, 0xa5);
    return bytes;
  }

  shutdown(): void {}

  close(key: number): void {
    this.open.delete(key);
  }
}
