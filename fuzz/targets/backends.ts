/**
 * Backends of virtio devices for targets: in memory, the same each time, done when the input says so,
 * and suspicious: what a device must never ask for is Wrong.
 */
import type { GuestMemory } from "../../src/vmm/memory.ts";
import type { NinePBackend } from "../../src/vmd/virtio/9p.ts";
import type { BalloonBackend } from "../../src/vmd/virtio/balloon.ts";
import type { BlockBackend } from "../../src/vmd/virtio/blk.ts";
import type { Chain } from "../../src/vmd/virtio/chain.ts";
import type { ConsoleBackend } from "../../src/vmd/virtio/console.ts";
import type { NetBackend, NetOffloads } from "../../src/vmd/virtio/net.ts";
import type { CdromBackend } from "../../src/vmd/virtio/scsi.ts";
import {
  READ_END,
  READ_GONE,
  type VsockBackend,
  type VsockEvents,
} from "../../src/vmd/virtio/vsock-backend.ts";
import { must } from "../own/target.ts";

/** What is under way, and ends when it is told to. */
class Pending {
  /** Everything is done at once. */
  atOnce = true;
  readonly #waiting: (() => void)[] = [];

  get length(): number {
    return this.#waiting.length;
  }

  add(finish: () => void): void {
    if (this.atOnce) finish();
    else this.#waiting.push(finish);
  }

  /** Ends one of them. */
  finish(which: number): void {
    const { length } = this.#waiting;
    if (length > 0) this.#waiting.splice(which % length, 1)[0]();
  }

  all(): void {
    while (this.#waiting.length > 0) this.finish(0);
  }

  clear(): void {
    this.#waiting.length = 0;
  }
}

/** What a target does to its backend between two of the guest's steps. */
export interface FuzzBackend {
  /** As new. */
  reset(): void;
  /** One thing that is under way ends, if any is. */
  finish?(which: number): void;
  /** Whether things end at once from now on, and how: bits of the input. */
  mode?(bits: number): void;
  /** Everything that is under way ends. */
  settleAll?(): void;
  /** It has something to tell before it can be as new, to a device that is ready. */
  readonly owes?: boolean;
}

/** Every piece of a chain's part lies in RAM, at the host's address that it says. */
function checkSpans(
  memory: GuestMemory,
  chain: Chain,
  writable: boolean,
  at: number,
  length: number,
) {
  const all = writable ? chain.writableBytes : chain.readableBytes;
  must(at >= 0 && length >= 0 && at + length <= all, `bytes ${at}+${length} of ${all} of a chain`);
  let seen = 0;
  chain.spans(writable, at, length, (address, bytes, host) => {
    must(memory.locate(address, bytes) === host, `0x${address.toString(16)}+${bytes} is no RAM`);
    seen += bytes;
  });
  must(seen === length, `a chain gave ${seen} bytes of ${length}`);
}

export class FuzzDisk implements BlockBackend, FuzzBackend {
  readonly size = 64 * 512;
  readonly readOnly: boolean;
  done: (tag: number, ok: boolean) => void = () => {};
  readonly #memory: GuestMemory;
  readonly #bytes = new Uint8Array(this.size);
  readonly #pending = new Pending();
  readonly #tags = new Set<number>();
  #failing = false;

  constructor(memory: GuestMemory, readOnly: boolean) {
    this.#memory = memory;
    this.readOnly = readOnly;
  }

  reset(): void {
    this.#pending.clear();
    this.#pending.atOnce = true;
    this.#tags.clear();
    this.#failing = false;
    this.#bytes.fill(0);
  }

  mode(bits: number): void {
    this.#pending.atOnce = (bits & 1) === 0;
    this.#failing = (bits & 2) !== 0;
  }

  finish(which: number): void {
    this.#pending.finish(which);
  }

  settleAll(): void {
    this.settle();
  }

  #begin(tag: number, offset: number, length: number, changes: boolean, work: () => void): void {
    must(!this.#tags.has(tag), `request ${tag} is under way twice`);
    must(offset >= 0 && length >= 0 && offset + length <= this.size, `disk: ${offset}+${length}`);
    must(!changes || !this.readOnly, "a write to a disk that is read-only");
    this.#tags.add(tag);
    this.#pending.add(() => {
      this.#tags.delete(tag);
      if (!this.#failing) work();
      this.done(tag, !this.#failing);
    });
  }

  read(tag: number, chain: Chain, offset: number, length: number, at = 0): void {
    checkSpans(this.#memory, chain, true, at, length);
    this.#begin(tag, offset, length, false, () => {
      chain.write(at, this.#bytes.subarray(offset, offset + length));
    });
  }

  write(tag: number, chain: Chain, at: number, offset: number, length: number): void {
    checkSpans(this.#memory, chain, false, at, length);
    this.#begin(tag, offset, length, true, () => {
      chain.read(at, this.#bytes.subarray(offset, offset + length));
    });
  }

  flush(tag: number): void {
    this.#begin(tag, 0, 0, false, () => {});
  }

  discard(tag: number, offset: number, length: number): void {
    this.#begin(tag, offset, length, true, () => {});
  }

  zero(tag: number, offset: number, length: number): void {
    this.#begin(tag, offset, length, true, () => {
      this.#bytes.fill(0, offset, offset + length);
    });
  }

  poll(): void {}

  settle(): void {
    this.#pending.all();
  }

  abandon(): void {
    this.#pending.clear();
    this.#tags.clear();
  }
}

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

export class FuzzTerminal implements ConsoleBackend, FuzzBackend {
  #blocked = false;

  reset(): void {
    this.#blocked = false;
  }

  mode(bits: number): void {
    this.#blocked = (bits & 1) !== 0;
  }

  settleAll(): void {
    this.#blocked = false;
  }

  output(bytes: Uint8Array): void {
    must(bytes.length > 0 && bytes.length <= 65_536, `output of ${bytes.length} bytes`);
    must(!this.#blocked, "output to a reader that takes none");
  }

  blocked(): boolean {
    return this.#blocked;
  }
}

export class FuzzDisc implements CdromBackend, FuzzBackend {
  readonly size = 64 * 2048;
  readonly #memory: GuestMemory;
  readonly #pending = new Pending();
  #failing = false;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  reset(): void {
    this.#pending.clear();
    this.#pending.atOnce = true;
    this.#failing = false;
  }

  mode(bits: number): void {
    this.#pending.atOnce = (bits & 1) === 0;
    this.#failing = (bits & 2) !== 0;
  }

  finish(which: number): void {
    this.#pending.finish(which);
  }

  settleAll(): void {
    this.settle();
  }

  read(
    offset: number,
    chain: Chain,
    at: number,
    length: number,
    done: (ok: boolean) => void,
  ): void {
    must(length > 0 && offset >= 0 && offset + length <= this.size, `disc: ${offset}+${length}`);
    checkSpans(this.#memory, chain, true, at, length);
    this.#pending.add(() => {
      const ok = !this.#failing;
      if (ok) chain.write(at, new Uint8Array(length).fill(offset >> 11));
      done(ok);
    });
  }

  settle(): void {
    this.#pending.all();
  }

  abandon(): void {
    this.#pending.clear();
  }
}

export class FuzzBalloon implements BalloonBackend, FuzzBackend {
  readonly #memory: GuestMemory;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  reset(): void {}

  discard(address: number, length: number): void {
    must(address % 4096 === 0 && length > 0 && length % 4096 === 0, `${address}+${length}: pages`);
    must(this.#memory.contains(address, length), `0x${address.toString(16)}+${length} is no RAM`);
    this.#memory.fill(address, length, 0);
  }
}

/** Answers every request with as many bytes as the input says. */
export class FuzzShare implements NinePBackend, FuzzBackend {
  gone = false;
  readonly #pending: Uint8Array[] = [];
  #replies: Uint8Array[] = [];
  #size = 11;
  #atOnce = true;

  reset(): void {
    this.gone = false;
    this.#size = 11;
    this.#atOnce = true;
  }

  mode(bits: number): void {
    this.#atOnce = (bits & 1) === 0;
    this.#size = 7 + (bits >> 1);
  }

  finish(which: number): void {
    const { length } = this.#pending;
    if (length > 0) this.#replies.push(...this.#pending.splice(which % length, 1));
  }

  settleAll(): void {
    this.#replies.push(...this.#pending.splice(0));
  }

  /** A server answers everything, if to nobody, or is gone for good. */
  get owes(): boolean {
    return this.gone || this.#replies.length > 0;
  }

  /** It answers nothing any more. */
  leave(): void {
    this.gone = true;
    this.#pending.length = 0;
    this.#replies = [];
  }

  get ready(): boolean {
    return this.#pending.length < 16;
  }

  send(request: Uint8Array): void {
    must(request.length >= 7 && request.length <= 2 ** 20, `a request of ${request.length} bytes`);
    const said = new DataView(request.buffer, request.byteOffset).getUint32(0, true);
    must(said === request.length, `a request of ${request.length} bytes that says ${said}`);
    const reply = new Uint8Array(Math.max(11, this.#size));
    new DataView(reply.buffer).setUint32(0, reply.length, true);
    reply[4] = request[4] + 1;
    reply[5] = request[5];
    reply[6] = request[6];
    if (this.#atOnce) this.#replies.push(reply);
    else this.#pending.push(reply);
  }

  receive(take: (reply: Uint8Array) => void): boolean {
    const replies = this.#replies;
    this.#replies = [];
    for (const reply of replies) take(reply);
    return this.#replies.length > 0;
  }

  wait(): void {
    this.settleAll();
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
